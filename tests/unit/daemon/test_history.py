"""Rates and lines of the last minutes, out of samples."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from bsfg.daemon.history import RATE_SAMPLES, SAMPLE_SECONDS, History
from bsfg.daemon.system import SystemClock
from bsfg.model.cursor import LinkName
from bsfg.model.names import StreamName, ZoneId

ENTERPRISE = ZoneId("enterprise")
ORDERS, AUDIT = (LinkName(ENTERPRISE, StreamName(stream)) for stream in ("facts.orders", "facts.audit"))


@dataclass
class House:
    """Links by what they have appended and how far they are behind."""

    links: dict[LinkName, tuple[int, int | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.history = History(SystemClock(), self.drivers, list, lambda driver: self.links[driver.name][1])

    def drivers(self) -> list[Any]:
        return [
            SimpleNamespace(name=name, link=SimpleNamespace(facts_appended=appended))
            for name, (appended, _) in self.links.items()
        ]

    def sample(self, **appended: tuple[int, int | None]) -> None:
        names = {"orders": ORDERS, "audit": AUDIT}
        self.links = {names[stream]: counts for stream, counts in appended.items()}
        self.history.sample()


def test_a_rate_is_the_mean_over_the_last_samples() -> None:
    house = House()
    house.sample(orders=(100, 0))
    assert house.history.rate(ORDERS) is None
    house.sample(orders=(300, 0))
    assert house.history.rate(ORDERS) == 200 / SAMPLE_SECONDS
    for number in range(RATE_SAMPLES):
        house.sample(orders=(1_000 + 10 * number, 0))
    assert house.history.rate(ORDERS) == 10 / SAMPLE_SECONDS
    assert house.history.rate(AUDIT) is None


@pytest.mark.parametrize("between", [{"orders": (5, 0)}, {}], ids=["counts anew", "was gone"])
def test_a_link_that_began_anew_has_its_rate_from_there(between: dict[str, tuple[int, int | None]]) -> None:
    house = House()
    house.sample(orders=(1_000, 0))
    house.sample(**between)
    house.sample(orders=(9, 0))
    later = house.history.rate(ORDERS)
    house.sample(orders=(13, 0))
    assert later == (4 / SAMPLE_SECONDS if between else None)
    assert house.history.rate(ORDERS) == 4 / SAMPLE_SECONDS


def test_a_peers_lag_is_the_largest_that_is_known() -> None:
    house = House()
    house.sample(orders=(1, None), audit=(2, None))
    house.sample(orders=(1, 7), audit=(2, None))
    house.sample(orders=(1, 7), audit=(2, 9))
    house.sample(orders=(1, 9), audit=(2, 7))
    lines = house.history.series()["peers"][ENTERPRISE]
    assert lines["lag"] == [None, 7, 9, 9]
