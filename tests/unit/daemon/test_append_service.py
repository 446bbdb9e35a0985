"""Lines into a real stream: what a line is, what is said of a bad one, and what is stored before it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import CapturingLogger
from tests.support.local_appends import Edge, open_edge
from tests.support.nats import NatsServer, running_nats
from tests.support.patience import patience
from tests.unit.cli.canned import CannedOperations

from bsfg.config.values import StreamConfig
from bsfg.daemon import append_service
from bsfg.daemon.append_service import ENVELOPE_BYTES_MAX, AppendService
from bsfg.daemon.input_lines import AHEAD_BYTES_MAX, PAGE_LINES_MAX, InputLines
from bsfg.daemon.local_api import build_local_application
from bsfg.daemon.local_listeners import serve_unix
from bsfg.daemon.telemetry import LOG_EVENTS
from bsfg.errors import BsfgError, Code
from bsfg.model.fact import PAYLOAD_BYTES_MAX, header_pairs
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.page import PageLimits
from bsfg.substrates.control import Control
from bsfg.substrates.provisioning import provision_local
from bsfg.substrates.stream_configs import StreamSpec

STREAM = StreamName("facts.orders")
NAME = "facts_orders"
LIMIT = 1_000_000


class Zone:
    """A zone's edge with its service."""

    def __init__(self, edge: Edge, control: Control) -> None:
        self.edge, self.control = edge, control
        self.log = CapturingLogger()
        streams = [StreamConfig(STREAM, None, LIMIT)]
        self.service = AppendService(edge.appends, control, structlog.wrap_logger(self.log), lambda: streams)
        self.guarded = 0

    @contextlib.asynccontextmanager
    async def storing(self) -> AsyncIterator[None]:
        self.guarded += 1
        yield

    async def append(self, *pieces: bytes, envelope: bool = False, subject: str | None = None) -> dict[str, Any]:
        return await self.service.append_lines(
            STREAM, arriving(*pieces), subject=subject, is_envelope=envelope, storing=self.storing
        )

    async def stored(self) -> list[bytes]:
        found = await self.edge.exported.read(STREAM, 0, PageLimits(10_000, 64 * 1024 * 1024))
        return [fact.payload for fact in found.facts]


