"""``bsfg bringup`` as an operator types it: resumed, narrowed, skipped, twice at once, interrupted, and its reports."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.support.lab_zones import ENTERPRISE, Lab, Zone, eventually, running_lab

from bsfg.checks.catalog import CATALOG
from bsfg.lab import program
from bsfg.transport.development_ca import issue


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two zones with facts."""
    with running_lab(tmp_path_factory.mktemp("lab") / "lab", empty=False) as running:
        yield running


def run(zone: Zone, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = zone.bsfg("bringup", "--peer", ENTERPRISE, "--output", "json", *arguments, seconds=120)
    assert "Traceback" not in done.errors
    return done.status, done.json


def records(zone: Zone) -> list[Path]:
    return sorted((zone.paths.data / "bringup").glob("*/record.json"))


def ids_met(record: dict[str, Any]) -> dict[str, int]:
    """When each check that was met began."""
    met = ("passed", "passed with exception", "attested")
    return {row["id"]: row["began"] for row in record["results"] if row["outcome"] in met}


def test_what_passed_is_not_repeated_unless_asked(lab: Lab) -> None:
    first_status, first = run(lab.plant)
    assert first_status == 0 and first["ok"], first["counts"]
    assert [row["id"] for row in first["results"]] == [check.id for check in CATALOG]
    assert not [row["id"] for row in first["results"] if row["id"] in ids_met(first) and not row["evidence"]]
    path = Path(first["record"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_bytes())["run"] == first["run"]
    policies = first["policies"]
    assert policies["authorization"]["peer"]["streams"] == [
        "facts.operational", "facts.batch_completed", "facts.audit",
    ]  # fmt: skip
    assert {row["stream"]: row["justification"] for row in policies["cursors"]}["facts.audit"]
    assert policies["certificates"]["here"]["sha256"] != policies["certificates"]["peer"]["sha256"]
    assert first["peer_version"]

    _, second = run(lab.plant)
    again = {row["id"]: row["began"] for row in second["results"]}
    assert {name: again[name] for name in ids_met(first)} == ids_met(first)
    assert first["handoff"]["accepted"], first["handoff"]
    assert lab.plant.bsfg("handoff", "verify", first["handoff"]["path"]).status == 0
    _, third = run(lab.plant, "--again", "--section", "2")
    assert third["handoff"] is None, "a handoff is of a whole run"
    assert {row["section"] for row in third["results"]} == {"1", "2"}
    assert all(row["began"] > first["ended"] for row in third["results"])


def test_another_configuration_repeats_everything(lab: Lab) -> None:
    _, before = run(lab.plant, "--section", "2")
    with lab.plant.changed(lab.plant.paths.bringup_file, ("LAB-8", "LAB-9")):
        _, after = run(lab.plant, "--section", "2")
    assert all(row["began"] > before["ended"] for row in after["results"])


def test_a_spoiled_record_is_named_and_left(lab: Lab) -> None:
    run(lab.plant, "--section", "2")
    newest = records(lab.plant)[-1]
    content = newest.read_bytes()
    newest.write_bytes(content[:100])
    done = lab.plant.bsfg("bringup", "--peer", ENTERPRISE, "--section", "2", seconds=120)
    newest.write_bytes(content)
    assert done.status == 0
    assert "record.json can't be used" in done.errors


def test_skipping_is_an_exception_in_the_approvers_name(lab: Lab) -> None:
    with lab.plant.changed(lab.plant.paths.bringup_file, ("message_catalog: {by: Lab Operator, reference: LAB-5}", "")):
        skip = ("--section", "2", "--skip", "preconditions.streams", "--reason", "catalog follows on Monday")
        status, answer = run(lab.plant, *skip)
    found = next(row for row in answer["results"] if row["id"] == "preconditions.streams")
    assert (status, found["outcome"]) == (0, "skipped")
    assert found["waiver"] == {
        "reason": "catalog follows on Monday", "approver": "Lab Operator", "reference": "LAB-8",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--skip", "trust.clock"), "--skip needs --reason"),
        (("--skip", "trust.clock", "--reason", " "), "--skip needs --reason"),
        (("--skip", "trust.clok", "--reason", "x"), "did you mean trust.clock?"),
        (("--skip", "trust.clock", "--reason", "x", "--reason", "y"), "2 --reason for 1 --skip"),
        (("--section", "12"), "'12' is none of 1, 2"),
        (("--denial-cert", "x.crt"), "go together"),
        (("--denial-cert", "/x.crt", "--denial-key", "/x.key"), "there is no file /x.crt"),
        (("--inputs", "/x.yaml"), "there is no file /x.yaml"),
        (("--wait", "soon"), "is not a duration"),
    ],
)
def test_bad_wishes_are_refused_before_anything_runs(lab: Lab, arguments: tuple[str, ...], words: str) -> None:
    before = records(lab.plant)
    done = lab.plant.bsfg("bringup", "--peer", ENTERPRISE, *arguments)
    assert done.status == 2
    assert words in done.errors
    assert records(lab.plant) == before


def test_a_peer_that_nobody_configured(lab: Lab) -> None:
    done = lab.plant.bsfg("bringup", "--peer", "enterprize")
    assert (done.status, "did you mean enterprise?" in done.errors) == (2, True)


def test_bad_inputs_are_refused_with_their_place(lab: Lab) -> None:
    with lab.plant.changed(lab.plant.paths.bringup_file, ("zone_b_identity", "zone_c_identity")):
        done = lab.plant.bsfg("bringup", "--peer", ENTERPRISE)
    assert done.status == 2
    assert "config/bringup.yaml:3:1: unknown key 'zone_c_identity'" in done.errors


def test_an_identity_of_a_trusted_ca_by_hand(lab: Lab, tmp_path: Path) -> None:
    certificate, key, place = tmp_path / "x.crt", tmp_path / "x.key", lab.plant.place
    issue(
        place.ca_cert, place.ca_key, "plant-x-bsfg", san_dns=["plant-x-bsfg"], days=1, out_cert=certificate, out_key=key
    )
    given = ("--denial-cert", str(certificate), "--denial-key", str(key))
    _, answer = run(lab.plant, "--again", "--section", "4", *given)
    found = next(row for row in answer["results"] if row["id"] == "denial.unlisted-identity")
    assert (found["outcome"], found["summary"]) == ("passed", "403 peer_unknown")


def test_two_at_once_and_ctrl_c(lab: Lab) -> None:
    """The second is told who runs; the first ends at once, keeps what it found, and the next goes on from there."""
    command = program.command_line("bringup", "--peer", ENTERPRISE, "--again", "--home", str(lab.plant.home))
    before = len(records(lab.plant))
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    eventually("it has begun", 60, lambda: len(records(lab.plant)) > before)
    running.send_signal(signal.SIGSTOP)
    done = lab.plant.bsfg("bringup", "--peer", ENTERPRISE)
    assert done.status == 3 and f"process {running.pid}" in done.errors
    asked = time.monotonic()
    running.send_signal(signal.SIGCONT)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 130 and b"Traceback" not in errors
    assert time.monotonic() - asked < 15
    kept = json.loads(records(lab.plant)[-1].read_bytes())
    assert kept["ended"] is None and kept["results"]
    assert lab.plant.api.get("/v1/status")["partitions"] == []
    _, answer = run(lab.plant)
    began = {row["id"]: row["began"] for row in answer["results"]}
    assert {name: began[name] for name in ids_met(kept)} == ids_met(kept)


def test_reports_for_people_and_build_servers(lab: Lab) -> None:
    text = lab.plant.bsfg("bringup", "--peer", ENTERPRISE, seconds=120).output
    assert all(len(line) <= 80 for line in text.splitlines() if not line.startswith(("record", "handoff")))
    assert "\n3. Trust and identity\n" in text and "DONE: every check that was run holds" in text
    with lab.plant.changed(lab.plant.paths.bringup_file, ("trust_chain:", "# trust_chain:")):
        xml = lab.plant.bsfg(
            "bringup", "--peer", ENTERPRISE, "--section", "2", "--output", "junit", seconds=120
        ).output
    root = ElementTree.fromstring(xml)
    assert [suite.get("name") for suite in root] == ["1. Preconditions", "2. Inputs"]
    (failure,) = root.iter("failure")
    assert failure.get("message") == "trust_chain is not given"
    assert "expected: a value for each input" in (failure.text or "")
    listed = lab.plant.bsfg("bringup", "--list", "--output", "json").json
    assert [row["id"] for row in listed] == [check.id for check in CATALOG]


def test_the_denial_drill_is_section_4_3(lab: Lab) -> None:
    done = lab.plant.bsfg("drill", "denial", "--peer", ENTERPRISE, "--output", "json", seconds=120)
    assert done.status == 0, done.errors
    denials = [check.id for check in CATALOG if check.section == "4.3"]
    assert [row["id"] for row in done.json["results"]][-len(denials) :] == denials
    with lab.plant.changed(lab.plant.paths.zone_file, ("lab: true", "lab: false")):
        refused = lab.plant.bsfg("drill", "denial", "--peer", ENTERPRISE)
    assert (refused.status, "needs a change window" in refused.errors) == (2, True)


def test_a_gateway_that_comes_late_is_waited_for(lab: Lab) -> None:
    lab.plant.stop_gateway()
    lab.plant.start_gateway()
    status, answer = run(lab.plant, "--again", "--wait", "60s", "--section", "1")
    assert (status, answer["halted_at"]) == (0, None)
