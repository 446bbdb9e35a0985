"""Which links have begun, in files beside the store."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from bsfg.errors import SubstrateUnavailable
from bsfg.model.cursor import LinkName
from bsfg.model.names import StreamName, ZoneId
from bsfg.substrates.begun_links import BegunLinks

LINK = LinkName(ZoneId("enterprise"), StreamName("facts.operational"))
OTHER = LinkName(ZoneId("enterprise"), StreamName("facts.audit"))


async def test_a_link_has_begun_from_its_note_until_it_is_forgotten(tmp_path: Path) -> None:
    folder, told = tmp_path / "data" / "links", list[str]()
    begun = BegunLinks(folder, told.append)
    assert not await begun.has_begun(LINK)
    await begun.forget(LINK)
    assert not folder.exists(), "nothing is made for links that never began"
    await begun.note(LINK)
    await begun.note(LINK)
    later = BegunLinks(folder, told.append)
    assert await later.has_begun(LINK) and not await later.has_begun(OTHER)
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    await later.forget(LINK)
    assert not await later.has_begun(LINK) and not list(folder.iterdir())
    assert told == []


async def test_a_note_that_fails_is_told_and_made_later(tmp_path: Path) -> None:
    folder, told = tmp_path / "links", list[str]()
    folder.write_text("in the way")
    begun = BegunLinks(folder, told.append)
    await begun.note(LINK)
    assert len(told) == 1 and "enterprise/facts.operational" in told[0] and str(folder) in told[0]
    folder.unlink()
    await begun.note(LINK)
    assert len(told) == 1 and await BegunLinks(folder, told.append).has_begun(LINK)


async def test_what_can_not_be_seen_is_not_taken_for_a_new_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = BegunLinks(tmp_path, lambda _: None)

    def broken(_path: Path) -> bool:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(Path, "exists", broken)
    for look in (begun.has_begun(LINK), begun.forget(LINK)):
        with pytest.raises(SubstrateUnavailable, match=r"enterprise/facts\.operational.*input/output error"):
            await look
