"""What a scenario did and what came of it, for people and for the test that reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.faults.judge import Verdict


@dataclass
class Report:
    """One scenario's outcome; it has failed as soon as anything is wrong."""

    name: str
    seed: int
    happened: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        return not self.wrong

    def add_verdicts(self, verdicts: Mapping[str, Verdict]) -> None:
        for place, verdict in verdicts.items():
            self.notes.append(f"{place}: {verdict}")
            if not verdict.is_exact:
                self.wrong.append(f"{place}: {verdict}")

    def lines(self) -> list[str]:
        counts = [f"  {count:6} {name}" for name, count in sorted(self.happened.items())]
        verdict = "exact" if self.is_good else "WRONG: " + "; ".join(self.wrong)
        return [f"{self.name}, seed {self.seed}:", *counts, *(f"  {note}" for note in self.notes), f"  {verdict}"]
