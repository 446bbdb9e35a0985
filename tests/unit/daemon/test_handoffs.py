"""Handoffs on disk with real keys: written, signed, verified by OpenSSL and by us, merged, tampered with."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.certificates import TestAuthority
from tests.support.run_records import build_homes, check_result, policies, run_record

from bsfg.checks.handoff import MANIFEST, RECORD, SIGNATURE
from bsfg.checks.model import Outcome
from bsfg.config.home import Home
from bsfg.daemon.handoffs import WrittenHandoff, list_handoffs, merge_handoffs, verify_handoff, write_handoff
from bsfg.errors import BsfgError, Code
from bsfg.transport.document_signature import DocumentSigner


@pytest.fixture
def homes(tmp_path: Path) -> dict[str, Home]:
    return build_homes(tmp_path)


def written(
    homes: dict[str, Home], zone: str = "enterprise", peer: str = "plant-a", **changed: Any
) -> WrittenHandoff:
    return write_handoff(homes[zone], replace(run_record(zone, peer), **changed), time.time_ns())


def problems(path: Path, home: Home, ca: Path | None = None) -> tuple[str, ...]:
    return verify_handoff(path, home, ca).inspection.problems


def openssl(handoff: Path, line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        line, shell=True, cwd=handoff, capture_output=True, text=True, check=False, timeout=30
    )


def test_the_folder_holds_what_the_contract_says_and_nothing_lies_beside_it(homes: dict[str, Home]) -> None:
    handoff = written(homes)
    assert handoff.path.parent == homes["enterprise"].data / "handoff"
    assert handoff.path.name.endswith("-plant-a")
    names = {path.name for path in handoff.path.iterdir()}
    assert names == {RECORD, "handoff.md", "handoff.html", "evidence", MANIFEST, SIGNATURE}
    manifest = json.loads((handoff.path / MANIFEST).read_bytes())["files"]
    files = {path.relative_to(handoff.path).as_posix() for path in handoff.path.rglob("*") if path.is_file()}
    assert set(manifest) == files - {MANIFEST, SIGNATURE}
    for name, digest in manifest.items():
        assert hashlib.sha256((handoff.path / name).read_bytes()).hexdigest() == digest
    assert list(handoff.path.parent.iterdir()) == [handoff.path]
    assert [path.name for path in homes["enterprise"].data.iterdir()] == ["handoff"]


def test_openssl_agrees_by_the_line_that_is_printed(homes: dict[str, Home]) -> None:
    handoff = written(homes)
    [line] = handoff.document.signature_check
    for form in ("handoff.md", "handoff.html"):
        assert line in (handoff.path / form).read_text(encoding="utf-8")
    assert openssl(handoff.path, line).returncode == 0
    manifest = handoff.path / MANIFEST
    manifest.write_bytes(manifest.read_bytes() + b" ")
    assert openssl(handoff.path, line).returncode != 0


def test_the_line_works_where_our_own_anchor_is_not_at_hand(homes: dict[str, Home]) -> None:
    home = homes["enterprise"]
    home.anchors.write_bytes((home.certs / "plant-a-ca.crt").read_bytes())
    handoff = written(homes)
    [line] = handoff.document.signature_check
    assert str(home.server_certificate) in line
    assert openssl(handoff.path, line).returncode == 0
    assert problems(handoff.path, home) == ()


def test_both_zones_verify_it_and_an_auditor_with_the_ca(homes: dict[str, Home], tmp_path: Path) -> None:
    handoff = written(homes)
    nowhere = Home(tmp_path / "auditor")
    assert problems(handoff.path, homes["enterprise"]) == ()
    assert problems(handoff.path, homes["plant-a"]) == ()
    assert problems(handoff.path, nowhere, tmp_path / "ca" / "enterprise" / "ca.crt") == ()
    [problem] = problems(handoff.path, nowhere, tmp_path / "ca" / "plant-a" / "ca.crt")
    assert "its signer is not trusted" in problem


def test_a_chain_with_an_intermediate_verifies(homes: dict[str, Home], tmp_path: Path) -> None:
    root = TestAuthority(tmp_path / "ca" / "enterprise-root")
    below = root.intermediate(tmp_path / "ca" / "below")
    issued = below.issue("enterprise-bsfg", dns=["enterprise-bsfg"])
    home = homes["enterprise"]
    home.server_certificate.write_bytes(issued.certificate_path.read_bytes() + below.path.read_bytes())
    home.server_key.write_bytes(issued.key_path.read_bytes())
    home.anchors.write_bytes(root.path.read_bytes())
    (homes["plant-a"].certs / "enterprise-ca.crt").write_bytes(root.path.read_bytes())
    handoff = written(homes)
    assert openssl(handoff.path, handoff.document.signature_check[0]).returncode == 0
    assert problems(handoff.path, homes["plant-a"]) == ()


def test_a_handoff_outlives_the_certificate(homes: dict[str, Home], tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path / "ca" / "enterprise")
    issued = authority.issue(
        "enterprise-bsfg", dns=["enterprise-bsfg"], begins=timedelta(days=-3), ends=timedelta(minutes=-1)
    )
    home = homes["enterprise"]
    home.server_certificate.write_bytes(issued.certificate_path.read_bytes())
    home.server_key.write_bytes(issued.key_path.read_bytes())
    for path in (home.anchors, homes["plant-a"].certs / "enterprise-ca.crt"):
        path.write_bytes(authority.path.read_bytes())
    now = time.time_ns()
    valid = write_handoff(home, run_record(), now - 180 * 10**9)
    assert problems(valid.path, homes["plant-a"]) == ()
    assert openssl(valid.path, valid.document.signature_check[0]).returncode == 0
    expired = write_handoff(home, run_record(), now)
    [problem] = problems(expired.path, homes["plant-a"])
    assert "the certificate ended at" in problem


Tamper = Callable[[Path], None]


def _edit(name: str, old: bytes, new: bytes) -> Tamper:
    def tamper(path: Path) -> None:
        content = (path / name).read_bytes()
        assert old in content
        (path / name).write_bytes(content.replace(old, new, 1))

    return tamper


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (_edit("handoff.md", b"Accepted", b"Excepted"), "handoff.md was changed"),
        (_edit(RECORD, b'"accepted": true', b'"accepted": false'), f"{RECORD} was changed"),
        (_edit("evidence/fetch.first.json", b"passed", b"failed"), "evidence/fetch.first.json was changed"),
        (
            lambda path: (path / "evidence" / "fetch.first.json").unlink(),
            "evidence/fetch.first.json is missing",
        ),
        (lambda path: (path / "handoff.html").unlink(), "handoff.html is missing"),
        (lambda path: (path / RECORD).unlink(), f"{RECORD} is missing"),
        (lambda path: (path / MANIFEST).unlink(), f"{MANIFEST} is missing"),
        (lambda path: (path / SIGNATURE).unlink(), f"{SIGNATURE} is missing"),
        (lambda path: (path / "note.txt").write_text("x"), "note.txt was added"),
        (lambda path: (path / "evidence" / "x.json").write_text("{}"), "evidence/x.json was added"),
        (_edit(MANIFEST, b'"zone": "enterprise"', b'"zone": "plant-a"'), "was changed"),
        (lambda path: (path / MANIFEST).write_bytes(b"{"), "manifest.json is not what its schema says"),
        (lambda path: (path / SIGNATURE).write_bytes(b"signed"), "not a CMS signature"),
        (lambda path: (path / SIGNATURE).write_bytes(b""), "not a CMS signature"),
        (lambda path: (path / RECORD).write_bytes(b'{"format": "bsfg-handoff"}'), "missing required field"),
    ],
)
def test_whatever_was_touched_is_named(homes: dict[str, Home], tamper: Tamper, told: str) -> None:
    handoff = written(homes)
    tamper(handoff.path)
    found = problems(handoff.path, homes["plant-a"])
    assert any(told in problem for problem in found), found
    assert all("\n" not in problem for problem in found)


def resign(path: Path, home: Home, change: Callable[[dict[str, Any]], None] | None = None) -> None:
    """Make manifest and signature anew, as one who holds a key could."""
    manifest = json.loads((path / MANIFEST).read_bytes())
    for name in manifest["files"]:
        manifest["files"][name] = hashlib.sha256((path / name).read_bytes()).hexdigest()
    if change is not None:
        change(manifest)
    content = json.dumps(manifest).encode()
    (path / MANIFEST).write_bytes(content)
    signer = DocumentSigner.load(home.server_certificate, home.server_key)
    (path / SIGNATURE).write_bytes(signer.sign(content))


def test_another_zone_s_key_does_not_sign_for_us(homes: dict[str, Home]) -> None:
    handoff = written(homes)
    resign(handoff.path, homes["plant-a"])
    for home in homes.values():
        [problem] = problems(handoff.path, home)
        assert "enterprise-bsfg should have signed" in problem


def test_a_ca_signs_only_for_its_own_zone(homes: dict[str, Home], tmp_path: Path) -> None:
    """A certificate of our identity by the peer's CA: I33."""
    handoff = written(homes)
    forged = TestAuthority(tmp_path / "ca" / "other").issue("enterprise-bsfg", dns=["enterprise-bsfg"])
    liar = Home(tmp_path / "liar")
    liar.certs.mkdir(parents=True)
    shutil.copy(forged.certificate_path, liar.server_certificate)
    shutil.copy(forged.key_path, liar.server_key)
    resign(handoff.path, liar)
    [problem] = problems(handoff.path, homes["plant-a"])
    assert "its signer is not trusted" in problem


