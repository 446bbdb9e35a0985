"""``bsfg top``: what it draws, and that it says what nobody knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from tests.unit.cli.canned import LINK, CannedOperations
from tests.unit.cli.conftest import bsfg_program, local_api

from bsfg.cli.top import _screen

STATUS: dict[str, Any] = {"zone": "plant-a", "identity": "plant-a-bsfg", "health": "ok", "problems": []}


def drawn(status: dict[str, Any], first: dict[str, int] | None = None) -> str:
    console = Console(width=80, file=None, record=True, force_terminal=False)
    with console.capture() as capture:
        console.print(_screen(STATUS | status, {} if first is None else first))
    return capture.get()


def test_a_link_that_catches_up_has_rate_and_time_of_arrival() -> None:
    row = LINK | {"lag_facts": 500, "lag_bytes": 2048, "rate_facts_per_second": 100.0, "eta_seconds": 5.0}
    text = drawn({"links": [row]}, {"enterprise/facts.operational": 1_000})
    assert "500" in text and "2.0 KiB" in text and "100/s" in text and "5.0 s" in text
    assert "━" in text or "-" in text


def test_what_nobody_knows_is_unknown_and_never_zero() -> None:
    row = LINK | {"state": "backing_off", "lag_facts": None, "lag_bytes": None, "rate_facts_per_second": None}
    line = next(line for line in drawn({"links": [row]}).splitlines() if "backing_off" in line)
    assert line.count("unknown") == 5 and "0" not in line


def test_it_fits_a_terminal_of_80_columns_and_escapes_what_others_wrote() -> None:
    text = drawn({"links": [LINK], "problems": ["bad \x1b[31m text"]})
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text


async def test_once_prints_one_picture(home: Path) -> None:
    async with local_api(home, CannedOperations()):
        done = await bsfg_program("top", "--once", "--home", home)
    assert done.status == 0 and "links" in done.text


async def test_a_script_is_told_to_ask_for_the_status(home: Path) -> None:
    done = await bsfg_program("top", "--output", "json", "--home", home)
    assert done.status == 2 and "top is for people" in done.error["message"]
