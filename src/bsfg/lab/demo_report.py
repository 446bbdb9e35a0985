"""What the demo says: one line of text for each line of the demo, or everything as JSON."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from bsfg.lab import program
from bsfg.lab.homes import ENTERPRISE, PLANT_A
from bsfg.lab.processes import LabZone

TITLE_COLUMNS: Final = 37
SUMMARY_COLUMNS: Final = 50


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"


_MARKS: Final = {Outcome.PASSED: "✓", Outcome.FAILED: "✗", Outcome.NOT_RUN: "-"}


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one line of the demo."""

    id: str
    title: str
    outcome: Outcome
    summary: str
    """The key evidence, or why the line failed or was not run."""
    seconds: float
    evidence: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "title": self.title,
            "outcome": self.outcome.value,
            "summary": self.summary,
            "seconds": round(self.seconds, 3),
            "evidence": self.evidence,
        }

    def as_lines(self) -> list[str]:
        """One line of at most 100 columns; a reason that is longer goes on below."""
        head = f"{_MARKS[self.outcome]} {self.title:<{TITLE_COLUMNS}}"
        took = f"{self.seconds:>5.1f} s" if self.outcome is not Outcome.NOT_RUN else ""
        if self.outcome is Outcome.FAILED or len(self.summary) > SUMMARY_COLUMNS:
            return [f"{head} {self.outcome.value:<{SUMMARY_COLUMNS}} {took}".rstrip(), f"    {self.summary}"]
        return [f"{head} {self.summary:<{SUMMARY_COLUMNS}} {took}".rstrip()]


def summary_line(results: list[Result], seconds: float) -> str:
    counts = {outcome: sum(result.outcome is outcome for result in results) for outcome in Outcome}
    parts = [f"{counts[Outcome.PASSED]} of {len(results)} hold"]
    parts += [
        f"{counts[outcome]} {outcome.value}"
        for outcome in (Outcome.FAILED, Outcome.NOT_RUN)
        if counts[outcome]
    ]
    return f"{', '.join(parts)}; {seconds:.1f} s"


def ways_to_play(directory: Path, zones: dict[str, LabZone]) -> list[str]:
    """How to look around in a lab that stays up, in the runbook's words with this lab's addresses."""
    plant, enterprise = zones[PLANT_A.zone], zones[ENTERPRISE.zone]
    bsfg = shlex.quote(program.shown_program())
    home = f"--home {shlex.quote(str(plant.home))}"
    link = f"--peer {ENTERPRISE.zone} --stream facts.operational"
    certs = {
        name: shlex.quote(str(plant.home / "certs" / name)) for name in ("ca.crt", "server.crt", "server.key")
    }
    as_plant = f"--cert {certs['server.crt']} --key {certs['server.key']}"
    curl = f"curl --cacert {certs['ca.crt']}"
    return [
        f"{curl} {as_plant} https://{enterprise.endpoint}/health",
        f"{curl} {as_plant} https://{enterprise.endpoint}/v1/streams",
        f"{curl} https://{enterprise.endpoint}/health   # refused: no certificate",
        f"echo | openssl s_client -connect {enterprise.endpoint} -servername {ENTERPRISE.identity} 2>/dev/null"
        " | openssl x509 -noout -subject -ext subjectAltName",
        f"openssl x509 -in {certs['server.crt']} -noout -subject -dates",
        f"{bsfg} status {home}",
        f"{bsfg} cursor query {link} {home}",
        f"{bsfg} read --stream facts.operational --peer {ENTERPRISE.zone} --follow {home}",
        f"echo '{{\"hello\":1}}' | {bsfg} append --stream facts.operational --home {shlex.quote(str(enterprise.home))}",
        f"{bsfg} admin partition --peer {ENTERPRISE.zone} --reason drill {home}",
        f"{bsfg} admin reconcile --peer {ENTERPRISE.zone} {home}",
        f"{bsfg} lab down --dir {shlex.quote(str(directory))}",
    ]
