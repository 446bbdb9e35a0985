"""Whether an external NATS keeps what it acknowledges: does every server that holds streams sync each write?

A server says so only on its monitor port or to the system account (design, decision 6). Nothing is assumed: whatever
can't be seen leaves the durability ``unverified``, with the reason in words (I3).
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from bsfg.errors import BsfgError
from bsfg.substrates.control import Control
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.nats_frames import Frame, encode_publish
from bsfg.substrates.nats_target import NatsTarget
from bsfg.substrates.server_version import judge, parse_version

RECHECK_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 5.0
LOOK_SECONDS: Final = 1.0
HTTP_SECONDS: Final = 2.0
GATHER_SECONDS: Final = 1.0
ANSWER_BYTES_MAX: Final = 1024 * 1024
SERVERS_MAX: Final = 256
PING_SUBJECT: Final = "$SYS.REQ.SERVER.PING.VARZ"
QUORUM_REPLICAS_MIN: Final = 3

STRICT: Final = "strict"
LAZY: Final = "lazy"
UNVERIFIED: Final = "unverified"
NO_SOURCE: Final = "zone.yaml names neither monitor nor system_credentials under substrate"

_SECOND: Final = 1_000_000_000
_UNREADABLE: Final = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What one server says of itself in ``varz``."""

    server_id: str
    name: str
    version: str
    domain: str
    has_jetstream: bool
    syncs_always: bool = False
    sync_seconds: float = 0.0
    """How often it syncs, where that is not always."""
    members: int = 1
    """How many servers JetStream runs on, as this one knows it."""
    member_names: frozenset[str] = frozenset()
    offline: frozenset[str] = frozenset()
    """Members that are away, by the word of JetStream's leader; empty in the report of any other server."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """The reports that came, and why others did not."""

    reports: Sequence[ServerReport]
    failures: Sequence[str] = ()


Ask = Callable[[], Awaitable[Gathered]]


def read_report(varz: Mapping[str, Any]) -> ServerReport:
    """A server's ``varz`` as a report; KeyError, TypeError or ValueError where it is none."""
    jetstream = varz.get("jetstream") or {}
    config, meta = jetstream.get("config") or {}, jetstream.get("meta") or {}
    replicas = meta.get("replicas") or []
    name = str(varz["server_name"])
    return ServerReport(
        server_id=str(varz["server_id"]),
        name=name,
        version=str(varz["version"]),
        domain=str(config.get("domain", "")),
        has_jetstream=bool(config),
        syncs_always=config.get("sync_always") is True,
        sync_seconds=int(config.get("sync_interval", 0)) / _SECOND,
        members=int(meta.get("cluster_size", 1)),
        member_names=frozenset(str(row["name"]) for row in replicas),
        offline=frozenset(str(row["name"]) for row in replicas if row.get("offline"))
        if meta.get("leader") == name
        else frozenset(),
    )


async def ask_monitors(urls: Sequence[str], tls: ssl.SSLContext | None) -> Gathered:
    """Ask each monitor port for its server's ``varz``, all at once, each for at most ``HTTP_SECONDS``."""
    timeout = aiohttp.ClientTimeout(total=HTTP_SECONDS)
    connector = aiohttp.TCPConnector(ssl=tls or True, force_close=True)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,
    ) as session:
        answers = await asyncio.gather(*(_ask_monitor(session, url) for url in urls))
    reports = [answer for answer in answers if isinstance(answer, ServerReport)]
    return Gathered(reports, [answer for answer in answers if isinstance(answer, str)])