async def arriving(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_nats(tmp_path, extra="max_payload: 2MB") as running:
        yield running


@pytest.fixture
async def zone(server: NatsServer, tmp_path: Path) -> AsyncIterator[Zone]:
    control = await Control.open(server.target, name="test")
    spec = StreamSpec(STREAM, None, None)
    await provision_local(control, ZoneId("plant-a"), [spec], replicas=1, epoch_began=lambda *_: None)
    async with open_edge(server, control, tmp_path / "ids") as edge:
        yield Zone(edge, control)
    await control.close()


def envelope(**fields: Any) -> bytes:
    return json.dumps(fields).encode() + b"\n"


# Payload lines


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_each_lines_bytes_are_a_fact_and_blank_ones_are_none(zone: Zone, size: int) -> None:
    text = b'{"a": 1}\n\n  \r\nnot json \r\n\xff\x00{"\xc3\xa4"}\n\nlast'
    result = await zone.append(*[text[at : at + size] for at in range(0, len(text), size)], subject="t")
    assert result == {"appended": 4, "first_sequence": 1, "last_sequence": 4, "duplicates": 0}
    assert await zone.stored() == [b'{"a": 1}', b"not json \r", b'\xff\x00{"\xc3\xa4"}', b"last"]
    fact = await zone.edge.exported.fact_at(STREAM, 2)
    assert fact is not None
    assert fact.subject == f"{STREAM}.t"


async def test_nothing_is_nothing_to_do(zone: Zone) -> None:
    nothing = {"appended": 0, "first_sequence": None, "last_sequence": None, "duplicates": 0}
    assert await zone.append() == await zone.append(b"\n\n") == nothing


async def test_ten_thousand_lines_keep_their_order(zone: Zone) -> None:
    lines = [b"%d" % number for number in range(10_000)]
    text = b"\n".join(lines)
    result = await zone.append(*[text[at : at + 5_000] for at in range(0, len(text), 5_000)])
    assert result["appended"] == 10_000
    assert await zone.stored() == lines
    assert zone.guarded


async def test_a_subject_that_can_not_be_is_refused_before_anything(zone: Zone) -> None:
    with pytest.raises(BsfgError, match="can't follow"):
        await zone.append(b"x\n", subject="a.*")
    with pytest.raises(BsfgError, match="its own subject"):
        await zone.append(b"x\n", subject="a", envelope=True)
    assert await zone.stored() == []


@pytest.mark.parametrize("before", [1, 20, 2500])
@pytest.mark.parametrize("length", [PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MAX + 1])
async def test_a_line_that_is_too_long_ends_the_input(zone: Zone, before: int, length: int) -> None:
    pieces = (b"good\n" * before, b"x" * length, b"\nlater\n")
    if length == PAYLOAD_BYTES_MAX:
        assert (await zone.append(*pieces))["appended"] == before + 2
        return
    with pytest.raises(BsfgError, match=f"line {before + 1}: the line is longer than 1048576 bytes") as raised:
        await zone.append(*pieces)
    assert raised.value.code is Code.TOO_LARGE
    assert raised.value.details["lines"] == [before + 1, before + 1]
    assert raised.value.details["appended"] == before
    assert await zone.stored() == [b"good"] * before


async def test_a_line_without_end_is_not_kept(zone: Zone) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            await asyncio.sleep(0)
            yield b"x" * 65_536

    with pytest.raises(BsfgError, match="line 1: the line is longer"):
        async with asyncio.timeout(10 * patience()):
            await zone.service.append_lines(
                STREAM, endless(), subject=None, is_envelope=False, storing=zone.storing
            )
    assert taken <= PAYLOAD_BYTES_MAX / 65_536 + 1


async def test_an_input_that_breaks_off_leaves_its_whole_lines(zone: Zone) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"whole\nhal"
        raise ConnectionResetError("the producer is gone")

    with pytest.raises(BsfgError, match="broke off") as raised:
        await zone.service.append_lines(STREAM, broken(), subject=None, is_envelope=False, storing=zone.storing)
    assert raised.value.details["appended"] == 1
    assert await zone.stored() == [b"whole"]


@pytest.mark.parametrize("ending", [b"", b"0\r\n\r\n"], ids=["broken off", "in order"])
async def test_a_producer_that_dies_leaves_no_half_line(zone: Zone, tmp_path: Path, ending: bytes) -> None:
    operations = CannedOperations()
    ended = asyncio.Event()

    async def append_lines(_stream: str, pieces: AsyncIterator[bytes], *_others: Any) -> dict[str, Any]:
        try:
            return await zone.service.append_lines(
                STREAM, pieces, subject=None, is_envelope=False, storing=zone.storing
            )
        finally:
            ended.set()

    operations.append_lines = append_lines  # type: ignore[method-assign,assignment]
    server = await serve_unix(build_local_application(operations), tmp_path / "run")
    _, writer = await asyncio.open_unix_connection(str(tmp_path / "run" / "bsfg.sock"))
    head = b"POST /v1/append/ndjson?stream=s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head + b"9\r\none\ntwo\nt\r\n" + ending)
    await asyncio.sleep(0.2)
    writer.close()
    await asyncio.wait_for(ended.wait(), 10 * patience())
    assert await zone.stored() == [b"one", b"two"] + [b"t"] * bool(ending)
    await server.close()


@pytest.mark.parametrize("first", [1, 40])
async def test_a_producer_that_pauses_finds_its_lines_stored(zone: Zone, first: int) -> None:
    async def pausing() -> AsyncIterator[bytes]:
        yield b"early\n" * first + b"lat"
        async with asyncio.timeout(5 * patience()):
            while await zone.stored() != [b"early"] * first:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        yield b"e\n"

    await zone.service.append_lines(STREAM, pausing(), subject=None, is_envelope=False, storing=zone.storing)
    assert await zone.stored() == [b"early"] * first + [b"late"]


async def test_a_full_stream_names_the_first_line_that_is_not_in(zone: Zone) -> None:
    config = (await zone.control.api(f"STREAM.INFO.{NAME}"))["config"]
    await zone.control.api(f"STREAM.UPDATE.{NAME}", config | {"max_bytes": LIMIT})
    lines = [b"%500d" % number for number in range(3000)]
    with pytest.raises(BsfgError) as raised:
        await zone.append(*[line + b"\n" for line in lines])
    assert re.match(r"lines \d+-\d+: .*maximum bytes", raised.value.message)
    stored = await zone.stored()
    details = raised.value.details
    assert raised.value.code is Code.LOCAL_FULL
    assert (details["appended"], details["lines"][0]) == (len(stored), len(stored) + 1)
    assert stored == lines[: len(stored)]
    assert stored


# Envelopes


async def test_an_envelope_carries_subject_id_headers_and_payload(zone: Zone) -> None:
    lines = [
        envelope(subject="created", message_id="1", headers=[["A", "b"], ["A", "c"]], data="ä"),
        envelope(data_base64="/w=="),
        b" \n",
        envelope(data="", subject=None),
    ]
    assert (await zone.append(*lines, envelope=True))["appended"] == 3
    assert await zone.stored() == ["ä".encode(), b"\xff", b""]
    fact = await zone.edge.exported.fact_at(STREAM, 1)
    assert fact is not None
    assert fact.subject == f"{STREAM}.created"
    assert header_pairs(fact.headers) == [("A", "b"), ("A", "c"), ("Nats-Msg-Id", "1")]


async def test_envelopes_again_are_the_facts_that_are_there(zone: Zone) -> None:
    lines = [envelope(message_id=str(number), data=str(number)) for number in range(2500)]
    assert (await zone.append(*lines, envelope=True))["appended"] == 2500
    again = {"appended": 0, "first_sequence": 1, "last_sequence": 2500, "duplicates": 2500}
    assert await zone.append(*lines, envelope=True) == again


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 3: not an envelope"),
        (b"[" * 100_000, "line 3: not an envelope"),
        (b"[]", "line 3: not an envelope"),
        (b"\xff", "line 3: not an envelope"),
        (b"{}", "line 3: it needs data or data_base64, and not both"),
        (b'{"data": "x", "data_base64": "eA=="}', "line 3: it needs data or data_base64, and not both"),
        (b'{"data": 7}', r"line 3: not an envelope: Expected `str \| null`, got `int`"),
        (b'{"data": "\\ud800"}', "line 3: "),
        (b'{"data_base64": "e!A="}', "line 3: data_base64 is not base64"),
        (b'{"data": "x", "headers": {"a": "b"}}', "line 3: not an envelope"),
        (b'{"data": "x", "headers": [["a", 1]]}', "line 3: not an envelope"),
        (b'{"data": "x", "headers": [["Nats-Rollup", "all"]]}', "line 3: the header 'Nats-Rollup' is reserved"),
        (b'{"data": "x", "subject": ["a"]}', "line 3: not an envelope"),
        (b'{"data": "x", "subject": "a.>"}', "line 3: 'a.>' can't follow"),
        (b'{"data": "x", "message_id": "a\\r\\nB: c"}', "line 3: a header's name or value"),
        (b'{"data": "x", "sequence": 1}', "line 3: not an envelope: Object contains unknown field `sequence`"),
    ],
)
@pytest.mark.parametrize("before", [b'{"data": "one"}', b'{"data": "one", "message_id": "1"}'])
async def test_a_bad_envelope_names_its_line(zone: Zone, before: bytes, line: bytes, message: str) -> None:
    with pytest.raises(BsfgError, match=f"^{message}") as raised:
        await zone.append(before + b"\n\n" + line + b'\n{"data": "never"}\n', envelope=True)
    assert raised.value.code in (Code.INVALID_REQUEST, Code.UNKNOWN_FIELD)
    assert raised.value.details["lines"] == [3, 3]
    assert raised.value.details["appended"] == 1
    assert await zone.stored() == [b"one"]


