"""The control connection: deadlines, errors, and a way back after every outage."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.certificates import TestAuthority
from tests.support.nats import NatsServer, running_nats
from tests.support.patience import patience

from bsfg.errors import BsfgError, Code, Fenced, StoreFull, SubstrateUnavailable
from bsfg.lab.homes import LOOPBACK, free_port
from bsfg.substrates.control import Control, answer_of
from bsfg.substrates.nats_connection import NatsTarget
from bsfg.substrates.nkey_files import ensure_seed


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_nats(tmp_path) as running:
        yield running


@pytest.fixture
async def control(server: NatsServer) -> AsyncIterator[Control]:
    opened = await Control.open(server.target, name="test")
    yield opened
    await opened.close()


async def until(condition: object, seconds: float = 10.0) -> None:
    assert callable(condition)
    async with asyncio.timeout(seconds * patience()):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def freeze(server: NatsServer) -> None:
    """Stop the process, and return when it has stopped."""
    os.kill(server.pid, signal.SIGSTOP)
    status = Path(f"/proc/{server.pid}/stat")
    await until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T")


async def test_an_answer_is_the_json_object(control: Control) -> None:
    assert (await control.api("STREAM.CREATE.orders", {"name": "orders"}))["config"]["name"] == "orders"
    assert control.connected
    assert control.problem is None


async def test_the_server_says_its_version(control: Control) -> None:
    assert control.server_version is not None
    assert control.has_batches


async def test_a_missing_stream_is_not_found(control: Control) -> None:
    with pytest.raises(BsfgError) as raised:
        await control.api("STREAM.INFO.nothing")
    assert raised.value.code is Code.NOT_FOUND
    assert "STREAM.INFO.nothing" in raised.value.message


async def test_a_subject_that_nobody_answers_is_unavailable(control: Control) -> None:
    with pytest.raises(SubstrateUnavailable) as raised:
        await control.request("nobody.listens")
    assert raised.value.details["no_responders"] is True


@pytest.mark.parametrize(
    ("status", "number", "kind", "code"),
    [
        (503, 10077, StoreFull, Code.LOCAL_FULL),
        (400, 10071, Fenced, Code.FENCED),
        (400, 10054, BsfgError, Code.TOO_LARGE),
        (404, 10059, BsfgError, Code.NOT_FOUND),
        (503, 10008, SubstrateUnavailable, Code.UNAVAILABLE),
        (500, 10052, SubstrateUnavailable, Code.UNAVAILABLE),
        (400, 10065, BsfgError, Code.CHECK_FAILED),
    ],
)
def test_a_refusal_has_one_meaning(status: int, number: int, kind: type[BsfgError], code: Code) -> None:
    answer = b'{"error": {"code": %d, "err_code": %d, "description": "words"}}' % (status, number)
    with pytest.raises(kind) as raised:
        answer_of("VERB", answer)
    assert raised.value.code is code
    assert raised.value.details["jetstream_code"] == number


@pytest.mark.parametrize("answer", [b"", b"[]", b"\xff"])
def test_an_answer_that_is_no_object_is_a_bad_answer(answer: bytes) -> None:
    with pytest.raises(BsfgError) as raised:
        answer_of("VERB", answer)
    assert raised.value.code is Code.BAD_ANSWER


async def test_an_unreachable_server_is_unavailable_within_the_time() -> None:
    target = NatsTarget((f"nats://127.0.0.1:{free_port(LOOPBACK, set())}",))
    began = time.monotonic()
    with pytest.raises(SubstrateUnavailable) as raised:
        await Control.open(target, name="test", timeout_seconds=0.5)
    assert time.monotonic() - began < 3.0
    assert target.urls[0] in raised.value.message


async def test_the_second_address_is_taken_when_the_first_is_dead(server: NatsServer) -> None:
    target = NatsTarget((f"nats://127.0.0.1:{free_port(LOOPBACK, set())}", server.url))
    control = await Control.open(target, name="test")
    assert control.connected
    await control.close()


async def test_a_killed_server_fails_calls_at_once_and_is_found_again(server: NatsServer) -> None:
    reports: list[str] = []
    control = await Control.open(server.target, name="test", report=reports.append)
    server.kill()
    await until(lambda: not control.connected)
    began = time.monotonic()
    with pytest.raises(SubstrateUnavailable):
        await control.api("INFO")
    assert time.monotonic() - began < 0.5
    assert control.problem
    assert control.server_version is None
    server.start()
    await control.wait_connected(10.0)
    assert "memory" in await control.api("INFO")
    assert reports
    await control.close()


async def test_a_call_under_way_ends_when_the_connection_is_lost(server: NatsServer, control: Control) -> None:
    await freeze(server)
    call = asyncio.create_task(control.api("INFO", timeout_seconds=30.0))
    await asyncio.sleep(0.2)
    server.kill()
    with pytest.raises(SubstrateUnavailable):
        await asyncio.wait_for(call, 3.0 * patience())


async def test_a_connection_that_breaks_with_requests_unsent_is_lost_and_found_again(
    server: NatsServer, control: Control
) -> None:
    """nats-py fails in its own closing then, and calls back to nobody."""
    await freeze(server)
    calls = []
    for _ in range(40):
        calls.append(asyncio.create_task(control.request("nobody.listens", bytes(1024**2))))
        await asyncio.sleep(0.01)
    server.kill()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(each) for each in done} == {SubstrateUnavailable}
    server.start()
    await control.wait_connected(10.0 * patience())
    assert await control.api("INFO")


async def test_a_server_that_hangs_is_unavailable_within_the_deadline(server: NatsServer, control: Control) -> None:
    await freeze(server)
    try:
        began = time.monotonic()
        with pytest.raises(SubstrateUnavailable, match=r"within 0\.3 s"):
            await control.api("INFO", timeout_seconds=0.3)
        assert time.monotonic() - began < 2.0
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert await control.api("INFO")


async def test_a_payload_larger_than_the_server_takes_is_too_large(control: Control) -> None:
    with pytest.raises(BsfgError) as raised:
        await control.request("any", b"x" * (2 * 1024 * 1024))
    assert raised.value.code is Code.TOO_LARGE


async def test_a_closed_control_answers_nothing_and_leaves_no_task(server: NatsServer) -> None:
    before = len(asyncio.all_tasks())
    control = await Control.open(server.target, name="test")
    await control.close()
    with pytest.raises(SubstrateUnavailable):
        await control.api("INFO")
    await until(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_control_that_is_closed_while_it_connects_ends_at_whatever_moment_that_is(server: NatsServer) -> None:
    """What waits inside the connecting may swallow a cancellation that comes together with its answer."""
    for turns in range(24):
        control = Control(server.target, name="test")
        control.start()
        for _ in range(turns):
            # The loop is busy, so that every answer is there when it turns: the moments are the same in each run.
            time.sleep(0.003)  # noqa: ASYNC251
            await asyncio.sleep(0)
        began = time.monotonic()
        async with asyncio.timeout(5 * patience()):
            await control.close()
        assert time.monotonic() - began < 4.0, f"closed after {turns} turns"
        assert not control.connected


async def test_the_right_seed_is_let_in_and_another_is_not(tmp_path: Path) -> None:
    right, wrong = tmp_path / "right.nk", tmp_path / "wrong.nk"
    key = ensure_seed(right)
    ensure_seed(wrong)
    extra = f"authorization {{ users: [ {{ nkey: {key} }} ] }}"
    with running_nats(tmp_path / "nats", extra=extra) as server:
        control = await Control.open(NatsTarget((server.url,), seed_file=right), name="test")
        assert await control.api("INFO")
        await control.close()
        for target in (NatsTarget((server.url,), seed_file=wrong), NatsTarget((server.url,))):
            # The server resets the connection behind its refusal, and a reset may overtake what was said.
            said: list[str] = []
            with pytest.raises(SubstrateUnavailable):
                await Control.open(target, name="test", report=said.append, timeout_seconds=3.0)
            assert any("authorization" in line.lower() for line in said), said


async def test_a_seed_file_that_is_missing_does_not_end_the_trying(tmp_path: Path) -> None:
    seed = tmp_path / "late.nk"
    seed_ready = tmp_path / "ready.nk"
    key = ensure_seed(seed_ready)
    extra = f"authorization {{ users: [ {{ nkey: {key} }} ] }}"
    with running_nats(tmp_path / "nats", extra=extra) as server:
        control = Control(NatsTarget((server.url,), seed_file=seed), name="test")
        control.start()
        with pytest.raises(SubstrateUnavailable):
            await control.wait_connected(0.5)
        seed_ready.rename(seed)
        await control.wait_connected(10.0)
        await control.close()


async def test_tls_that_the_server_does_not_offer_is_no_connection(server: NatsServer) -> None:
    for target in (
        NatsTarget((server.url,), tls=ssl.create_default_context()),
        NatsTarget((server.url.replace("nats://", "tls://"),)),
    ):
        with pytest.raises(SubstrateUnavailable):
            await Control.open(target, name="test", timeout_seconds=1.0)


async def test_tls_with_the_right_anchor_is_a_connection_and_with_another_is_not(tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path / "ca")
    other = TestAuthority(tmp_path / "other")
    issued = authority.zone("nats")
    extra = f'tls {{ cert_file: "{issued.certificate_path}", key_file: "{issued.key_path}" }}'
    with running_nats(tmp_path / "nats", extra=extra) as server:
        right = ssl.create_default_context(cafile=str(authority.path))
        control = await Control.open(NatsTarget((server.url,), tls=right), name="test")
        assert await control.api("INFO")
        await control.close()
        wrong = ssl.create_default_context(cafile=str(other.path))
        with pytest.raises(SubstrateUnavailable, match=r"(?i)certificate"):
            await Control.open(NatsTarget((server.url,), tls=wrong), name="test", timeout_seconds=1.0)