async def _ask_monitor(session: aiohttp.ClientSession, url: str) -> ServerReport | str:
    """The report, or why there is none."""
    try:
        async with session.get(f"{url}/varz", allow_redirects=False) as response:
            if response.status != 200:
                return f"{url} answers with status {response.status}"
            body = bytearray()
            async for part in response.content.iter_any():
                body += part
                if len(body) > ANSWER_BYTES_MAX:
                    return f"{url} answers with more than {ANSWER_BYTES_MAX} bytes"
        return read_report(json.loads(body))
    except TimeoutError:
        return f"{url} does not answer within {HTTP_SECONDS:g} s"
    except (aiohttp.ClientError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return f"{url} can't be asked: {' '.join(reason.split())}"
    except _UNREADABLE:
        return f"{url} does not answer as a nats-server's monitor does"


async def ask_system_account(target: NatsTarget) -> Gathered:
    """Ask all servers of the system for their ``varz`` as a user of its system account, for ``GATHER_SECONDS``."""
    try:
        connection = await NatsConnection.connect(target, name="bsfg-durability")
    except BsfgError as error:
        return Gathered((), [f"the system account can't be asked: {error.message}"])
    frames: list[Frame] = []
    try:
        inbox = f"{connection.new_inbox()}varz"
        connection.subscribe(inbox, lambda more: frames.extend(more[: SERVERS_MAX - len(frames)]))
        connection.write(encode_publish(PING_SUBJECT.encode(), inbox.encode(), b"", b""))
        await asyncio.wait({connection.closed}, timeout=GATHER_SECONDS)
    finally:
        connection.close()
    return _of_frames(frames)


def _of_frames(frames: Iterable[Frame]) -> Gathered:
    reports, failures = [], []
    for frame in frames:
        try:
            if len(frame.payload) > ANSWER_BYTES_MAX:
                raise ValueError
            reports.append(read_report(json.loads(frame.payload)["data"]))
        except _UNREADABLE:
            failures.append(f"an answer to {PING_SUBJECT} can't be read")
    if not reports:
        failures.append("no server answers the user of system_credentials: is it one of the system account?")
    return Gathered(reports, failures)


def doubt(gathered: Gathered, connected_id: str, replicas: int) -> str | None:
    """Why it is not certain that every acknowledgement is on a disk, or on a quorum of disks; None if it is.

    Streams may lie on any server of JetStream's cluster, so each has to be seen to sync always. A server that the
    cluster's leader calls offline acknowledges nothing; it may be missing where every stream has a quorum without it.
    """
    reports = {report.server_id: report for report in gathered.reports}
    connected = reports.get(connected_id)
    if connected is None:
        return (
            "; ".join(gathered.failures) or "the servers that answer are not those that we are connected to"
        )
    servers = [
        report for report in reports.values() if report.has_jetstream and report.domain == connected.domain
    ]
    if not servers:
        return "no server that answers runs JetStream"
    return _unsynced(servers) or _missing(servers, replicas, gathered.failures)


def _unsynced(servers: Sequence[ServerReport]) -> str | None:
    for server in sorted(servers, key=lambda each: each.name):
        if not server.syncs_always:
            return f"server {server.name} syncs every {server.sync_seconds:g} s, not always (sync_interval: always)"
        version = parse_version(server.version)
        if version is not None and not judge(version).accepted:
            return f"server {server.name}: {judge(version).reason}"
    return None


def _missing(servers: Sequence[ServerReport], replicas: int, failures: Sequence[str]) -> str | None:
    seen = {server.name for server in servers}
    members = max(server.members for server in servers)
    away = frozenset().union(*(server.offline for server in servers)) - seen
    excused = len(away) if replicas >= QUORUM_REPLICAS_MIN else 0
    if len(servers) + excused >= members:
        return None
    names = sorted(frozenset().union(*(server.member_names for server in servers)) - seen)
    which = f" (missing: {', '.join(names)})" if names else ""
    why = "".join(f"; {failure}" for failure in failures)
    return f"{len(servers)} of {members} servers of JetStream were seen to sync always{which}{why}"


class DurabilityWatch:
    """What an acknowledgement of an external NATS means, asked again every minute and after each reconnection.

    ``notice`` is told, in one line each, when the answer changes and when a server's version has known defects.
    """

    def __init__(
        self,
        control: Control,
        ask: Ask | None,
        *,
        replicas: int,
        is_lazy: bool,
        notice: Callable[[str], None],
    ) -> None:
        self._control = control
        self._ask = ask
        self._replicas = replicas
        self._notice = notice
        self._warned: set[str] = set()
        self._is_lazy = is_lazy
        self.word = LAZY if is_lazy else UNVERIFIED
        """``strict``, ``lazy`` or ``unverified``."""
        self.reason: str | None = None if is_lazy else "it was not checked yet"
        """Why it is unverified; None where it is not."""

    async def run(self) -> None:
        """Watch until cancelled."""
        loop = asyncio.get_running_loop()
        seen, due_at = 0, 0.0
        while True:
            if self._control.connected and (seen != self._control.connections or loop.time() >= due_at):
                seen = self._control.connections
                self._warn_of_version()
                await self.check()
                due_at = loop.time() + (
                    RETRY_SECONDS if self.word == UNVERIFIED and self._ask else RECHECK_SECONDS
                )
            await asyncio.sleep(LOOK_SECONDS)

    async def check(self) -> None:
        """Ask once, and say what changed."""
        if self._is_lazy:
            return
        try:
            reason = NO_SOURCE if self._ask is None else await self._doubt(self._ask)
        except BsfgError as error:
            reason = error.message
        if reason != self.reason:
            self._notice(
                f"durability is unverified: {reason}"
                if reason
                else "durability is strict: every server syncs"
            )
        self.word, self.reason = (UNVERIFIED, reason) if reason else (STRICT, None)

    async def _doubt(self, ask: Ask) -> str | None:
        gathered = await ask()
        server_id = self._control.server_id
        return "there is no connection" if server_id is None else doubt(gathered, server_id, self._replicas)

    def _warn_of_version(self) -> None:
        version = parse_version(self._control.server_version or "")
        verdict = judge(version) if version is not None else None
        if verdict is not None and verdict.reason and verdict.reason not in self._warned:
            self._warned.add(verdict.reason)
            self._notice(verdict.reason)
