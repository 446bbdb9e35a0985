"""The text of a lab's configuration files, as the runbook's examples show them (runbook, sections 2, 4 and 5)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MIRRORED: Final = ("facts.operational", "facts.batch_completed")
"""Streams whose facts name artifacts that the receiver wants to have."""
FULL_HISTORY: Final = {"facts.audit": "compliance: the audit trail has to be complete"}
"""Streams whose link does not start by the default mode, and why."""
DEFAULT_MODE: Final = "bounded_backfill_24h"


@dataclass(frozen=True, slots=True)
class ZoneSpec:
    """A zone of the lab."""

    zone: str
    identity: str
    host: str
    """Address of the peer listener."""
    exports: tuple[str, ...]
    private_streams: tuple[str, ...]
    """Streams of its own that no peer may read."""
    artifacts: tuple[str, ...]
    """Types that the peer may read."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a zone of the lab listens."""

    listen: str
    local: str
    nats_port: int


def zone_yaml(spec: ZoneSpec, addresses: Addresses) -> str:
    streams = "".join(f"  - name: {stream}\n" for stream in (*spec.exports, *spec.private_streams))
    return f"""\
# A zone of a lab: everything runs on this machine's loopback addresses.
zone: {spec.zone}
identity: {spec.identity}
listen: {addresses.listen}
local: {addresses.local}
substrate: {{embedded: {{port: {addresses.nats_port}}}}}
streams:
{streams}log: {{format: json, file: data/bsfg.log}}
lab: true
"""


def peers_yaml(spec: ZoneSpec, peer: ZoneSpec, peer_addresses: Addresses) -> str:
    return f"""\
# Who may read what from this zone; whatever is not listed is denied.
peers:
  - id: {peer.zone}
    identity: {peer.identity}
    endpoint: {peer_addresses.listen}
    authorized: true
    streams: {_listed(spec.exports)}
    artifacts: {_listed(spec.artifacts)}
    trust_anchor: certs/{peer.zone}-ca.crt
    reference: LAB-1
"""


def cursors_yaml(peer: ZoneSpec, manual_start: Set[str] = frozenset()) -> str:
    entries = "".join(_cursor_entry(peer.zone, stream, stream in manual_start) for stream in peer.exports)
    return f"# What this zone reads from whom, and where each link starts.\ncursors:\n{entries}"


def _cursor_entry(peer: str, stream: str, is_manual: bool) -> str:
    lines = [f"  - peer: {peer}", f"    stream: {stream}"]
    if stream in FULL_HISTORY:
        lines += ["    init_mode: full_backfill", f"    justification: {json.dumps(FULL_HISTORY[stream])}"]
    else:
        lines.append(f"    init_mode: {DEFAULT_MODE}")
    if stream in MIRRORED:
        lines.append("    artifacts: mirror")
    if is_manual:
        lines.append("    start: manual")
    return "\n".join(lines) + "\n"


def bringup_yaml(
    zone_a: ZoneSpec, zone_b: ZoneSpec, addresses: Mapping[str, Addresses], anchors: Path
) -> str:
    """What only people know, for the bring-up (contract, section 7)."""
    history = "".join(
        f"  {stream}: 24h\n" for stream in (*zone_a.exports, *zone_b.exports) if stream not in FULL_HISTORY
    )
    return f"""\
# The inputs of the runbook's section 2.
zone_a_identity: {{zone: {zone_a.zone}, identity: {zone_a.identity}}}
zone_b_identity: {{zone: {zone_b.zone}, identity: {zone_b.identity}}}
zone_a_endpoint: {addresses[zone_a.zone].listen}
zone_b_endpoint: {addresses[zone_b.zone].listen}
trust_chain: {json.dumps(str(anchors))}
authorization_matrix:
  by: Lab Operator
  reference: LAB-1
  {zone_b.zone}: {{streams: {_listed(zone_a.exports)}, artifacts: {_listed(zone_a.artifacts)}}}
  {zone_a.zone}: {{streams: {_listed(zone_b.exports)}, artifacts: {_listed(zone_b.artifacts)}}}
exported_streams: {_listed(zone_a.exports)}
cursor_init_mode: {DEFAULT_MODE}
artifact_access_rules: {{{", ".join(f"{kind}: read" for kind in zone_a.artifacts)}}}

# What rests on a person's word.
commissioning:
  zone_a: {{result: Passed, by: Lab Operator, reference: LAB-2}}
  zone_b: {{result: Passed, by: Lab Operator, reference: LAB-3}}
artifact_policy: {{by: Lab Operator, reference: LAB-4}}
message_catalog: {{by: Lab Operator, reference: LAB-5}}
monitoring:
  zone_a: {{by: Lab Operator, reference: LAB-6}}
  zone_b: {{by: Lab Operator, reference: LAB-7}}
required_history:
{history}approver: {{by: Lab Operator, reference: LAB-8}}
"""


def _listed(values: tuple[str, ...]) -> str:
    return "[" + ", ".join(values) + "]"
