"""A NATS cluster as others run it: real servers on loopback, TLS, JetStream, and accounts by signed JWT."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import nkeys
from tests.support.nats import BINARY, STOP_SECONDS, NatsServer

from bsfg.lab.homes import free_port
from bsfg.transport.development_ca import create_authority, issue

HOST: Final = "127.0.0.1"
NAMES: Final = ("n1", "n2", "n3")
READY_SECONDS: Final = 30.0
MONITOR_SECONDS: Final = 2.0
_ANY: Final = -1


class Signer:
    """An NKey that signs JWTs: an operator's or an account's."""

    def __init__(self, prefix: int) -> None:
        self.pair = nkeys.from_seed(bytearray(nkeys.encode_seed(os.urandom(32), prefix)))
        self.public_key: str = bytes(self.pair.public_key).decode()

    def sign(self, subject: str, name: str, claims: Mapping[str, Any]) -> str:
        """A JWT about the subject, in the form that nats-server reads (version 2)."""
        body = {
            "jti": base64.b32encode(os.urandom(32)).decode().rstrip("="),
            "iat": int(time.time()),
            "iss": self.public_key,
            "name": name,
            "sub": subject,
            "nats": {**claims, "version": 2},
        }
        parts = [
            _encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body)
        ]
        signature = self.pair.sign(".".join(parts).encode())
        return ".".join([*parts, _encoded(signature)])


class Accounts:
    """An operator with an account for the zone and a system account; users get credentials files."""

    def __init__(self) -> None:
        self.operator = Signer(nkeys.PREFIX_BYTE_OPERATOR)
        self.zone = Signer(nkeys.PREFIX_BYTE_ACCOUNT)
        self.system = Signer(nkeys.PREFIX_BYTE_ACCOUNT)

    def configuration(self) -> str:
        """The part of a server's configuration that trusts them."""
        operator = self.operator.sign(self.operator.public_key, "operator", {"type": "operator"})
        zone = self._account(self.zone, "zone", {"mem_storage": _ANY, "disk_storage": _ANY, "streams": _ANY})
        system = self._account(self.system, "system", {})
        return (
            f"operator: {operator}\nsystem_account: {self.system.public_key}\nresolver: MEMORY\n"
            f"resolver_preload {{\n  {self.zone.public_key}: {zone}\n  {self.system.public_key}: {system}\n}}\n"
        )

    def credentials(self, account: Signer, path: Path) -> Path:
        """A new user of the account, as a credentials file that only its owner reads."""
        seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
        public_key = bytes(nkeys.from_seed(bytearray(seed)).public_key).decode()
        limits = {"subs": _ANY, "data": _ANY, "payload": _ANY}
        token = account.sign(public_key, path.stem, {"type": "user", "pub": {}, "sub": {}, **limits})
        path.touch(mode=0o600)
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{bytes(seed).decode()}\n------END USER NKEY SEED------\n"
        )
        return path

    def _account(self, account: Signer, name: str, jetstream: Mapping[str, int]) -> str:
        names = ("subs", "data", "payload", "imports", "exports", "conn", "leaf", "consumer")
        limits = dict.fromkeys(names, _ANY) | {"wildcards": True} | dict(jetstream)
        return self.operator.sign(account.public_key, name, {"type": "account", "limits": limits})


class ClusterNode:
    """One server of the cluster; its ports and its store stay the same over restarts."""

    def __init__(self, directory: Path, name: str, ports: Mapping[str, int]) -> None:
        self.directory = directory
        self.name = name
        self.url = f"tls://{HOST}:{ports['client']}"
        self.monitor = f"http://{HOST}:{ports['monitor']}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, without waiting until it is ready."""
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(BINARY), "-c", str(self.directory / f"{self.name}.conf")], stdout=log, stderr=log
            )

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)

    def ask(self, path: str) -> dict[str, Any] | None:
        """An answer of its monitor; None while there is none."""
        try:
            with urllib.request.urlopen(f"{self.monitor}{path}", timeout=MONITOR_SECONDS) as answer:
                found: dict[str, Any] = json.load(answer)
        except (OSError, ValueError):
            return None
        return found


