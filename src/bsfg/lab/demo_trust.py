"""The demo's lines about trust: a handshake and four denials, each with its positive twin (runbook 3.2, 4.3, 6.1)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bsfg.lab.demo_stage import Evidence, Stage, credentials_of, demand, wait_until
from bsfg.lab.homes import CERTIFICATE_DAYS, ENTERPRISE, PLANT_A, ZONES, peer_of
from bsfg.lab.peer_requests import Credentials, Reply
from bsfg.lab.processes import LabZone
from bsfg.lab.templates import ZoneSpec
from bsfg.transport.development_ca import create_authority, issue

OK: Final = 200
UNLISTED_ZONE: Final = "plant-b"
UNLISTED_IDENTITY: Final = "plant-b-bsfg"
UNLISTED_STREAM: Final = "facts.telemetry"
ABSENT_STREAM: Final = "facts.nowhere"
HANDSHAKE_ERRORS: Final = ("bsfg_tls_handshake_errors_total", "bsfg_auth_failures_total")
COUNTED_SECONDS: Final = 5.0
DENIALS: Final = ("bsfg_auth_failures_total", "bsfg_denied_total")


async def health(stage: Stage, evidence: Evidence) -> str:
    """Both zones answer /health over mutual TLS, and each gateway says the same of its peer."""
    for spec in ZONES:
        caller = stage.zones[peer_of(spec).zone]
        reply = await stage.request(spec, "/health", credentials_of(caller))
        told = reply.body or {}
        evidence[f"{caller.zone} asks {spec.zone}"] = {
            "status": reply.status, "tls": reply.tls_version, "answer": told
        }  # fmt: skip
        demand(reply.status == OK, f"{spec.zone} answered {caller.zone} with {reply}")
        demand(told.get("identity") == spec.identity, f"{spec.zone} says it is {told.get('identity')}")
        demand(reply.tls_version == "TLSv1.3", f"{spec.zone} spoke {reply.tls_version}")
    for spec in ZONES:
        caller = stage.zones[peer_of(spec).zone]
        check = await stage.ask(caller, "peer", "check", spec.zone)
        # Whether facts flow is for later lines: one link still waits for its first fetch.
        rows = [row for row in check["checks"] if row["id"] != "flowing"]
        evidence[f"{caller.zone} checks {spec.zone}"] = rows
        for row in rows:
            demand(row["outcome"] == "passed", f"{caller.zone}: not true that {row['title']}: {row['found']}")
    return f"{ENTERPRISE.identity} and {PLANT_A.identity}, TLSv1.3"


async def wrong_ca(stage: Stage, evidence: Evidence) -> str:
    """A certificate with the right identity from an authority that nobody installed is refused by both zones."""
    replies = []
    for spec in ZONES:
        replies.append(await _denied_stranger(stage, spec, rogue_credentials(stage, peer_of(spec)), evidence))
    return f"both refuse: {replies[0]}"


async def no_certificate(stage: Stage, evidence: Evidence) -> str:
    """A caller without a certificate is refused by both zones."""
    replies = [await _denied_stranger(stage, spec, None, evidence) for spec in ZONES]
    return f"both refuse: {replies[0]}"


async def _denied_stranger(
    stage: Stage, spec: ZoneSpec, credentials: Credentials | None, evidence: Evidence
) -> Reply:
    zone = stage.zones[spec.zone]
    before = await stage.counted(zone, *HANDSHAKE_ERRORS)
    denied = await stage.request(spec, "/health", credentials)
    twin = await stage.request(spec, "/health", credentials_of(stage.zones[peer_of(spec).zone]))
    evidence[spec.zone] = {"denied": str(denied), "the peer itself": str(twin)}
    demand(denied.is_denied, f"{spec.zone} answered {denied}")
    demand(twin.status == OK, f"{spec.zone} also refuses its real peer: {twin}")
    evidence[spec.zone]["counted"] = await _grown(stage, zone, HANDSHAKE_ERRORS, before)
    return denied


async def _grown(stage: Stage, zone: LabZone, counters: Sequence[str], before: float) -> float:
    """How much the counters have grown; what ``/metrics`` answers may be a moment old."""

    async def is_counted() -> bool:
        return await stage.counted(zone, *counters) > before

    await wait_until("the refusal is counted", COUNTED_SECONDS, is_counted)
    return await stage.counted(zone, *counters) - before


async def unlisted_identity(stage: Stage, evidence: Evidence) -> str:
    """A certificate from a trusted authority whose identity nobody listed gets no answer but a refusal."""
    stranger = unlisted_credentials(stage)
    body = _fetch_body("facts.operational")
    before = await stage.counted(stage.enterprise, *DENIALS)
    for path, content in (("/health", None), ("/v1/fetch", body)):
        denied = await stage.request(ENTERPRISE, path, stranger, content)
        twin = await stage.request(ENTERPRISE, path, credentials_of(stage.plant), content)
        evidence[path] = {UNLISTED_IDENTITY: str(denied), PLANT_A.identity: str(twin)}
        demand(denied.is_denied, f"{path} answered {UNLISTED_IDENTITY} with {denied}")
        demand(twin.status == OK, f"{path} also refuses {PLANT_A.identity}: {twin}")
    evidence["counted"] = await _grown(stage, stage.enterprise, DENIALS, before)
    return f"{UNLISTED_IDENTITY}: {evidence['/health'][UNLISTED_IDENTITY]}"


async def unlisted_stream(stage: Stage, evidence: Evidence) -> str:
    """A stream that exists but is not exported is denied, in the same words as one that does not exist."""
    plant = credentials_of(stage.plant)
    before = await stage.counted(stage.enterprise, *DENIALS)
    replies = {
        stream: await stage.request(ENTERPRISE, "/v1/fetch", plant, _fetch_body(stream))
        for stream in (UNLISTED_STREAM, ABSENT_STREAM, "facts.operational")
    }
    evidence.update({stream: str(reply) for stream, reply in replies.items()})
    demand(replies[UNLISTED_STREAM].is_denied, f"{UNLISTED_STREAM} was answered: {replies[UNLISTED_STREAM]}")
    demand(replies["facts.operational"].status == OK, "an exported stream is denied, too")
    codes = {replies[stream].error_code for stream in (UNLISTED_STREAM, ABSENT_STREAM)}
    demand(codes == {"stream_denied"}, f"absent and denied differ: {codes}")
    listed = await stage.request(ENTERPRISE, "/v1/streams", plant)
    names = sorted(row["stream"] for row in listed.body)
    evidence["streams told to plant-a"] = names
    demand(names == sorted(ENTERPRISE.exports), f"plant-a is told of {', '.join(names)}")
    evidence["counted"] = await _grown(stage, stage.enterprise, DENIALS, before)
    return f"{UNLISTED_STREAM}: {replies[UNLISTED_STREAM]}, as if absent"


def rogue_credentials(stage: Stage, spec: ZoneSpec) -> Credentials:
    """A zone's identity, vouched for by an authority that nobody installed; made once."""
    folder = stage.scratch / "rogue-ca"
    if not folder.exists():
        create_authority(folder, "rogue CA")
    return _issued(stage, folder / "ca.crt", folder / "ca.key", f"rogue-{spec.zone}", spec.identity)


def unlisted_credentials(stage: Stage) -> Credentials:
    """An identity that no peers.yaml lists, from plant-a's own authority; made once."""
    return _issued(stage, stage.plant.ca_cert, stage.plant.ca_key, UNLISTED_ZONE, UNLISTED_IDENTITY)


def _issued(stage: Stage, ca_cert: Path, ca_key: Path, name: str, identity: str) -> Credentials:
    credentials = Credentials(stage.scratch / f"{name}.crt", stage.scratch / f"{name}.key")
    if not credentials.certificate.exists():
        issue(
            ca_cert, ca_key, identity, san_dns=[identity], days=CERTIFICATE_DAYS,
            out_cert=credentials.certificate, out_key=credentials.key,
        )  # fmt: skip
    return credentials


def _fetch_body(stream: str) -> bytes:
    return json.dumps({"stream": stream, "cursor_policy": "bounded_backfill_24h", "max_facts": 1}).encode()
