"""Bring-up records for tests of what is made from them: by default one in which everything passed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from tests.support.certificates import TestAuthority

from bsfg import __version__
from bsfg.checks.handoff_criteria import CRITERIA
from bsfg.checks.model import CheckResult, Evidence, Outcome, RunRecord, Severity, Side
from bsfg.config.home import Home
from bsfg.transport.development_ca import write_whole

BEGAN: Final = 1_736_935_200_000_000_000
"""2025-01-15T10:00:00Z."""
MADE_AT: Final = BEGAN + 60_000_000_000
IDENTITIES: Final = {"enterprise": "enterprise-bsfg", "plant-a": "plant-a-bsfg"}
STREAMS: Final = {"enterprise": ["facts.operational", "facts.audit"], "plant-a": ["facts.orders"]}
CHECK_IDS: Final = tuple(dict.fromkeys(name for rule in CRITERIA for name in (*rule.needs, *rule.supports)))


def check_result(name: str, outcome: Outcome = Outcome.PASSED, **changed: Any) -> CheckResult:
    """One result with one piece of evidence."""
    seen = Evidence("what was looked at", {"ok": True}, BEGAN, "the test")
    result = CheckResult(
        id=name,
        section="6.1",
        title=f"{name} holds",
        severity=Severity.WARN,
        side=Side.BOTH,
        outcome=outcome,
        summary=f"seen of {name}",
        began=BEGAN,
        seconds=0.25,
        evidence=(seen,),
    )
    return replace(result, **changed)


def run_record(
    zone: str = "enterprise",
    peer: str = "plant-a",
    changed: Mapping[str, CheckResult | None] | None = None,
    **other: Any,
) -> RunRecord:
    """A run of ``zone``; ``changed`` replaces, adds or (None) leaves out results by check id."""
    results: dict[str, CheckResult | None] = {name: check_result(name) for name in CHECK_IDS}
    results |= changed or {}
    record = RunRecord(
        zone=zone,
        identity=IDENTITIES[zone],
        peer=peer,
        peer_identity=IDENTITIES[peer],
        run=f"{zone}-1",
        began=BEGAN,
        ended=BEGAN + 50_000_000_000,
        version=__version__,
        peer_version=__version__,
        results=tuple(result for result in results.values() if result is not None),
        inputs=dict(INPUTS),
        policies=policies(zone, peer),
        approver="Lab Operator, LAB-8",
    )
    return replace(record, **other)


INPUTS: Final = {
    "zone_a_identity": {"zone": "enterprise", "identity": "enterprise-bsfg"},
    "zone_b_identity": {"zone": "plant-a", "identity": "plant-a-bsfg"},
    "zone_a_endpoint": "10.1.1.10:9443",
    "zone_b_endpoint": "10.3.1.10:9443",
    "trust_chain": "/opt/bsfg/certs/ca.crt",
    "authorization_matrix": "LAB-1",
    "exported_streams": ["facts.operational", "facts.audit"],
    "cursor_init_mode": "bounded_backfill_24h",
    "artifact_access_rules": {"batch-files": "read", "documents": "read"},
}


def policies(zone: str, peer: str) -> dict[str, Any]:
    """What a handoff shows of the configuration of both sides."""
    cursors = [
        {"peer": peer, "stream": stream, "init_mode": "bounded_backfill_24h"} for stream in STREAMS[peer]
    ]
    if "facts.audit" in STREAMS[peer]:
        cursors[-1] |= {"init_mode": "full_backfill", "justification": "compliance requirement"}
    return {
        "cursors": cursors,
        "authorization": {
            "here": {"streams": STREAMS[zone], "artifacts": ["documents"], "reference": "LAB-1"},
            "peer": {"streams": STREAMS[peer], "artifacts": ["documents"]},
        },
        "certificates": {"here": _certificate(zone), "peer": _certificate(peer)},
        "artifact_retrieval_enabled": True,
        "versions": {"nats-server": "2.15.1"},
    }


def _certificate(zone: str) -> dict[str, Any]:
    digit = "e" if zone == "enterprise" else "a"
    return {"identity": IDENTITIES[zone], "sha256": digit * 64, "not_after": "2026-01-15T10:00:00Z"}


def build_homes(folder: Path) -> dict[str, Home]:
    """Two homes that know each other: real certificates, each zone's CA pinned at the other."""
    authorities = {zone: TestAuthority(folder / "ca" / zone, f"{zone} CA") for zone in IDENTITIES}
    return {
        zone: _home(folder, zone, peer, authorities)
        for zone, peer in (("enterprise", "plant-a"), ("plant-a", "enterprise"))
    }


def _home(folder: Path, zone: str, peer: str, authorities: Mapping[str, TestAuthority]) -> Home:
    home = Home(folder / zone)
    issued = authorities[zone].issue(IDENTITIES[zone], dns=[IDENTITIES[zone]])
    write_whole(home.server_certificate, issued.certificate_path.read_bytes(), 0o644)
    write_whole(home.server_key, issued.key_path.read_bytes(), 0o600)
    both = authorities[zone].path.read_bytes() + authorities[peer].path.read_bytes()
    write_whole(home.anchors, both, 0o644)
    write_whole(home.certs / f"{peer}-ca.crt", authorities[peer].path.read_bytes(), 0o644)
    write_whole(home.zone_file, f"zone: {zone}\nidentity: {IDENTITIES[zone]}\n".encode(), 0o644)
    peers = f"peers:\n  - id: {peer}\n    identity: {IDENTITIES[peer]}\n    endpoint: 10.3.1.10:9443\n"
    peers += f"    authorized: true\n    trust_anchor: certs/{peer}-ca.crt\n"
    write_whole(home.peers_file, peers.encode(), 0o644)
    return home
