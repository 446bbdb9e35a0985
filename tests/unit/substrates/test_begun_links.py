"""Where each link began, in files beside the store."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from bsfg.errors import SubstrateUnavailable
from bsfg.model.cursor import Begun, Init, LinkName
from bsfg.model.names import StreamName, ZoneId
from bsfg.substrates.begun_links import BegunLinks

LINK = LinkName(ZoneId("enterprise"), StreamName("facts.operational"))
OTHER = LinkName(ZoneId("enterprise"), StreamName("facts.audit"))
INIT = Init("start_now", None, "from now on", "e1", 12, 9_000)
FILE = "enterprise.facts.operational.json"


async def test_a_link_has_begun_from_its_note_until_it_is_forgotten(tmp_path: Path) -> None:
    folder, told = tmp_path / "data" / "links", list[str]()
    begun = BegunLinks(folder, told.append)
    assert await begun.read(LINK) is None
    await begun.forget(LINK)
    assert not folder.exists(), "nothing is made for links that never began"
    await begun.note(LINK, INIT)
    assert {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()} == {FILE: 0o600}
    later = BegunLinks(folder, told.append)
    assert (await later.read(LINK), await later.read(OTHER)) == (Begun(INIT), None)
    await begun.forget(LINK)
    assert await later.read(LINK) is None and not list(folder.iterdir())
    await begun.note(LINK, INIT)
    assert await later.read(LINK) == Begun(INIT)
    assert told == []


async def test_a_later_start_takes_the_place_of_an_earlier_one_and_none_does_not(tmp_path: Path) -> None:
    begun = BegunLinks(tmp_path, lambda _: None)
    for init in (None, INIT, None, replace(INIT, epoch="e2", start_sequence=3), None):
        await begun.note(LINK, init)
        before = (tmp_path / FILE).stat().st_ino
        await begun.note(LINK, init)
        assert (tmp_path / FILE).stat().st_ino == before, "what is known is not written again"
    assert await BegunLinks(tmp_path, lambda _: None).read(LINK) == Begun(replace(INIT, epoch="e2", start_sequence=3))


@pytest.mark.parametrize("spoilt", [b"", b"\x00", b'{"version":2,"init":null}', b'{"version":1}'])
async def test_of_a_spoilt_file_only_its_being_there_is_believed(tmp_path: Path, spoilt: bytes) -> None:
    told = list[str]()
    (tmp_path / FILE).write_bytes(spoilt)
    begun = BegunLinks(tmp_path, told.append)
    assert await begun.read(LINK) == Begun(None)
    assert len(told) == 1 and FILE in told[0]
    await begun.note(LINK, INIT)
    assert await BegunLinks(tmp_path, told.append).read(LINK) == Begun(INIT)


async def test_a_start_below_the_first_sequence_is_not_believed(tmp_path: Path) -> None:
    begun = BegunLinks(tmp_path, lambda _: None)
    await begun.note(LINK, replace(INIT, start_sequence=0))
    assert await BegunLinks(tmp_path, lambda _: None).read(LINK) == Begun(None)


async def test_a_note_that_fails_is_told_and_made_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[str]()
    begun = BegunLinks(tmp_path / "links", told.append)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", full)
        await begun.note(LINK, INIT)
    assert len(told) == 1 and "enterprise/facts.operational" in told[0] and FILE in told[0]
    await begun.note(LINK, INIT)
    assert len(told) == 1 and await BegunLinks(tmp_path / "links", told.append).read(LINK) == Begun(INIT)


async def test_what_can_not_be_seen_is_not_taken_for_a_new_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = list[str]()
    begun = BegunLinks(tmp_path, told.append)

    def broken(_path: Path) -> bytes:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(Path, "read_bytes", broken)
    monkeypatch.setattr(Path, "exists", broken)
    for look in (begun.read(LINK), begun.forget(LINK)):
        with pytest.raises(SubstrateUnavailable, match=r"enterprise/facts\.operational.*input/output error"):
            await look
    await begun.note(LINK, INIT)
    assert len(told) == 1 and "input/output error" in told[0], "what the store shows needs no second witness"