def test_an_unknown_zone_needs_its_ca(homes: dict[str, Home]) -> None:
    handoff = written(homes)
    resign(handoff.path, homes["enterprise"], lambda manifest: manifest.update(zone="plant-z"))
    [problem] = problems(handoff.path, homes["plant-a"])
    assert "neither this zone nor a configured peer" in problem


def test_a_lie_in_a_record_that_was_signed_again_is_found(homes: dict[str, Home]) -> None:
    failed = check_result("fetch.first", Outcome.FAILED)
    record = run_record(changed={failed.id: failed})
    handoff = write_handoff(homes["enterprise"], record, time.time_ns())
    document = json.loads((handoff.path / RECORD).read_bytes())
    document["criteria"][2]["status"] = "met"
    document |= {"accepted": True, "open": []}
    (handoff.path / RECORD).write_text(json.dumps(document))
    resign(handoff.path, homes["enterprise"])
    found = problems(handoff.path, homes["plant-a"])
    assert any("criterion 3, Replay works" in problem for problem in found)
    assert any("it says accepted; by its checks it is not" in problem for problem in found)
    check = next(check for check in document["sides"][0]["checks"] if check["id"] == "fetch.first")
    check["outcome"] = "passed"
    (handoff.path / RECORD).write_text(json.dumps(document))
    resign(handoff.path, homes["enterprise"])
    assert any("says fetch.first failed" in problem for problem in problems(handoff.path, homes["plant-a"]))
    check["evidence"] = None
    (handoff.path / RECORD).write_text(json.dumps(document))
    resign(handoff.path, homes["enterprise"])
    assert any("passed without evidence" in problem for problem in problems(handoff.path, homes["plant-a"]))