async def test_a_conflict_names_its_line_and_the_original(zone: Zone) -> None:
    lines = [envelope(message_id="a", data="1"), b"\n", envelope(data="2"), envelope(message_id="a", data="3")]
    with pytest.raises(BsfgError) as raised:
        await zone.append(*lines, envelope(data="4"), envelope=True)
    assert re.match("line 4: .*'a' stands for other content, at sequence 1", raised.value.message)
    details = raised.value.details
    assert (details["lines"], details["message_id"], details["original_sequence"]) == ([4, 4], "a", 1)
    assert await zone.stored() == [b"1", b"2"]


async def test_the_largest_envelope_is_taken(zone: Zone) -> None:
    line = b'{"data": "' + b"\\u0000" * PAYLOAD_BYTES_MAX + b'"}\n'
    assert len(line) < ENVELOPE_BYTES_MAX
    assert (await zone.append(line, envelope=True))["appended"] == 1
    with pytest.raises(BsfgError, match="line 1: the line is longer"):
        await zone.append(b" " * (ENVELOPE_BYTES_MAX + 1) + b"\n", envelope=True)


# JSON


@pytest.mark.parametrize(
    ("fact", "message"),
    [
        ({}, "fact 2: it needs data or data_base64"),
        ({"data": 7}, "fact 2: "),
        ({"data": "x", "other": 1}, "fact 2: unknown field 'other'"),
        ({"data": "x", "headers": [["a"]]}, "fact 2: "),
        ({"data_base64": "%"}, "fact 2: data_base64 is not base64"),
    ],
)
async def test_a_call_with_a_bad_fact_stores_nothing(zone: Zone, fact: dict[str, Any], message: str) -> None:
    with pytest.raises(BsfgError, match=f"append: {message}") as raised:
        await zone.service.append(STREAM, [{"data": "good"}, fact])
    assert raised.value.details["index"] == 2
    assert await zone.stored() == []


