"""What differs between two configurations, by its place and without a value."""

from __future__ import annotations

from pathlib import Path

import pytest

from bsfg.config.load import load
from bsfg.config.values import Configuration
from bsfg.daemon import configuration_changes
from bsfg.daemon.configuration_changes import changed_settings

ZONE = "zone: plant-a\nidentity: plant-a-bsfg\nstreams: [{name: facts.orders}]\n"
PEERS = """\
peers:
  - {id: enterprise, identity: enterprise-bsfg, endpoint: "10.1.1.10:9443", authorized: true, streams: [facts.orders]}
"""
CURSORS = "cursors: [{peer: enterprise, stream: facts.operational}]\n"


def configuration(home: Path, zone: str = ZONE, peers: str = PEERS, cursors: str = CURSORS) -> Configuration:
    (home / "config").mkdir(exist_ok=True)
    for name, text in (("zone", zone), ("peers", peers), ("cursors", cursors)):
        (home / "config" / f"{name}.yaml").write_text(text)
    return load(home)


def test_each_changed_setting_is_named(tmp_path: Path) -> None:
    before = configuration(tmp_path)
    after = configuration(
        tmp_path,
        zone=ZONE.replace("facts.orders}", "facts.orders, max_age: 7d}") + "limits: {connections_max: 99}\n",
        peers=PEERS.replace("true", "false").replace("[facts.orders]", "[]"),
        cursors=CURSORS.replace("operational", "batch"),
    )
    changed = changed_settings(before, after)
    assert {
        "zone.streams[facts.orders].max_age_seconds",
        "zone.limits.connections_max",
        "peers[enterprise].authorized",
        "peers[enterprise].streams",
        "cursors[enterprise facts.batch].priority",
        "cursors[enterprise facts.operational].priority",
    } <= set(changed)
    assert not [place for place in changed if place.startswith("peers[enterprise].endpoint")]


def test_nothing_changed_is_nothing_named(tmp_path: Path) -> None:
    before = configuration(tmp_path)
    assert changed_settings(before, configuration(tmp_path, peers="# said\n" + PEERS)) == []


def test_the_list_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration_changes, "SETTINGS_MAX", 2)
    changed = changed_settings(configuration(tmp_path), configuration(tmp_path, peers="", cursors=""))
    assert len(changed) == 3
    assert changed[-1] == "…"