def test_two_records_make_one_of_both_sides(homes: dict[str, Home]) -> None:
    first, second = written(homes), written(homes, "plant-a", "enterprise")
    merged = merge_handoffs(homes["plant-a"], [first.path, second.path / RECORD], time.time_ns())
    document = merged.document
    assert document.accepted
    assert document.contradictions == ()
    assert [side.zone for side in document.sides] == ["enterprise", "plant-a"]
    assert {cited.zone for cited in document.criteria[2].rests_on} == {"enterprise", "plant-a"}
    assert merged.path.name.endswith("-enterprise")
    assert problems(merged.path, homes["enterprise"]) == ()
    assert problems(merged.path, homes["plant-a"]) == ()
    for zone in homes:
        assert problems(merged.path / "evidence" / zone, homes["enterprise"]) == ()


def test_the_worse_side_counts(homes: dict[str, Home]) -> None:
    failed = check_result("fetch.first", Outcome.FAILED)
    first = written(homes)
    second = write_handoff(
        homes["plant-a"], run_record("plant-a", "enterprise", changed={failed.id: failed}), time.time_ns()
    )
    merged = merge_handoffs(homes["plant-a"], [first.path, second.path], time.time_ns())
    assert merged.document.criteria[2].status == "not met"
    assert merged.document.criteria[2].reason == "plant-a: fetch.first failed: seen of fetch.first"
    assert not merged.document.accepted


