"""How a run of stored messages is read back as facts: the quick way and the slow way say the same."""

from __future__ import annotations

from typing import Final

import pytest

from bsfg.model.cursor import LinkName
from bsfg.model.moment import parse_time
from bsfg.model.names import StreamName, ZoneId
from bsfg.substrates.held_pages import HeldPage, PageReading, joined, places_of
from bsfg.substrates.nats_frames import FrameParser, Messages

LINK: Final = LinkName(ZoneId("enterprise"), StreamName("facts.operational"))
SUBJECT: Final = "in.enterprise.facts.operational.g1.test"
EPOCH: Final = "0123456789abcdef"
TIME: Final = "2026-11-28T19:50:00.000000001Z"
LAST: Final = 1_000


def origin(sequence: int, *, epoch: str = EPOCH, time: str = TIME, before: str = "", behind: str = "") -> str:
    line = f"Bsfg-Origin: enterprise facts.operational {epoch} {sequence} {time}\r\n"
    return f"NATS/1.0\r\n{before}{line}{behind}\r\n"


def messages(*rows: tuple[int, str], subject: str = SUBJECT, payload: bytes = b"{}") -> list[Messages]:
    """Messages at these local sequences with these raw headers, as a consumer delivers them."""
    frames = b""
    for number, (place, header) in enumerate(rows, 1):
        reply = f"$JS.ACK.in_x.c.1.{place}.{number}.1764359400000000000.{len(rows) - number}"
        sizes = f"{len(header)} {len(header) + len(payload)}" if header else str(len(payload))
        operation = "HMSG" if header else "MSG"
        frames += f"{operation} {subject} 5 {reply} {sizes}\r\n{header}".encode() + payload + b"\r\n"
    return [run for _, run in FrameParser().feed(frames).runs]


def read(*runs: Messages, last: int = LAST) -> HeldPage:
    """Twice: the first look learns the subjects, so that the second can go the quick way."""
    reading = PageReading(LINK, 1, EPOCH, frozenset({"f" * 16}))
    (run,) = runs
    before, again = reading.page(run, last), reading.page(run, last)
    assert before == again
    copies = reading.copies(run, last)
    assert copies == PageReading(LINK, 1, EPOCH, frozenset({"f" * 16})).copies(run, last)
    assert copies.facts.times == [parse_time(TIME)] * len(again.facts)
    assert (copies.facts.sequences, copies.facts.headers) == (again.facts.sequences, again.facts.headers)
    return again


def test_facts_are_told_by_their_coordinates_and_places() -> None:
    plain = [
        (place, origin(place + 10, before=f"Nats-Expected-Last-Sequence: {place}\r\n")) for place in (4, 5, 6)
    ]
    page = read(*messages(*plain))
    assert (page.facts.sequences, page.facts.times, page.through) == ([14, 15, 16], [4, 5, 6], 6)
    assert set(page.facts.subjects) == {"facts.operational.test"}
    assert not page.foreign


@pytest.mark.parametrize("places", [(4, 6, 7), (4, 5, 9), (4, 5, 6)])
def test_a_place_is_that_of_the_message_with_holes_or_without(places: tuple[int, ...]) -> None:
    page = read(*messages(*((place, origin(place)) for place in places)))
    assert page.facts.times == page.facts.sequences == list(places)


def test_subjects_are_looked_at_one_by_one_where_they_differ() -> None:
    one, two = messages((4, origin(4)), (5, origin(5))), messages((6, origin(6)), subject=SUBJECT + ".more")
    page = read(*joined([*one, *two]))
    assert page.facts.subjects == ["facts.operational.test"] * 2 + ["facts.operational.test.more"]
    assert page.facts.times == [4, 5, 6]


def test_what_lies_behind_the_end_is_left_out() -> None:
    page = read(*messages((4, origin(4)), (5, origin(5)), (6, origin(6))), last=5)
    assert (page.facts.sequences, page.through) == ([4, 5], 5)


@pytest.mark.parametrize(
    "header",
    [
        origin(5, time="yesterday"),
        origin(5, behind=origin(6).split("\r\n", 1)[1]),
        origin(5, epoch="a" * 16),
        origin(5, behind=origin(6).split("\r\n", 1)[1].strip() + "\r\n"),
        "NATS/1.0\r\nNats-A: x\nBsfg-Origin: enterprise facts.operational " + f"{EPOCH} 5 {TIME}\r\n\r\n",
        "NATS/1.0\r\nX: y\r\n\r\n",
    ],
)
def test_what_bears_no_coordinates_of_ours_is_foreign(header: str) -> None:
    page = read(*messages((4, origin(4)), (5, header), (6, origin(6))))
    assert ([each.local_sequence for each in page.foreign], page.facts.sequences) == ([5], [4, 6])


def test_facts_of_an_earlier_epoch_are_counted() -> None:
    page = read(*messages((4, origin(900, epoch="f" * 16)), (5, origin(5))))
    assert (page.of_earlier_epochs, page.facts.sequences) == (1, [5])


def test_a_producers_header_is_a_part_of_the_fact() -> None:
    page = read(*messages((4, origin(4)), (5, origin(5, before="Nats-A: b\r\n", behind="Tone: c\r\n"))))
    assert page.facts.headers == [b"", b"Tone: c\r\n"]
    page = read(*messages((4, origin(4)), (5, origin(5, behind="Bsfg-Message-Id: a-1\r\nNats-B: c\r\n"))))
    assert page.facts.headers == [b"", b"Nats-Msg-Id: a-1\r\n"]


def test_a_value_that_looks_like_the_beginning_of_a_header_is_a_value() -> None:
    page = read(*messages((4, origin(4)), (5, origin(5, before="Tone: NATS/1.0\r\n"))))
    assert page.facts.headers == [b"", b"Tone: NATS/1.0\r\n"]


def test_runs_are_joined_as_far_as_their_kind_allows() -> None:
    runs = messages((4, origin(4))) + messages((5, origin(5))) + messages((6, "")) + messages((7, origin(7)))
    found = joined(runs)
    assert [len(run) for run in found] == [2, 1, 1]
    assert [(places_of(run).first, places_of(run).last) for run in found] == [(4, 5), (6, 6), (7, 7)]
    assert [each.local_sequence for each in read(found[1]).foreign] == [6]
