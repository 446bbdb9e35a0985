"""Changing a link: the same as ``dataclasses.replace``, whatever is changed, and the one before stays as it is."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from bsfg.core.changing import changed
from bsfg.core.link_state import Link, LinkSettings, Phase, SenderWord
from bsfg.model.cursor import LinkName, parse_init_mode
from bsfg.model.names import StreamName, ZoneId


def link() -> Link:
    name = LinkName(ZoneId("enterprise"), StreamName("facts.operational"))
    return Link(name, LinkSettings(parse_init_mode("full_backfill")))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ticket": 7},
        {"fetch": None, "word": SenderWord(3, 0, 1, None, 0)},
        {"phase": Phase.HALTED, "failures": 2, "rounds": 9, "flights": ()},
    ],
)
def test_a_changed_link_is_the_one_that_the_constructor_would_make(changes: dict[str, object]) -> None:
    before = link()
    kept = dataclasses.replace(before)
    after = changed(before, **changes)
    assert after == dataclasses.replace(before, **changes)
    assert after is not before
    assert before == kept
    assert changed(after, ticket=8).ticket == 8
    assert pickle.loads(pickle.dumps(after)) == after


def test_a_link_can_be_changed_in_no_other_way() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        link().ticket = 3  # type: ignore[misc]
