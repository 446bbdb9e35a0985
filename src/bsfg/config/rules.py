"""What holds between values: within an entry, within a file, and between the three files (contract, section 3).

The rules see only values that fitted their type, so that each problem is reported once, in its own place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from bsfg.config.address import BadValue
from bsfg.config.limits import Limits
from bsfg.config.names_in_use import NamesInUse
from bsfg.config.scalars import check_identity, default_bucket, did_you_mean
from bsfg.config.schema import (
    ArtifactsSection,
    CursorSection,
    CursorsFile,
    PeerSection,
    PeersFile,
    SubstrateSection,
    ZoneFile,
)
from bsfg.config.source import Path, Source
from bsfg.config.values import LISTEN_DEFAULT, LOCAL_DEFAULT, Redirect
from bsfg.model.cursor import parse_init_mode
from bsfg.model.identity import IdentityFrom
from bsfg.model.names import StreamName, ZoneId, printable

INIT_MODE_DEFAULT: Final = "bounded_backfill_24h"


def check_zone(zone: ZoneFile, source: Source) -> None:
    """The rules of zone.yaml."""
    _require(source, (), ("zone", "identity"))
    if zone.identity_from is IdentityFrom.SUBJECT:
        source.problem(
            ("identity_from",),
            "identity_from: subject is only for a peer whose certificate has no SAN",
            "our own certificate carries its identity in the SAN: use dns or uri",
        )
    else:
        _check_identities(zone, source, (), zone.identity_from or IdentityFrom.DNS)
    _check_listeners(zone, source)
    if zone.substrate is not None:
        _check_substrate(zone.substrate, source)
    _check_local_streams(zone, source)
    _check_artifacts(zone.artifacts, source)
    _check_limits(zone, source)


def _require(source: Source, path: Path, keys: Iterable[str]) -> None:
    for key in keys:
        if not source.was_written((*path, key)):
            source.problem(path, f"{key} is missing", f"add '{key}: ...'")


def _check_identities(entry: ZoneFile | PeerSection, source: Source, path: Path, kind: IdentityFrom) -> None:
    """Identity and further SAN entries have the form of the type they are read as."""
    if source.is_spoiled((*path, "identity_from")):
        return
    written: list[tuple[str, Path]] = [
        (text, (*path, "identity_san_extra", index)) for index, text in enumerate(entry.identity_san_extra)
    ]
    if kind is IdentityFrom.SUBJECT and written:
        where = (*path, "identity_san_extra")
        source.problem(where, "identity_san_extra does not go with identity_from: subject", "remove it")
        written = []
    if entry.identity is not None:
        written.insert(0, (entry.identity, (*path, "identity")))
    seen: set[str] = set()
    for text, place in written:
        try:
            check_identity(text, kind)
        except BadValue as error:
            source.problem(place, error.message, error.hint)
        if text.lower() in seen:
            source.problem(place, f"{printable(text)} stands here twice", "remove one")
        seen.add(text.lower())


def _check_listeners(zone: ZoneFile, source: Source) -> None:
    local = zone.local or LOCAL_DEFAULT
    if not local.is_loopback and not source.was_written(("local_token_file",)):
        source.problem(
            ("local",),
            f"local {local} is reachable from other hosts and there is no local_token_file",
            "use a loopback address, or name a local_token_file",
        )
    if source.is_spoiled(("listen",)) or source.is_spoiled(("local",)):
        return
    listen = zone.listen or LISTEN_DEFAULT
    if listen.overlaps(local):
        key = "local" if source.was_written(("local",)) else "listen"
        source.problem((key,), f"listen {listen} and local {local} take the same port", "give each its own")


def _check_substrate(substrate: SubstrateSection, source: Source) -> None:
    where: Path = ("substrate",)
    has_embedded = substrate.embedded is not None or source.was_written((*where, "embedded"))
    has_url = source.was_written((*where, "url"))
    written = [key for key in SubstrateSection.model_fields if source.was_written((*where, key))]
    if not has_embedded and not has_url:
        source.problem(
            where, "substrate names neither embedded nor a url", "write substrate: embedded, or add url"
        )
    elif has_embedded:
        for key in written:
            if key != "embedded":
                source.problem_at_key(
                    (*where, key),
                    f"{key} does not go with the embedded server",
                    "remove it, or use url alone",
                )
    for index in _repeated(substrate.monitor or []):
        source.problem((*where, "monitor", index), "this monitor is listed twice", "remove one")


def _check_local_streams(zone: ZoneFile, source: Source) -> None:
    names = NamesInUse()
    for index, stream in enumerate(zone.streams):
        _require(source, ("streams", index), ("name",))
        if stream.name is not None:
            _check_name(names, stream.name, source, ("streams", index, "name"))
    audit = zone.audit_stream
    if audit is None or names.has(audit) or source.has_lost("streams", "name"):
        return
    hint = did_you_mean(audit, names.names) or "add it to streams"
    source.problem(("audit_stream",), f"audit_stream {audit} is not one of the streams of this zone", hint)


def _check_name(names: NamesInUse, name: StreamName, source: Source, path: Path, owner: str = "") -> None:
    """A stream of a set in which no two may be equal or collide (contract, section 1)."""
    other = names.add(name, source.place(path)[0])
    if other is None:
        return
    line = f"in line {names.line(other)}"
    if other == name:
        source.problem(path, f"stream {name}{owner} is listed twice", f"first {line}; remove one")
    else:
        source.problem(
            path,
            f"stream {name}{owner} collides with {other} {line}",
            "no two streams may share a name in JetStream or be a dotted prefix of each other",
        )


def _check_artifacts(artifacts: ArtifactsSection, source: Source) -> None:
    where: Path = ("artifacts",)
    s3_keys = ("endpoint", "region", "credentials_file")
    if artifacts.store == "s3":
        _require(source, where, ("endpoint", "region"))
    elif not source.is_spoiled((*where, "store")):
        for key in s3_keys:
            if source.was_written((*where, key)):
                source.problem_at_key(
                    (*where, key), f"{key} is only for store: s3", "remove it, or use store: s3"
                )
        if artifacts.redirect is Redirect.ON:
            source.problem(
                (*where, "redirect"), "redirect is only for store: s3", "a peer can't be sent to a folder"
            )
    if artifacts.quota_per_peer > artifacts.quota and source.was_written((*where, "quota_per_peer")):
        source.problem((*where, "quota_per_peer"), "quota_per_peer is larger than quota", "lower it")


def _check_limits(zone: ZoneFile, source: Source) -> None:
    for smaller, larger in (
        ("retry_delay_seconds_min", "retry_delay_seconds_max"),
        ("peer_connections_max", "connections_max"),
        ("long_polls_per_peer", "peer_connections_max"),
    ):
        low, high = (limit_or_default(zone, name) for name in (smaller, larger))
        spoiled = any(source.is_spoiled(("limits", name)) for name in (smaller, larger))
        if low > high and not spoiled:
            key = smaller if source.was_written(("limits", smaller)) else larger
            source.problem(("limits", key), f"{smaller} is larger than {larger}", "change one of the two")


def limit_or_default(zone: ZoneFile, name: str) -> float:
    """A limit as written, else its default."""
    written = getattr(zone.limits, name)
    number: float = getattr(Limits(), name) if written is None else written
    return number


def check_peers(peers: PeersFile, source: Source, zone: ZoneFile, zone_source: Source) -> None:
    """The rules of peers.yaml, and between it and zone.yaml."""
    local_streams = {stream.name for stream in zone.streams if stream.name is not None}
    streams_known = not zone_source.has_lost("streams", "name")
    identities = _first_seen((zone.identity or "").lower(), "this zone's own identity")
    buckets = _first_seen(_bucket(zone.artifacts.bucket, zone.identity, zone.zone), "this zone's own")
    kind = zone.identity_from or IdentityFrom.DNS
    ids: dict[str, str] = _first_seen(zone.zone or "", "this zone's own id")
    for index, peer in enumerate(peers.peers):
        if source.is_full:
            return
        where: Path = ("peers", index)
        _require(source, where, ("id", "identity", "endpoint"))
        if not zone_source.is_spoiled(("identity_from",)):
            _check_identities(peer, source, where, peer.identity_from or kind)
        _check_endpoint(peer, source, where)
        _once(ids, peer.id, source, (*where, "id"), "id")
        _once(identities, (peer.identity or "").lower(), source, (*where, "identity"), "identity")
        bucket = _bucket(peer.artifact_bucket, peer.identity, peer.id)
        _once(buckets, bucket, source, (*where, "artifact_bucket"), "artifact_bucket")
        _check_repeats(peer, source, where)
        if streams_known:
            _check_exports(peer, source, where, local_streams)


def _bucket(bucket: str | None, identity: str | None, zone: ZoneId | None) -> str:
    """The bucket that is written, else the default one where enough is known for it, else nothing."""
    if bucket or not identity or not zone:
        return bucket or ""
    return default_bucket(identity, zone)


def _first_seen(value: str, where: str) -> dict[str, str]:
    return {value: where} if value else {}


def _once(seen: dict[str, str], value: str | None, source: Source, path: Path, what: str) -> None:
    """Report a value that stood somewhere before."""
    if not value:
        return
    if value in seen:
        source.problem(path, f"{what} {printable(value)} is taken", f"it is {seen[value]}")
    else:
        seen[value] = f"that of the peer in line {source.place(path)[0]}"


def _check_endpoint(peer: PeerSection, source: Source, where: Path) -> None:
    if peer.endpoint is not None and peer.endpoint.is_wildcard:
        path = (*where, "endpoint")
        source.problem(
            path, f"endpoint {peer.endpoint} names no host", "write the address where the peer listens"
        )


def _check_repeats(peer: PeerSection, source: Source, where: Path) -> None:
    for key, listed in (("streams", peer.streams), ("artifacts", peer.artifacts)):
        for index in _repeated(listed):
            source.problem((*where, key, index), f"{listed[index]} is listed twice", "remove one")


def _check_exports(peer: PeerSection, source: Source, where: Path, local_streams: set[StreamName]) -> None:
    for index, stream in enumerate(peer.streams):
        if stream not in local_streams and not source.is_full:
            hint = did_you_mean(stream, local_streams) or "add it to streams in config/zone.yaml"
            source.problem(
                (*where, "streams", index),
                f"stream {stream} is not one of the streams in config/zone.yaml",
                hint,
            )


def check_cursors(cursors: CursorsFile, source: Source, peers: PeersFile, peers_source: Source) -> None:
    """The rules of cursors.yaml, and between it and peers.yaml."""
    known = {peer.id for peer in peers.peers if peer.id is not None}
    peers_known = not peers_source.has_lost("peers", "id")
    links: dict[ZoneId, NamesInUse] = {}
    for index, cursor in enumerate(cursors.cursors):
        if source.is_full:
            return
        where: Path = ("cursors", index)
        _require(source, where, ("peer", "stream"))
        _check_start(cursor, source, where)
        if cursor.peer is not None and peers_known and cursor.peer not in known:
            hint = did_you_mean(cursor.peer, known) or "add it to config/peers.yaml"
            source.problem((*where, "peer"), f"peer {cursor.peer} is not in config/peers.yaml", hint)
        if cursor.peer is not None and cursor.stream is not None:
            of_peer = links.setdefault(cursor.peer, NamesInUse())
            _check_name(of_peer, cursor.stream, source, (*where, "stream"), f" from {cursor.peer}")
        _check_keep(cursor, source, (*where, "keep"))


def _check_keep(cursor: CursorSection, source: Source, where: Path) -> None:
    limits = ("max_age", "max_bytes")
    if cursor.keep is not None and not any(source.was_written((*where, key)) for key in limits):
        source.problem(where, "keep sets no limit", "add max_age or max_bytes, or remove keep")


def _check_start(cursor: CursorSection, source: Source, where: Path) -> None:
    """Where a link begins, and why, if that is not the default (runbook 5.1 to 5.3)."""
    if any(source.is_spoiled((*where, key)) for key in ("init_mode", "init_timestamp")):
        return
    mode = INIT_MODE_DEFAULT if cursor.init_mode is None else cursor.init_mode
    try:
        parse_init_mode(mode, cursor.init_timestamp)
    except ValueError as error:
        source.problem((*where, _start_key(cursor)), _start_message(cursor, error), _start_hint(cursor))
        return
    if mode != INIT_MODE_DEFAULT and not source.was_written((*where, "justification")):
        source.problem(
            (*where, "init_mode"),
            f"init_mode {mode} needs a justification",
            "add 'justification: ...'; only bounded_backfill_24h goes without one",
        )


def _start_key(cursor: CursorSection) -> str:
    """Which of the two keys is wrong: a timestamp that is there is, unless the mode itself is no mode."""
    if cursor.init_timestamp is None:
        return "init_mode"
    return "init_timestamp" if cursor.init_mode is None or _is_mode(cursor.init_mode) else "init_mode"


def _is_mode(mode: str) -> bool:
    try:
        parse_init_mode(mode)
    except ValueError:
        return mode == "explicit_timestamp"
    return True


def _start_message(cursor: CursorSection, error: ValueError) -> str:
    key = _start_key(cursor)
    written = cursor.init_timestamp if key == "init_timestamp" else cursor.init_mode
    return f"{key} {printable(written or '')}: {error}"


def _start_hint(cursor: CursorSection) -> str:
    mode = cursor.init_mode or INIT_MODE_DEFAULT
    if _start_key(cursor) == "init_timestamp" and mode != "explicit_timestamp":
        return "remove init_timestamp, or use init_mode: explicit_timestamp"
    if mode == "explicit_timestamp":
        return 'write init_timestamp: "2025-01-15T10:00:00Z"'
    if mode.startswith("bounded_backfill_"):
        return "for example bounded_backfill_48h; N is at least 1"
    return did_you_mean(mode, [INIT_MODE_DEFAULT, "start_now", "full_backfill", "explicit_timestamp"])


def _repeated(values: list[str] | list[StreamName]) -> Iterator[int]:
    """Positions of values that stood before."""
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value in seen:
            yield index
        seen.add(value)
