"""What a run's record says beside its results: the inputs, and the policies that its handoff documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from bsfg.checks import looks
from bsfg.checks.check import Context
from bsfg.checks.model import CheckResult
from bsfg.checks.surroundings import PresentedCertificate
from bsfg.config.bringup import BRINGUP_FILE, KEYS
from bsfg.errors import BsfgError
from bsfg.model.moment import format_time

VERSION_LENGTH_MAX: Final = 64


def described_inputs(context: Context) -> dict[str, Any]:
    """The runbook's section 2 as given and as configured, and the sha-256 of each file that says so."""
    inputs, zone = context.inputs, context.configuration.zone
    matrix = inputs.authorization_matrix
    return {
        "files": dict(context.configuration.file_hashes) | {BRINGUP_FILE: inputs.sha256},
        "given": {
            "zones": {letter: [named.zone, named.identity] for letter, named in inputs.identities.items()},
            "endpoints": {letter: str(address) for letter, address in inputs.endpoints.items()},
            "trust_chain": None if inputs.trust_chain is None else str(inputs.trust_chain),
            "authorization_matrix": None
            if matrix is None
            else {
                "by": matrix.word.by,
                "reference": matrix.word.reference,
                **{
                    grantee: {"streams": list(grant.streams), "artifacts": list(grant.artifacts)}
                    for grantee, grant in matrix.grants.items()
                },
            },
            "exported_streams": _listed(inputs.exported_streams),
            "cursor_init_mode": inputs.cursor_init_mode,
            "artifact_access_rules": _listed(inputs.artifact_access_rules),
            "required_history_seconds": dict(inputs.required_history),
            "missing": [key for key in KEYS if key not in inputs.lines],
        },
        "configured": {
            "zone": [zone.zone, zone.identity_rule.identity, str(zone.listen)],
            "peer": [context.peer.id, context.peer.rule.identity, str(context.peer.endpoint)],
        },
    }


async def gather_policies(context: Context) -> dict[str, Any]:
    """Cursor policy, authorization matrix, fingerprints and versions; what can't be seen now is null."""
    view = await _or_none(_view(context))
    status = await _or_none(_status(context))
    granted = None if view is None else [row["stream"] for row in view["streams"]]
    types = None if view is None else view["artifacts"]
    return {
        "cursors": [
            {
                "peer": link.name.peer,
                "stream": link.name.stream,
                "init_mode": link.init_mode.text,
                "init_timestamp": None
                if link.init_mode.timestamp is None
                else format_time(link.init_mode.timestamp),
                "justification": link.justification,
            }
            for link in context.links
        ],
        "authorization": {
            "here": {
                "streams": list(context.peer.streams),
                "artifacts": list(context.peer.artifacts),
                "reference": context.peer.reference,
            },
            "peer": {"streams": granted, "artifacts": types},
        },
        "certificates": {
            "here": _certificate(
                await _or_none(context.surroundings.own_certificate()),
                context.configuration.zone.identity_rule.identity,
                await _or_none(context.surroundings.anchors(_anchor_file(context))),
            ),
            "peer": _certificate(
                await _or_none(context.surroundings.presented()),
                context.peer.rule.identity,
                None if view is None else view["anchors"],
            ),
        },
        "artifact_retrieval_enabled": bool(context.peer.artifacts) or bool(types) or types is None,
        "versions": {
            "bsfg": None if status is None else status["version"],
            "nats_server": None if status is None else status["substrate"].get("version"),
        },
    }


def peer_version(results: Iterable[CheckResult]) -> str | None:
    """The version that the peer's health named, bounded: it is the peer's word."""
    for result in results:
        if result.id == "health.peer" and result.evidence:
            seen = result.evidence[0].seen
            answer = seen.get("answer") if isinstance(seen, Mapping) else None
            version = answer.get("version") if isinstance(answer, Mapping) else None
            if isinstance(version, str) and version.isprintable():
                return version[:VERSION_LENGTH_MAX]
    return None


def _certificate(shown: PresentedCertificate | None, identity: str, anchors: Any) -> dict[str, Any]:
    """A zone's certificate, and the anchors that it trusts for the other zone."""
    view = None if shown is None else shown.view
    return {
        "identity": identity,
        "sha256": None if view is None else view.fingerprint,
        "not_after": None if view is None else format_time(view.not_after),
        "anchors": None if anchors is None else list(anchors),
    }


def _anchor_file(context: Context) -> Path:
    return context.peer.trust_anchor or context.configuration.paths.anchors


async def _view(context: Context) -> dict[str, Any]:
    return (await looks.view(context))[0]


async def _status(context: Context) -> dict[str, Any]:
    status: dict[str, Any] = (await looks.local(context, "status"))[0]
    return status


async def _or_none(looking: Any) -> Any:
    try:
        return await looking
    except BsfgError:
        return None


def _listed(values: Iterable[str] | None) -> list[str] | None:
    return None if values is None else list(values)
