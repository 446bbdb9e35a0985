"""Sections 4.1, 4.2 and 6.2 of the runbook: the allow-list, the exported streams, and what we may read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from bsfg.checks import looks
from bsfg.checks.check import Check, Context, Finding, excepted, failed, not_run, passed, step
from bsfg.checks.model import Judgement, Severity, Side
from bsfg.config.bringup import Word
from bsfg.config.values import Durability, EmbeddedSubstrate, ExternalSubstrate
from bsfg.errors import BsfgError, Code

STRICT: Final = "strict"


def judge_active(on_disk: Mapping[str, str], running: Mapping[str, str], reload_error: str | None) -> Judgement:
    """What lies on disk is what runs; both are sha-256 by file."""
    if reload_error is not None:
        return failed(
            "the configuration on disk does not run", reload_error.splitlines()[0], "bsfg config check without errors"
        )
    names = sorted({*on_disk, *running})
    different = [name for name in names if on_disk.get(name) != running.get(name)]
    if different:
        return failed(
            f"{', '.join(different)} is not what runs",
            "the running gateway has read other contents",
            "the files on disk, loaded",
        )
    return passed(f"{len(names)} files, as on disk")


def judge_listed(entries: Sequence[Mapping[str, Any]], peer: str) -> Judgement:
    """The running allow-list has the peer, authorized."""
    entry = next((each for each in entries if each["id"] == peer), None)
    if entry is None:
        return failed("the peer is not in the allow-list", f"no entry {peer}", "an entry with authorized: true")
    if not entry["authorized"]:
        return failed("the peer is not authorized", "authorized: false", "authorized: true")
    return passed(f"{len(entry['streams'])} streams, {len(entry['artifacts'])} artifact types")


def judge_grants(approved: Mapping[str, Collection[str]], granted: Mapping[str, Collection[str]]) -> Judgement:
    """The peer enforces what was approved for us; both by ``streams`` and ``artifacts``."""
    for kind, names in approved.items():
        found, expected = looks.listed(granted[kind]), looks.listed(names)
        if lacking := set(names) - set(granted[kind]):
            return failed(f"the peer withholds {looks.listed(lacking)}", found, expected)
        if beyond := set(granted[kind]) - set(names):
            return failed(f"the peer grants {looks.listed(beyond)} too", found, expected)
    return passed("; ".join(f"{kind}: {looks.listed(names)}" for kind, names in granted.items()))


def judge_exported(rows: Mapping[str, Mapping[str, Any] | str]) -> Judgement:
    """Every exported stream exists and is as configured; a text stands for why one can't be seen."""
    for stream, row in rows.items():
        if isinstance(row, str):
            return failed(f"{stream} is not there", row, "an existing stream")
        if row.get("problem"):
            return failed(f"{stream} is not usable", str(row["problem"]), "a stream that can be exported")
        for difference in row.get("differences") or ():
            return failed(
                f"{stream} is not as configured",
                f"{difference['field']} is {difference['found']}",
                f"{difference['field']}: {difference['expected']}",
            )
    return passed(looks.listed(rows) if rows else "nothing is exported to this peer")


def judge_replicas(found: Mapping[str, int], expected: int, *, is_embedded: bool) -> Judgement:
    """Every exported stream has the configured replicas; the embedded single node is an exception (runbook 4.2)."""
    for stream, replicas in found.items():
        if replicas < expected:
            return failed(f"{stream} has too few replicas", str(replicas), str(expected))
    if is_embedded and found:
        return excepted("one node by configuration: every ack is fsynced there")
    return passed(f"{expected} each" if found else "nothing is exported to this peer")


def judge_durability(
    words: Iterable[str], configured: Durability, reason: str | None, approver: Word | None
) -> Judgement:
    """Acks mean what was configured; what can't be verified, or is lazy by choice, is an exception in writing."""
    found = set(words)
    if not found or found == {STRICT}:
        return passed("every ack is on disk" if found else "nothing is exported to this peer")
    word = "lazy" if "lazy" in found else sorted(found - {STRICT})[0]
    if word == "lazy" and configured is Durability.STRICT:
        return failed("acks are not on disk", "sync_interval is not always", "durability: strict", reason)
    return _excepted_in_writing(word, reason, approver)


def judge_peer_durability(rows: Sequence[Mapping[str, Any]], replicas: int, approver: Word | None) -> Judgement:
    """What the peer exports to us is as durable as it says that it should be."""
    if not rows:
        return passed("the peer exports nothing to us")
    for row in rows:
        if row["replicas"] is None or row["durability"] is None:
            return not_run(f"could not look: the peer does not say how durable {row['stream']} is")
        if row["replicas"] < replicas:
            return failed(f"the peer's {row['stream']} has too few replicas", str(row["replicas"]), str(replicas))
    words = {row["durability"] for row in rows} - {STRICT}
    if words:
        return _excepted_in_writing(sorted(words)[0], "the peer's own word", approver)
    return passed(f"strict, {replicas} replica{'s' if replicas > 1 else ''}")


def judge_readable(offered: Collection[str], imports: Collection[str]) -> Judgement:
    """The peer lets us read every stream that we import."""
    lacking = set(imports) - set(offered)
    if lacking:
        return failed(f"denied: {looks.listed(lacking)}", looks.listed(offered), looks.listed(imports))
    return passed(looks.listed(imports) if imports else "nothing is imported from this peer")


def _excepted_in_writing(word: str, reason: str | None, approver: Word | None) -> Judgement:
    if approver is None:
        return failed(
            f"durability is {word}, and nobody has approved that",
            reason or word,
            "strict, or an approver in config/bringup.yaml",
        )
    return excepted(f"durability is {word}: {reason or 'by configuration'}; approved by {approver.by}")