async def test_a_call_is_idempotent_too(zone: Zone) -> None:
    fact = {"data_base64": "/w==", "message_id": "m", "headers": [["A", "1"]], "subject": "x"}
    assert (await zone.service.append(STREAM, [fact]))["appended"] == 1
    again = {"appended": 0, "first_sequence": 1, "last_sequence": 1, "duplicates": 1}
    assert await zone.service.append(STREAM, [fact]) == again


# How full


async def test_a_stream_that_fills_is_warned_of_once_each_time(
    zone: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(append_service, "FILL_SECONDS", 0.02)
    assert "store_filling" in LOG_EVENTS
    watching = asyncio.create_task(zone.service.watch_fill())
    try:
        for _ in range(2):
            warned = len(zone.log.calls)
            await zone.append(b"x" * 740_000 + b"\n")
            await asyncio.sleep(0.2)
            assert len(zone.log.calls) == warned
            await zone.append(b"x" * 100_000 + b"\n")
            await asyncio.sleep(0.2)
            assert len(zone.log.calls) == warned + 1
            assert "store_filling" in str(zone.log.calls[-1])
            assert "84% of its max_bytes" in str(zone.log.calls[-1])
            await zone.control.api(f"STREAM.PURGE.{NAME}")
            await asyncio.sleep(0.1)
    finally:
        watching.cancel()


# Reading ahead


async def test_no_more_is_read_ahead_than_the_limit() -> None:
    given = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal given
        for _ in range(1000):
            given += 65_536
            yield b"x" * 65_535 + b"\n"
            await asyncio.sleep(0)

    async with InputLines(source(), PAYLOAD_BYTES_MAX) as lines:
        await asyncio.sleep(0.2)
        assert given <= AHEAD_BYTES_MAX + 2 * 65_536
        count = 0
        while (page := await lines.take(None)) is not None:
            count += len(page)
        assert count == 1000


async def test_while_something_is_under_way_only_full_pages_are_taken() -> None:
    busy = asyncio.get_running_loop().create_future()
    async with InputLines(arriving(b"x\n" * 10, b"y\n" * PAGE_LINES_MAX), 100) as lines:
        full = await lines.take(busy)
        assert full is not None
        assert len(full) == PAGE_LINES_MAX
    async with InputLines(arriving_then_waiting(b"x\n" * 10), 100) as lines:
        taking = asyncio.create_task(lines.take(busy))
        await asyncio.sleep(0.05)
        assert not taking.done()
        busy.set_result(None)
        page = await taking
        assert page is not None
        assert len(page) == 10
        assert await lines.take(busy) == []


async def arriving_then_waiting(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
    await asyncio.sleep(60)