class NatsCluster:
    """Three servers; ``sync_intervals`` are theirs in order."""

    def __init__(self, directory: Path, sync_intervals: Iterable[str] = ("always",) * 3) -> None:
        self.directory = directory
        self.accounts = Accounts()
        directory.mkdir(parents=True)
        authority = create_authority(directory, "NATS CA")
        self.ca = authority.certificate
        issue(
            authority.certificate,
            authority.key,
            "nats",
            san_ip=[HOST],
            days=1,
            out_cert=directory / "nats.crt",
            out_key=directory / "nats.key",
        )
        taken: set[int] = set()
        ports = [{use: _port(taken) for use in ("client", "cluster", "monitor")} for _ in NAMES]
        self.nodes = [ClusterNode(directory, name, own) for name, own in zip(NAMES, ports, strict=True)]
        for node, own, sync_interval in zip(self.nodes, ports, sync_intervals, strict=True):
            text = self._configuration(node, own, ports, sync_interval)
            (directory / f"{node.name}.conf").write_text(text)

    @property
    def urls(self) -> str:
        return ",".join(node.url for node in self.nodes)

    def node(self, name: str) -> ClusterNode:
        return next(node for node in self.nodes if node.name == name)

    def start(self) -> None:
        """Return when every server is ready and JetStream has a leader."""
        for node in self.nodes:
            node.start()
        self.wait_ready()

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while (
            not all(node.ask("/healthz") == {"status": "ok"} for node in self.nodes) or not self._has_leader()
        ):
            if time.monotonic() > deadline:
                logs = [(self.directory / f"{name}.log").read_text()[-2000:] for name in NAMES]
                raise AssertionError("the cluster did not become ready:\n" + "\n".join(logs))
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL to all at once."""
        for node in self.nodes:
            node.kill()

    def leader_of(self, stream: str) -> str:
        """The server that leads a stream of the zone's account."""
        for node in self.nodes:
            found = node.ask("/jsz?streams=true&accounts=true") or {}
            for account in found.get("account_details", []):
                for row in account.get("stream_detail", []):
                    if row["name"] == stream and row.get("cluster", {}).get("leader"):
                        return str(row["cluster"]["leader"])
        raise AssertionError(f"nobody leads {stream}")

    def _has_leader(self) -> bool:
        found = self.nodes[0].ask("/varz") or {}
        return bool(found.get("jetstream", {}).get("meta", {}).get("leader"))

    def _configuration(
        self, node: ClusterNode, own: Mapping[str, int], ports: list[dict[str, int]], sync_interval: str
    ) -> str:
        routes = ", ".join(f'"nats://{HOST}:{each["cluster"]}"' for each in ports)
        return f"""\
server_name: {node.name}
listen: "{HOST}:{own["client"]}"
http: "{HOST}:{own["monitor"]}"
tls {{ cert_file: "{self.directory / "nats.crt"}", key_file: "{self.directory / "nats.key"}" }}
cluster {{ name: plant, listen: "{HOST}:{own["cluster"]}", routes: [{routes}] }}
jetstream {{ store_dir: "{self.directory / node.name}", sync_interval: "{sync_interval}" }}
{self.accounts.configuration()}"""


@contextmanager
def running_cluster(
    directory: Path, sync_intervals: Iterable[str] = ("always",) * 3
) -> Iterator[NatsCluster]:
    """A cluster that is ready, and gone behind the block."""
    cluster = NatsCluster(directory, sync_intervals)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@asynccontextmanager
async def claiming(server: NatsServer, version: str) -> AsyncIterator[str]:
    """The server behind a proxy in whose mouth every version becomes this one."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, rewrites: bool) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while chunk := await reader.read(65_536):
                writer.write(
                    re.sub(rb'"version":"[^"]+"', b'"version":"%b"' % version.encode(), chunk)
                    if rewrites
                    else chunk
                )
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(
            carry(reader, upstream_writer, rewrites=False), carry(upstream_reader, writer, rewrites=True)
        )

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"nats://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    finally:
        proxy.close()


def _port(taken: set[int]) -> int:
    port = free_port(HOST, taken)
    taken.add(port)
    return port


def _encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()
