"""Section 4.3 of the runbook: who is not entitled gets nothing, and the same request of who is entitled is answered.

A listener that is away looks like perfect denial, so that each denial stands on its twin (design, decision 14).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bsfg.checks import looks
from bsfg.checks.access import VIEWED
from bsfg.checks.check import Check, Context, Finding, Probe, excepted, failed, not_run, passed
from bsfg.checks.model import Judgement, Severity, Side
from bsfg.checks.surroundings import Credentials, Reply, Stranger

SECTION: Final = "4.3"
OK: Final = 200
FORBIDDEN: Final = 403
NOT_FOUND: Final = 404
HEALTH: Final = "/health"
FETCH: Final = "/v1/fetch"
UNLISTED_STREAM: Final = "facts.never_exported_by_anybody"
UNLISTED_TYPE: Final = "never-allowed-to-anybody"
ABSENT_KEY: Final = "bsfg-bringup/never-stored"


def is_denied(reply: Reply) -> bool:
    """Cut in the handshake or right after it, or answered with 403."""
    return reply.cut is not None or reply.status == FORBIDDEN


def judge_denial(denied: Reply, twin: Reply, twin_status: int = OK) -> Judgement:
    """The stranger is refused and the entitled one is served; where the latter is not, nothing was shown."""
    if twin.status != twin_status:
        return not_run(f"could not look: the same request with our right is not served either: {shown(twin)}")
    if is_denied(denied):
        return passed(shown(denied))
    if denied.status is not None and denied.status < 400:
        return failed("it was served", shown(denied), "a refused handshake, or 403", "close the peer's listener now")
    return not_run(f"could not look: neither served nor denied: {shown(denied)}")


def judge_listing(denied: Reply, twin: Reply, code: str, twin_status: int = OK) -> Judgement:
    """What is not listed is denied by policy, with the contract's code."""
    verdict = judge_denial(denied, twin, twin_status)
    if is_denied(denied) and denied.code != code and twin.status == twin_status:
        return failed("it was refused for another reason", shown(denied), f"403 {code}")
    return verdict


def judge_unlisted(denied: Reply, twin: Reply) -> Judgement:
    """An identity that a trusted CA vouches for is refused by the allow-list, not already by TLS."""
    verdict = judge_denial(denied, twin)
    if denied.cut is not None and twin.status == OK:
        return excepted(f"refused in the handshake: {denied.cut}; is its CA one that the peer trusts?")
    return verdict


def shown(reply: Reply) -> str:
    return reply.cut or f"{reply.status} {reply.code or ''}".strip()


def _stranger(stranger: Stranger | None) -> Probe:
    async def probe(context: Context) -> Finding:
        denied, twin = await _both(context, stranger)
        judgement = judge_denial(denied, twin)
        if stranger is Stranger.EXPIRED and not context.is_lab and judgement == passed(shown(denied)):
            judgement = excepted(f"{shown(denied)}; it was made here, by a CA that nobody trusts")
        return Finding(judgement, _evidence(context, HEALTH, denied, twin))

    return probe


async def _both(context: Context, caller: Credentials | Stranger | None) -> tuple[Reply, Reply]:
    denied = await context.surroundings.request(HEALTH, caller=caller)
    return denied, await context.surroundings.request(HEALTH, caller=context.surroundings.own)


async def _unlisted_identity(context: Context) -> Finding:
    caller = context.options.denial or (Stranger.UNLISTED if context.is_lab else None)
    if caller is None:
        hint = "give --denial-cert and --denial-key of an unlisted identity"
        return Finding(not_run("needs a certificate of a trusted CA", hint))
    denied, twin = await _both(context, caller)
    return Finding(judge_unlisted(denied, twin), _evidence(context, HEALTH, denied, twin))


async def _unlisted_stream(context: Context) -> Finding:
    seen, _ = await looks.view(context)
    allowed = [row["stream"] for row in seen["streams"]]
    if not allowed:
        return Finding(not_run("the peer lets us read no stream, so that there is no positive twin"))
    denied = await _fetch(context, UNLISTED_STREAM)
    twin = await _fetch(context, allowed[0])
    judgement = judge_listing(denied, twin, "stream_denied")
    return Finding(judgement, _evidence(context, f"{FETCH} {UNLISTED_STREAM}", denied, twin))


async def _fetch(context: Context, stream: str) -> Reply:
    body = {"stream": stream, "cursor_policy": "start_now", "max_facts": 1}
    return await context.surroundings.request(FETCH, body, caller=context.surroundings.own)


async def _unlisted_artifact(context: Context) -> Finding:
    seen, _ = await looks.view(context)
    denied = await _artifact(context, UNLISTED_TYPE)
    if denied.status == NOT_FOUND:
        return Finding(not_run(f"the peer's gateway serves no artifacts: {shown(denied)}"))
    evidence = _evidence(context, f"artifact of type {UNLISTED_TYPE}", denied, None)
    if not seen["artifacts"]:
        is_right = denied.code == "artifact_denied"
        summary = f"{shown(denied)}; no type is allowed, so that there is no positive twin"
        return Finding(excepted(summary) if is_right else not_run(f"could not look: {shown(denied)}"), evidence)
    twin = await _artifact(context, seen["artifacts"][0])
    judgement = judge_listing(denied, twin, "artifact_denied", NOT_FOUND)
    return Finding(judgement, _evidence(context, f"artifact of type {UNLISTED_TYPE}", denied, twin))


async def _artifact(context: Context, artifact_type: str) -> Reply:
    uri = f"s3://{context.peer.artifact_bucket}/{artifact_type}/{ABSENT_KEY}"
    return await context.surroundings.request(f"/v1/artifacts?uri={uri}", caller=context.surroundings.own)


def _evidence(context: Context, asked: str, denied: Reply, twin: Reply | None) -> Any:
    seen: Mapping[str, Any] = {
        "denied": shown(denied),
        "the same with our right": None if twin is None else shown(twin),
        "tls_version": (twin or denied).tls_version,
    }
    return (context.evidence(asked, dict(seen), f"TLS to {context.peer.endpoint}"),)


def _check(name: str, title: str, probe: Probe, requires: tuple[str, ...] = VIEWED) -> Check:
    hint = "the peer's operator looks at its log: who was let in, and by which entry of config/peers.yaml"
    return Check(f"denial.{name}", SECTION, title, Severity.WARN, Side.PEER, probe, hint, requires)


CHECKS: Final[tuple[Check, ...]] = (
    _check("wrong-ca", "our identity from a CA that nobody installed is denied", _stranger(Stranger.WRONG_CA)),
    _check("self-signed", "our identity signed by itself is denied", _stranger(Stranger.SELF_SIGNED)),
    _check("expired", "an expired certificate of our identity is denied", _stranger(Stranger.EXPIRED)),
    _check("no-certificate", "a caller without a certificate is denied", _stranger(None)),
    _check("unlisted-identity", "an unlisted identity of a trusted CA is denied", _unlisted_identity),
    _check("unlisted-stream", "a stream that is not exported to us is denied", _unlisted_stream),
    _check("unlisted-artifact", "an artifact type that we may not read is denied", _unlisted_artifact),
)
