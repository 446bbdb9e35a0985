"""The targets of ``make fuzz`` in short, and that a rule which is broken is noticed."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz import targets
from tests.fuzz.seeds import LIES, PAGE, SEEDS
from tests.fuzz.targets import REQUEST, TARGETS, sealed

from bsfg.errors import BsfgError
from bsfg.model.page import FetchRequest, Page
from bsfg.substrates.nats_frames import FrameParser, Parsed
from bsfg.transport import page_codec
from bsfg.transport.page_codec import decode, encode, encode_json


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_keeps_the_rules(name: str) -> None:
    assert SEEDS[name]
    for seed in SEEDS[name]:
        TARGETS[name](seed)


def test_honest_pages_are_taken_and_lies_are_not() -> None:
    assert decode(encode(PAGE), REQUEST) == [PAGE]
    for page in LIES:
        with pytest.raises(BsfgError):
            decode(encode(page), REQUEST)


@pytest.mark.parametrize("name", TARGETS)
@given(st.binary(max_size=400))
def test_any_bytes_keep_the_rules(name: str, raw: bytes) -> None:
    TARGETS[name](raw)


@pytest.mark.parametrize("name", TARGETS)
@given(st.data())
def test_damaged_seeds_keep_the_rules(name: str, data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from([seed for seed in SEEDS[name] if len(seed) < 4_000])))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, max(0, len(raw) - 1)))
        raw[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    TARGETS[name](bytes(raw))


def _takes_anything(page: Page, request: FetchRequest) -> Page:
    return page


def test_a_decoder_that_checks_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_codec, "validate_page", _takes_anything)
    noticed = 0
    for page in LIES:
        try:
            targets.binary_page(b"\x00" + encode(page))
        except AssertionError:
            noticed += 1
    assert noticed >= len(LIES) - 1, "all but a time, which nothing else rests on"


def test_a_json_decoder_that_checks_nothing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_codec, "validate_page", _takes_anything)
    with pytest.raises(AssertionError):
        targets.json_page(encode_json(LIES[0]))


def test_inflating_without_a_limit_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    inflate = targets.inflate
    monkeypatch.setattr(targets, "inflate", lambda body, bytes_max: inflate(body, 2**30))
    with pytest.raises(AssertionError):
        targets.compressed_page(SEEDS["compressed_page"][-3])


def test_a_parser_that_minds_where_it_is_cut_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = FrameParser.feed

    def forgets_what_it_held(self: FrameParser, chunk: bytes) -> Parsed:
        self._held.clear()
        self._held_bytes = 0
        return feed(self, chunk)

    monkeypatch.setattr(FrameParser, "feed", forgets_what_it_held)
    with pytest.raises(AssertionError):
        targets.nats_frames(SEEDS["nats_frames"][1])


def test_another_error_than_a_bad_answer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise KeyError("a fault of ours")

    monkeypatch.setattr(page_codec, "validate_page", fails)
    with pytest.raises(KeyError):
        targets.binary_page(b"\x00" + encode(PAGE))


def test_a_sealed_body_reaches_what_lies_behind_the_checksum() -> None:
    body = encode(PAGE)[page_codec.FRAME_HEADER_BYTES :]
    assert sealed(body) == encode(PAGE)
    assert zlib.crc32(body) == int.from_bytes(sealed(body)[12:16], "big")