def test_contradictions_are_named(homes: dict[str, Home]) -> None:
    lying = policies("plant-a", "enterprise")
    lying["authorization"]["here"]["streams"] = ["facts.orders", "facts.shipments"]
    lying["certificates"]["here"]["sha256"] = "b" * 64
    record = run_record("plant-a", "enterprise")
    inputs = record.inputs | {"cursor_init_mode": "start_now", "trust_chain": "/elsewhere/ca.crt"}
    second = write_handoff(homes["plant-a"], replace(record, policies=lying, inputs=inputs), time.time_ns())
    merged = merge_handoffs(homes["enterprise"], [written(homes).path, second.path], time.time_ns())
    told = "\n".join(merged.document.contradictions)
    assert "streams that enterprise may read of plant-a: enterprise saw ['facts.orders']" in told
    assert "certificate sha-256 of plant-a" in told
    assert "input cursor_init_mode: enterprise has bounded_backfill_24h, plant-a has start_now" in told
    assert len(merged.document.contradictions) == 3
    assert not merged.document.accepted
    assert problems(merged.path, homes["plant-a"]) == ()


def test_a_lone_record_is_merged_as_unsigned_and_not_accepted(homes: dict[str, Home], tmp_path: Path) -> None:
    lone = tmp_path / "from-the-peer.json"
    shutil.copy(written(homes, "plant-a", "enterprise").path / RECORD, lone)
    merged = merge_handoffs(homes["enterprise"], [written(homes).path, lone], time.time_ns())
    assert not merged.document.accepted
    assert any("plant-a came without its folder" in line for line in merged.document.open)
    assert problems(merged.path, homes["enterprise"]) == ()


def test_what_can_t_be_merged_says_why(homes: dict[str, Home]) -> None:
    first, second = written(homes), written(homes, "plant-a", "enterprise")
    home = homes["enterprise"]
    with pytest.raises(BsfgError, match="not the two sides of one relationship") as caught:
        merge_handoffs(home, [first.path, first.path], time.time_ns())
    assert caught.value.code is Code.INVALID_REQUEST
    merged = merge_handoffs(home, [first.path, second.path], time.time_ns())
    with pytest.raises(BsfgError, match="is merged already"):
        merge_handoffs(home, [merged.path, second.path], time.time_ns())
    (second.path / "handoff.md").write_text("forged")
    with pytest.raises(BsfgError, match=r"can't be merged: handoff\.md was changed"):
        merge_handoffs(home, [first.path, second.path], time.time_ns())


def test_a_changed_source_in_a_merged_record_is_found(homes: dict[str, Home]) -> None:
    first, second = written(homes), written(homes, "plant-a", "enterprise")
    merged = merge_handoffs(homes["enterprise"], [first.path, second.path], time.time_ns())
    document = json.loads((merged.path / RECORD).read_bytes())
    document["sides"][1]["approver"] = "Somebody else"
    (merged.path / RECORD).write_text(json.dumps(document))
    source = merged.path / "evidence" / "plant-a" / "handoff.md"
    source.write_text("forged")
    resign(merged.path, homes["enterprise"])
    found = problems(merged.path, homes["plant-a"])
    assert any("what it says of plant-a is not what" in problem for problem in found)
    assert any("evidence/plant-a/: handoff.md was changed" in problem for problem in found)


def test_a_key_that_can_t_sign_is_named(homes: dict[str, Home], tmp_path: Path) -> None:
    home = homes["enterprise"]
    shutil.copy(homes["plant-a"].server_key, home.server_key)
    with pytest.raises(BsfgError, match="does not belong to"):
        written(homes)
    assert not (home.data / "handoff").exists()


def test_the_list_shows_all_and_what_can_t_be_read(homes: dict[str, Home]) -> None:
    home = homes["enterprise"]
    assert list(list_handoffs(home)) == []
    first, second = written(homes), written(homes)
    (second.path / RECORD).write_bytes(b"{")
    rows = list(list_handoffs(home))
    assert [row["path"] for row in rows] == [str(first.path), str(second.path)]
    assert rows[0]["accepted"] is True
    assert "not what its schema says" in rows[1]["problem"]
