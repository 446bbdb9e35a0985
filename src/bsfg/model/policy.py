"""What a peer may read from us: one function, and what is not written is denied (runbook 4.1; I31, I35)."""

from __future__ import annotations

from dataclasses import dataclass

from bsfg.errors import Code
from bsfg.model.names import StreamName, ZoneId


@dataclass(frozen=True, slots=True)
class PeerPolicy:
    """One peer's row of the allow-list."""

    peer: ZoneId
    authorized: bool
    streams: frozenset[StreamName]
    artifact_types: frozenset[str]


@dataclass(frozen=True, slots=True)
class ReadStream:
    stream: StreamName


@dataclass(frozen=True, slots=True)
class ReadArtifact:
    artifact_type: str


@dataclass(frozen=True, slots=True)
class Allowed:
    rule: str
    """The row that allowed it, for the audit."""


@dataclass(frozen=True, slots=True)
class Denied:
    code: Code
    rule: str


def decide(policy: PeerPolicy | None, wish: ReadStream | ReadArtifact | None) -> Allowed | Denied:
    """Whether a verified peer may have its wish; ``None`` stands for being served at all."""
    if policy is None or not policy.authorized:
        return Denied(Code.PEER_UNKNOWN, "no authorized entry in peers.yaml")
    match wish:
        case None:
            return Allowed(f"{policy.peer}: authorized")
        case ReadStream(stream):
            if stream in policy.streams:
                return Allowed(f"{policy.peer}: streams has {stream}")
            return Denied(Code.STREAM_DENIED, f"{policy.peer}: streams does not have it")
        case ReadArtifact(artifact_type):
            if artifact_type in policy.artifact_types:
                return Allowed(f"{policy.peer}: artifacts has {artifact_type}")
            return Denied(Code.ARTIFACT_DENIED, f"{policy.peer}: artifacts does not have it")
