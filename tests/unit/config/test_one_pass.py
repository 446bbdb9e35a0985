"""All problems of all files come in one pass, in order, without any that only follow from another."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bsfg.config.files import FILE_BYTES_MAX
from bsfg.config.load import load
from bsfg.config.source import PROBLEMS_MAX
from bsfg.errors import ConfigurationError

WriteHome = Callable[..., Path]
MINIMAL = "zone: plant-a\nidentity: plant-a-bsfg\n"


def lines_of(home: Path) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(home)
    return caught.value.message.split("\n")


def places_of(home: Path) -> list[str]:
    return [line.split(": ")[0] for line in lines_of(home)]


def test_every_problem_of_all_files_at_once(write_home: WriteHome) -> None:
    home = write_home(
        zone="zone: plant-a\nidentity: plant-a-bsfg\nlisten: 0.0.0.0:0\nstreams:\n- name: facts.orders\n- name: 5\n",
        peers=(
            "peers:\n- id: enterprise\n  identity: e\n  endpoint: nowhere\n  authorized: no\n  authorised: true\n"
            "  streams: [facts.orders, facts..orders]\n"
        ),
        cursors=(
            "cursors:\n- peer: enterprise\n  stream: facts.operational\n"
            "  init_mode: bounded_backfill_0h\n  priority: x\n"
            "- peer: enterprize\n  stream: facts.operational\n"
        ),
    )
    assert lines_of(home) == [
        "config/cursors.yaml:4:14: init_mode 'bounded_backfill_0h': init_mode is not one of bounded_backfill_<N>h,"
        " start_now, full_backfill or explicit_timestamp (for example bounded_backfill_48h; N is at least 1)",
        "config/cursors.yaml:5:13: priority must be a whole number, not the text 'x' (write digits without quotes)",
        "config/cursors.yaml:6:9: peer enterprize is not in config/peers.yaml (did you mean enterprise?)",
        "config/peers.yaml:4:13: endpoint: 'nowhere' has no port (write host:port, a.b.c.d:port or [v6]:port)",
        "config/peers.yaml:5:15: authorized must be true or false, not the text 'no'"
        " (yes, no, on and off are texts in YAML 1.2)",
        "config/peers.yaml:6:3: unknown key 'authorised' (did you mean authorized?)",
        "config/peers.yaml:7:27: entry of streams: stream name 'facts..orders' is not lower-case words joined by"
        " single dots (for example facts.operational; wildcards, spaces and '-' are not allowed)",
        "config/zone.yaml:3:9: listen: '0.0.0.0:0' has no port from 1 to 65535"
        " (write host:port, a.b.c.d:port or [v6]:port)",
        "config/zone.yaml:6:9: name: must be text, not the number 5 (quote it)",
    ]


def test_the_error_has_its_problems_for_machines(write_home: WriteHome) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(write_home(zone=MINIMAL + "lab: no\n"))
    error = caught.value.as_json()["error"]
    assert error["code"] == "configuration"
    assert error["problems"] == [
        {
            "file": "config/zone.yaml",
            "line": 3,
            "column": 6,
            "message": "lab must be true or false, not the text 'no'",
            "hint": "yes, no, on and off are texts in YAML 1.2",
        }
    ]


@pytest.mark.parametrize(
    ("zone", "place"),
    [
        ("streams: 5\n", "3:10"),
        ("streams: [{name: Facts.Orders}]\n", "3:18"),
        ("streams: [!!str facts.orders]\n", "3:11"),
        ("streams: [{name: facts.orders}\n", "4:1"),
    ],
)
def test_lost_streams_of_the_zone_are_not_reported_again_by_peers(
    write_home: WriteHome, zone: str, place: str
) -> None:
    allowed = "peers:\n- {id: e, identity: e, endpoint: 'e:1', streams: [facts.orders]}\n"
    assert places_of(write_home(zone=MINIMAL + zone, peers=allowed)) == [f"config/zone.yaml:{place}"]
    # And the twin: where the zone's streams are known, the unknown one is reported.
    assert places_of(write_home(zone=MINIMAL)) == ["config/peers.yaml:2:51"]


def test_lost_peers_are_not_reported_again_by_cursors(write_home: WriteHome) -> None:
    cursors = "cursors:\n- {peer: enterprise, stream: facts.operational}\n"
    bad_id = "peers:\n- {id: Enterprise, identity: e, endpoint: 'e:1'}\n"
    assert places_of(write_home(zone=MINIMAL, peers=bad_id, cursors=cursors)) == ["config/peers.yaml:2:8"]
    assert places_of(write_home(peers="peers: [\n")) == ["config/peers.yaml:2:1"]
    # And the twin: where the peers are known, the unknown one is reported.
    assert places_of(write_home(peers="peers:\n")) == ["config/cursors.yaml:2:10"]


def test_a_flood_of_problems_is_cut(write_home: WriteHome) -> None:
    lines = lines_of(write_home(zone=MINIMAL + "".join(f"key{number}: 1\n" for number in range(3_000))))
    assert len(lines) == PROBLEMS_MAX + 1
    assert any("more problems follow" in line for line in lines)


def test_zone_is_required(write_home: WriteHome) -> None:
    home = write_home(peers="peers: []\n")
    [line] = lines_of(home)
    assert line.startswith(f"config/zone.yaml:1:1: there is no file {home}/config/zone.yaml (")
    assert "BSFG_HOME" in line


def test_a_home_that_is_not_there(tmp_path: Path) -> None:
    assert "there is no file" in lines_of(tmp_path / "nowhere")[0]
    assert "can't open" in lines_of(Path("a\0b"))[0]


@pytest.mark.parametrize("name", ["zone", "peers", "cursors"])
def test_things_that_are_not_readable_files(write_home: WriteHome, name: str) -> None:
    def say() -> str:
        [line] = [line for line in lines_of(home) if line.startswith(f"config/{name}.yaml:1:1: ")]
        return line

    home = write_home(**({"zone": MINIMAL} | {name: None}))
    path = home / "config" / f"{name}.yaml"
    path.mkdir()
    assert "is a directory, not a file" in say()
    path.rmdir()
    os.mkfifo(path)
    assert "is a pipe, socket or device, not a file" in say()
    path.unlink()
    path.symlink_to(path)
    assert "can't open" in say()
    path.unlink()
    path.symlink_to("nowhere")
    assert "there is no file" in say()


def test_no_descriptor_is_left_open(write_home: WriteHome) -> None:
    home = write_home(zone=MINIMAL)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        load(home)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_bytes_that_are_not_text(write_home: WriteHome) -> None:
    [line] = lines_of(write_home(zone=MINIMAL.encode() + b"listen: \xff\n"))
    assert line.startswith("config/zone.yaml:3:9: byte '0xff' is not UTF-8")
    [line] = lines_of(write_home(zone=b"\xef\xbb\xbf" + MINIMAL.encode()))
    assert line.startswith("config/zone.yaml:1:1: begins with a byte order mark")
    [line] = lines_of(write_home(zone=MINIMAL.encode("utf-16")))
    assert "is not UTF-8" in line


def test_a_file_may_have_its_size_and_no_more(write_home: WriteHome) -> None:
    filled = MINIMAL + "#" * (FILE_BYTES_MAX - len(MINIMAL))
    assert load(write_home(zone=filled)).zone.zone == "plant-a"
    assert "is larger than 1048576 bytes" in lines_of(write_home(zone=filled + "#"))[0]


def test_a_deep_file_of_any_size_is_refused_at_once(write_home: WriteHome) -> None:
    [line] = lines_of(write_home(zone="[" * 1_000_000))
    assert line == "config/zone.yaml:1:17: nested deeper than 16 levels"


def test_secrets_in_urls_are_not_repeated(write_home: WriteHome) -> None:
    text = MINIMAL + 'substrate: {url: "tls://user:hunter2@a"}\nartifacts: {password: hunter2}\n'
    assert "hunter2" not in "\n".join(lines_of(write_home(zone=text)))


def test_crlf_counts_as_one_line_end(write_home: WriteHome) -> None:
    assert places_of(write_home(zone="zone: plant-a\r\nidentity: a\r\nlab: no\r\n")) == [
        "config/zone.yaml:3:6"
    ]
