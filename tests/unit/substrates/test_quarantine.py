"""The quarantine: whole files, private, bounded."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import stat
from pathlib import Path

import pytest
from tests.support.patience import patience

from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import LinkName
from bsfg.model.fact import Fact, digest
from bsfg.model.names import parse_stream, parse_zone
from bsfg.substrates.quarantine import FileQuarantine

LINK = LinkName(parse_zone("enterprise"), parse_stream("facts.operational"))
FACT = Fact(7, "facts.operational.batch", 1, b"Trace: abc\r\n", b"\x00\x01payload")


def names_below(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


async def test_the_bytes_lie_where_the_contract_says_and_everything_else_beside_them(tmp_path: Path) -> None:
    quarantine = FileQuarantine(tmp_path / "quarantine", 10_000)
    for _ in range(2):
        await quarantine.put(LINK, "e1", FACT)
    path = tmp_path / "quarantine" / "enterprise" / "facts.operational" / "e1-7"
    assert path.read_bytes() == FACT.payload
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    about = json.loads((path.parent / "e1-7.json").read_text())
    assert about["digest"] == digest(FACT) and about["headers"] == [["Trace", "abc"]]
    assert names_below(path.parent) == {"e1-7", "e1-7.json"}


async def test_what_does_not_fit_is_refused_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    quarantine = FileQuarantine(tmp_path / "quarantine", 1_000)
    await quarantine.put(LINK, "e1", FACT)
    with pytest.raises(BsfgError) as refused:
        await quarantine.put(LINK, "e1", FACT._replace(sequence=8, payload=b"x" * 600))
    assert refused.value.code is Code.QUOTA_EXCEEDED
    assert "e1-8" not in names_below(tmp_path)


async def test_another_process_that_counts_the_room_is_waited_for(tmp_path: Path) -> None:
    """The bound is the zone's, and several worker processes put facts here."""
    quarantine = FileQuarantine(tmp_path / "quarantine", 10_000)
    await quarantine.put(LINK, "e1", FACT)
    descriptor = os.open(tmp_path / "quarantine", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    putting = asyncio.create_task(quarantine.put(LINK, "e1", FACT._replace(sequence=8)))
    await asyncio.sleep(0.2)
    assert not putting.done()
    os.close(descriptor)
    async with asyncio.timeout(5 * patience()):
        await putting
    assert (tmp_path / "quarantine" / "enterprise" / "facts.operational" / "e1-8").exists()
