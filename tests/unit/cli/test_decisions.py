"""Decisions about histories as an operator types them: what is sent, what is printed, and how a rewind is followed."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any, Final

import pytest
from tests.support.patience import patience
from tests.unit.cli.canned import LINK, CannedOperations
from tests.unit.cli.conftest import bsfg_program, local_api, start_bsfg

from bsfg.errors import BsfgError, Code

NAME: Final = ("--peer", "enterprise", "--stream", "facts.operational")
WHY: Final = ("--reason", "the archive has them")
BUILDING: Final = {
    "generation": 2,
    "state": "filling",
    "scanned_through": 9,
    "pending": 11,
    "compared": 0,
    "different": 0,
    "problem": None,
}
REWIND: Final = {
    "peer": "enterprise",
    "stream": "facts.operational",
    "dry_run": False,
    "generation": 2,
    "to": 5,
    "epoch": "5f2c9f0e61d24c2b",
    "facts": 16,
    "bytes": 1900,
    "repeated": {"from": 5, "to": 20, "count": 16},
    "skipped": None,
}


class DecidedOperations(CannedOperations):
    """Canned answers for decisions; the cursor's rows come one after the other, the last again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = [LINK]
        span = {"from": 600, "to": 625, "count": 26}
        names = {"peer": "enterprise", "stream": "facts.operational", "dry_run": False}
        self.answers |= {
            "accept_gap": names | {"skipped": span, "cursor": LINK},
            "accept_epoch": names
            | {"old_epoch": "a" * 16, "epoch": "b" * 16, "start": "start_now", "start_sequence": 4, "head": 3}
            | {"skipped": {"from": 1, "to": 3, "count": 3}, "facts": 0, "cursor": LINK},
            "rewind": REWIND,
            "abort_rewind": names | {"aborted": 2},
            "new_epoch": {
                "stream": "facts.orders",
                "dry_run": False,
                "old_epoch": "a" * 16,
                "epoch": "b" * 16,
                "affected": [{"peer": "enterprise", "confirmed": 7}],
            },
            "drop_stream": names | {"generation": 1, "jetstream": "in_x_g1", "messages": 20, "bytes": 5000},
        }

    async def cursor(self, peer: str, stream: str, /) -> dict[str, Any]:
        row = self.rows.pop(0) if len(self.rows) > 1 else self.rows[0]
        self.calls.append(("cursor", None))
        return row

    async def accept_gap(self, peer: str, stream: str, /, **wanted: Any) -> dict[str, Any]:
        return await self._answer("accept_gap", (peer, stream, wanted))

    async def accept_epoch(self, peer: str, stream: str, /, **wanted: Any) -> dict[str, Any]:
        return await self._answer("accept_epoch", (peer, stream, wanted))

    async def rewind(self, peer: str, stream: str, /, **wanted: Any) -> dict[str, Any]:
        return await self._answer("rewind", (peer, stream, wanted))

    async def abort_rewind(self, peer: str, stream: str, /, **wanted: Any) -> dict[str, Any]:
        return await self._answer("abort_rewind", (peer, stream, wanted))

    async def new_epoch(self, stream: str, /, **wanted: Any) -> dict[str, Any]:
        return await self._answer("new_epoch", (stream, wanted))

    async def drop_stream(self, stream: str, /, **wanted: Any) -> dict[str, Any]:
        return await self._answer("drop_stream", (stream, wanted))


@pytest.fixture
async def decided(home: Path) -> Any:
    async with local_api(home, DecidedOperations()) as operations:
        yield operations


@pytest.mark.parametrize(
    ("arguments", "method", "asked", "said"),
    [
        (
            ("cursor", "accept-gap", *NAME, *WHY, "--dry-run"),
            "accept_gap",
            {"reason": WHY[1], "dry_run": True},
            "sequences 600 to 625, at most 26 facts",
        ),
        (
            ("cursor", "accept-epoch", *NAME, *WHY, "--from", "start_now"),
            "accept_epoch",
            {"start": "start_now", "init_timestamp": None, "reason": WHY[1], "dry_run": False},
            "sequences 1 to 3, at most 3 facts",
        ),
        (
            ("cursor", "accept-epoch", *NAME, *WHY, "--from", "17"),
            "accept_epoch",
            {"start": "17", "init_timestamp": None, "reason": WHY[1], "dry_run": False},
            "b" * 16,
        ),
        (
            ("cursor", "rewind", *NAME, *WHY, "--to", "5", "--dry-run"),
            "rewind",
            {"to": 5, "reason": WHY[1], "accept_differences": False, "dry_run": True},
            "sequences 5 to 20, at most 16 facts",
        ),
        (
            ("cursor", "rewind", *NAME, *WHY, "--abort"),
            "abort_rewind",
            {"reason": WHY[1]},
            "generation 2 is given up",
        ),
    ],
)
async def test_a_decision_reaches_the_gateway_and_its_answer_the_operator(
    home: Path, decided: DecidedOperations, arguments: tuple[str, ...], method: str, asked: Any, said: str
) -> None:
    finished = await bsfg_program(*arguments, "--home", home)
    assert finished.status == 0, finished.complaint
    assert decided.calls[0] == (method, ("enterprise", "facts.operational", asked))
    assert said in finished.text
    assert max(map(len, finished.text.splitlines())) <= 80


