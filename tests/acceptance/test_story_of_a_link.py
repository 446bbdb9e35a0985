"""A link whose step stands still: named within two minutes, in one story, while the other links go on (I24, I26)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.support.lab_zones import ENTERPRISE, Lab, Zone, eventually
from tests.support.stories import Pages, Story, told

from bsfg.daemon import failpoints

PASSAGE: Final = 20
"""By then every link is level and waits at its peer."""
STREAMS: Final = ("facts.operational", "facts.batch_completed", "facts.audit")


def stalled(zone: Zone) -> list[str]:
    """The streams of the links that the scrape calls stalled."""
    return [
        sample.labels["stream"]
        for family in text_string_to_metric_families(zone.local("/metrics")[1])
        for sample in family.samples
        if sample.name == "bsfg_link_state" and sample.labels["state"] == "stalled" and sample.value
    ]


@contextmanager
def frozen_link(lab: Lab) -> Iterator[None]:
    """The gateway starts anew; soon afterwards one of its links never comes back from a step."""
    lab.plant.stop_gateway()
    os.environ[failpoints.VARIABLE] = f"fetch.frozen:{PASSAGE}"
    try:
        lab.plant.start_gateway()
    finally:
        del os.environ[failpoints.VARIABLE]
    lab.healthy()
    yield


FROZEN: Final = Story(
    "frozen link", frozen_link, 110, "bsfg_link_state", {"state": "stalled"}, lambda value: value == 1,
    "BsfgLinkStalled", 0, "stalled", "stalled",
)  # fmt: skip


class LatePages(Pages):
    """Logs in when it is first asked: the gateway that it logs in to is the one that the story starts."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone

    def text(self) -> str:
        super().__init__(self._zone)
        return super().text()


@pytest.mark.slow
def test_a_frozen_link_is_named_and_an_operator_sets_it_going(lab: Lab, tmp_path: Path) -> None:
    plant = lab.plant
    lab.level()
    told(FROZEN, lab, LatePages(plant), tmp_path)
    (frozen,) = stalled(plant)
    # The log is told by who looks through the links now and then, the views by who asks.
    eventually(
        "the log names it",
        10,
        lambda: any(line["event"] == "link_stalled" and line["stream"] == frozen for line in plant.log()),
    )

    # The others never noticed.
    other = next(stream for stream in STREAMS if stream not in (frozen, "facts.audit"))
    head = lab.enterprise.append(other, b"{}")["last_sequence"]
    eventually(
        "facts of another link arrive", 10, lambda: (plant.cursor(stream=other)["sequence"] or 0) >= head
    )
    assert stalled(plant) == [frozen]

    plant.ask("fetch", "--peer", ENTERPRISE, "--stream", frozen)
    eventually("the link is level again", 10, lambda: plant.cursor(stream=frozen)["state"] == "level")
    assert stalled(plant) == []