async def _active(context: Context) -> Finding:
    running, evidence = await looks.local(context, "config")
    status, _ = await looks.local(context, "status")
    judgement = judge_active(context.configuration.file_hashes, running["files"], status["reload_error"])
    files = context.evidence("files", dict(running["files"]), evidence.source)
    return Finding(judgement, (files,))


async def _listed(context: Context) -> Finding:
    running, _ = await looks.local(context, "config")
    entry = [each for each in running["peers"] if each["id"] == context.peer.id]
    evidence = context.evidence("allow-list", entry, "local API GET /v1/config")
    return Finding(judge_listed(running["peers"], context.peer.id), (evidence,))


async def _grants(context: Context) -> Finding:
    matrix = context.inputs.authorization_matrix
    if matrix is None or context.zone not in matrix.grants:
        return Finding(not_run(f"no approved matrix says what {context.zone} may read"))
    approved = matrix.grants[context.zone]
    seen, evidence = await looks.view(context)
    granted = {"streams": [row["stream"] for row in seen["streams"]], "artifacts": seen["artifacts"]}
    return Finding(
        judge_grants({"streams": approved.streams, "artifacts": approved.artifacts}, granted), (evidence,)
    )


async def _stream_rows(context: Context) -> dict[str, Mapping[str, Any] | str]:
    rows: dict[str, Mapping[str, Any] | str] = {}
    for stream in context.peer.streams:
        try:
            rows[stream] = await context.surroundings.local("GET", looks.route("streams", stream))
        except BsfgError as error:
            if error.code not in (Code.NOT_FOUND, Code.CONFIGURATION):
                raise
            rows[stream] = error.message
    return rows


async def _exported(context: Context) -> Finding:
    rows = await _stream_rows(context)
    return Finding(judge_exported(rows), (context.evidence("streams", rows, "local API GET /v1/streams"),))


async def _replicas(context: Context) -> Finding:
    rows, substrate = await _stream_rows(context), context.configuration.zone.substrate
    found = {stream: int(row["replicas"]) for stream, row in rows.items() if not isinstance(row, str)}
    expected = substrate.replicas if isinstance(substrate, ExternalSubstrate) else 1
    evidence = context.evidence("replicas", found, "local API GET /v1/streams")
    return Finding(
        judge_replicas(found, expected, is_embedded=isinstance(substrate, EmbeddedSubstrate)), (evidence,)
    )


async def _durability(context: Context) -> Finding:
    rows = await _stream_rows(context)
    status, _ = await looks.local(context, "status")
    words = [str(row["durability"]) for row in rows.values() if not isinstance(row, str)]
    reason = status["substrate"].get("durability_reason")
    judgement = judge_durability(words, context.configuration.zone.durability, reason, context.inputs.approver)
    return Finding(judgement, (context.evidence("substrate", status["substrate"], "local API GET /v1/status"),))


async def _peer_durability(context: Context) -> Finding:
    seen, evidence = await looks.view(context)
    judgement = judge_peer_durability(seen["streams"], seen["replicas_configured"], context.inputs.approver)
    return Finding(judgement, (evidence,))


async def _readable(context: Context) -> Finding:
    seen, evidence = await looks.local(context, "peers", context.peer.id, "streams")
    offered = [row["stream"] for row in seen["streams"]]
    return Finding(judge_readable(offered, [link.name.stream for link in context.links]), (evidence,))


VIEWED: Final = (
    "gateway.healthy",
    "access.peer-listed",
    "trust.own-validity",
    "trust.own-identity",
    "trust.peer-validity",
    "trust.peer-chain",
    "trust.peer-identity",
)
"""What has to hold before the peer's word can be asked for at all."""

CHECKS: Final[tuple[Check, ...]] = (
    step(
        "4.1",
        "access.configuration-active",
        "the configuration on disk is what runs",
        _active,
        "bsfg config check, then bsfg config reload",
        ("gateway.healthy", "anchors.installed", "certificates.issued", "trust.own-identity"),
        Severity.HALT,
    ),
    step(
        "4.1",
        "access.peer-listed",
        "the peer is in the running allow-list",
        _listed,
        "set authorized: true for it in config/peers.yaml, if that is approved",
        ("gateway.healthy",),
        Severity.HALT,
    ),
    step(
        "4.1",
        "access.peer-grants",
        "the peer grants us exactly what was approved",
        _grants,
        "the peer's operator corrects our entry in its config/peers.yaml, or the matrix is approved anew",
        VIEWED,
        side=Side.PEER,
    ),
    step(
        "4.2",
        "streams.exported",
        "every exported stream exists as configured",
        _exported,
        "bsfg stream info S; what would delete facts needs bsfg stream apply S --reason R",
        ("gateway.healthy",),
    ),
    step(
        "4.2",
        "streams.replicas",
        "every exported stream has its replicas",
        _replicas,
        "replicas: stands under substrate in config/zone.yaml; nats stream edit changes an existing stream",
        ("streams.exported",),
    ),
    step(
        "4.2",
        "streams.durability",
        "an acknowledged fact is as durable as configured",
        _durability,
        "set sync_interval: always on every nats-server, or write durability: lazy and have it approved",
        ("streams.exported",),
    ),
    step(
        "4.2",
        "streams.peer-durability",
        "what the peer exports to us is durable",
        _peer_durability,
        "the peer's operator sees to its streams, or approver: in config/bringup.yaml accepts it",
        VIEWED,
        side=Side.PEER,
    ),
)
READABLE: Final = step(
    "6.2",
    "access.streams-readable",
    "the peer lets us read every stream that we import",
    _readable,
    "our entry in the peer's config/peers.yaml decides; bsfg peer streams shows what it offers",
    ("health.peer", "access.peer-grants"),
    side=Side.PEER,
)