async def test_decisions_about_streams_reach_the_gateway(home: Path, decided: DecidedOperations) -> None:
    begun = await bsfg_program("stream", "new-epoch", "facts.orders", *WHY, "--home", home)
    assert "halts until it accepts  enterprise" in begun.text
    dropped = await bsfg_program("stream", "drop", *NAME, "--generation", "1", *WHY, "--home", home)
    assert dropped.text.splitlines() == ["in_x_g1 dropped", "  20 facts, 4.9 KiB"]
    await bsfg_program("stream", "drop", "facts.old", *WHY, "--dry-run", "--home", home)
    assert decided.calls == [
        ("new_epoch", ("facts.orders", {"reason": WHY[1], "dry_run": False})),
        (
            "drop_stream",
            ("facts.operational", {"peer": "enterprise", "generation": 1, "reason": WHY[1], "dry_run": False}),
        ),
        ("drop_stream", ("facts.old", {"peer": None, "generation": None, "reason": WHY[1], "dry_run": True})),
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("cursor", "accept-gap", *NAME),
        ("cursor", "accept-epoch", *NAME, *WHY),
        ("cursor", "accept-epoch", *NAME, *WHY, "--from", "yesterday"),
        ("cursor", "accept-epoch", *NAME, *WHY, "--from", "7", "--init-timestamp", "2025-01-15T10:00:00Z"),
        ("cursor", "rewind", *NAME, *WHY),
        ("cursor", "rewind", *NAME, *WHY, "--to", "0"),
        ("cursor", "rewind", *NAME, *WHY, "--to", "5", "--abort"),
        ("stream", "new-epoch", "facts.orders"),
        ("stream", "drop", "facts.orders", "--peer", "enterprise", *WHY),
        ("stream", "drop", "facts.orders", "--generation", "1", *WHY),
        ("stream", "drop", *WHY),
    ],
)
async def test_what_is_not_whole_is_an_error_of_usage(
    home: Path, decided: DecidedOperations, arguments: tuple[str, ...]
) -> None:
    finished = await bsfg_program(*arguments, "--home", home)
    assert (finished.status, decided.calls) == (2, [])


async def test_a_rewind_is_followed_until_the_new_generation_is_in_force(
    home: Path, decided: DecidedOperations
) -> None:
    starting = LINK | {"generation": None}
    decided.rows = [LINK | {"rewinding": BUILDING}, starting, LINK | {"generation": 2}]
    finished = await bsfg_program("cursor", "rewind", *NAME, *WHY, "--to", "5", "--home", home)
    assert finished.status == 0, finished.complaint
    assert "filling: scanned through 9, 11 to go" in finished.text
    assert "generation 2 is in force" in finished.text


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (LINK | {"rewinding": BUILDING | {"state": "halted", "problem": "3 facts differ"}}, "3 facts differ"),
        (LINK, "was given up"),
    ],
)
async def test_a_rewind_that_does_not_end_well_exits_1(
    home: Path, decided: DecidedOperations, row: dict[str, Any], said: str
) -> None:
    decided.rows = [row]
    arguments = ("cursor", "rewind", *NAME, *WHY, "--to", "5", "--output", "json")
    finished = await bsfg_program(*arguments, "--home", home)
    assert (finished.status, finished.error["code"]) == (1, "halted")
    assert said in finished.error["message"]


async def test_an_interrupted_rewind_says_that_the_gateway_goes_on(home: Path, decided: DecidedOperations) -> None:
    decided.rows = [LINK | {"rewinding": BUILDING}]
    process = await start_bsfg("cursor", "rewind", *NAME, *WHY, "--to", "5", "--home", home)
    async with asyncio.timeout(20 * patience()):
        while ("cursor", None) not in decided.calls:
            await decided.called.wait()
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = await process.communicate()
    assert process.returncode == 130
    assert b"the gateway goes on with it" in stderr


async def test_a_refused_decision_keeps_its_code(home: Path, decided: DecidedOperations) -> None:
    decided.answers["accept_gap"] = BsfgError(Code.CHECK_FAILED, "it is level", hint="look")
    finished = await bsfg_program("cursor", "accept-gap", *NAME, *WHY, "--output", "json", "--home", home)
    assert (finished.status, finished.error["code"]) == (1, "check_failed")
