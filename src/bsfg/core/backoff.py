"""Delays between attempts: they double, they are capped, and chance spreads them (I29)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """The first delay and the cap, in seconds."""

    delay_seconds_min: float = 0.2
    delay_seconds_max: float = 8.0

    def delay(self, attempt: int, chance: float) -> float:
        """Seconds before the attempt after ``attempt`` failures in a row; ``chance`` is random in [0, 1).

        Half of the delay is fixed and half is chance, so that many links that failed together don't return together.
        """
        assert attempt >= 1 and 0.0 <= chance < 1.0
        full = min(self.delay_seconds_max, self.delay_seconds_min * 2.0 ** min(attempt - 1, 30))
        return full * (0.5 + 0.5 * chance)
