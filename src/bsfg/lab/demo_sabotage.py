"""How to break what a line of the demo stands on, for real: a line that can't fail proves nothing.

Each is a context: what it breaks is broken while the line runs, and mended afterwards where something else needs it.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.server
import json
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

from bsfg.lab import held, processes, templates
from bsfg.lab.demo_artifacts import DOCUMENTS, SPOILT_BYTES, SPOILT_CONTENT, object_path
from bsfg.lab.demo_bringup import HANDOFFS
from bsfg.lab.demo_flow import INBOUND, PEER, STREAM
from bsfg.lab.demo_stage import Stage, credentials_of, wait_until
from bsfg.lab.demo_trust import UNLISTED_IDENTITY, UNLISTED_STREAM, UNLISTED_ZONE, rogue_credentials
from bsfg.lab.homes import ENTERPRISE, PLANT_A
from bsfg.lab.processes import LabZone
from bsfg.model.fact import ORIGIN_HEADER
from bsfg.tasks import end_tasks
from bsfg.transport.development_ca import PUBLIC_MODE, write_whole

LOST_FACTS: Final = 5
BEGIN_SECONDS_MAX: Final = 10.0
PLANT_A_MAY_HAVE: Final = ENTERPRISE.artifacts
_OTHER_IDENTITY: Final = "somebody-else-bsfg"

Sabotage = Callable[[Stage], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def _changed(stage: Stage, zone: LabZone, files: Mapping[Path, bytes]) -> AsyncIterator[None]:
    """These files have another content while the line runs, and the gateway has taken it up."""
    kept = {path: path.read_bytes() for path in files}
    await _install(stage, zone, files)
    try:
        yield
    finally:
        await _install(stage, zone, kept)


async def _install(stage: Stage, zone: LabZone, files: Mapping[Path, bytes]) -> None:
    for path, content in files.items():
        write_whole(path, content, PUBLIC_MODE)
    await stage.ask(zone, "config", "reload")


def expect_somebody_else(stage: Stage) -> AbstractAsyncContextManager[None]:
    """plant-a expects another identity at enterprise's address."""
    path = stage.plant.home / "config" / "peers.yaml"
    content = path.read_bytes().replace(ENTERPRISE.identity.encode(), _OTHER_IDENTITY.encode())
    return _changed(stage, stage.plant, {path: content})


def trust_the_rogue(stage: Stage) -> AbstractAsyncContextManager[None]:
    """enterprise installs the rogue authority as an anchor for plant-a."""
    rogue_credentials(stage, PLANT_A)
    rogue = (stage.scratch / "rogue-ca" / "ca.crt").read_bytes()
    certs = stage.enterprise.home / "certs"
    anchors = (certs / "ca.crt", certs / f"{PLANT_A.zone}-ca.crt")
    return _changed(stage, stage.enterprise, {path: path.read_bytes() + rogue for path in anchors})


@asynccontextmanager
async def serve_anybody(stage: Stage) -> AsyncIterator[None]:
    """At enterprise's address stands a server with its certificate that asks nobody for one."""
    with held.gateway_of(stage.enterprise.home) as gateway:
        if gateway is not None:
            gateway.kill()
    host, _, port = stage.enterprise.endpoint.rpartition(":")
    server = http.server.ThreadingHTTPServer((host, int(port)), _AnswersAnybody)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    credentials = credentials_of(stage.enterprise)
    context.load_cert_chain(credentials.certificate, credentials.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        await asyncio.to_thread(processes.start, stage.directory, (ENTERPRISE.zone,))


class _AnswersAnybody(http.server.BaseHTTPRequestHandler):
    """Says that enterprise is well, whoever asks."""

    def do_GET(self) -> None:
        answer = json.dumps(
            {"zone": ENTERPRISE.zone, "identity": ENTERPRISE.identity, "status": "ok"}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_words: object) -> None:
        """Nothing: the demo's lines are on this terminal."""


def list_the_stranger(stage: Stage) -> AbstractAsyncContextManager[None]:
    """enterprise lists the identity that nobody knew."""
    path = stage.enterprise.home / "config" / "peers.yaml"
    entry = f"""\
  - id: {UNLISTED_ZONE}
    identity: {UNLISTED_IDENTITY}
    endpoint: {PLANT_A.host}:1
    authorized: true
    streams: [{STREAM}]
"""
    return _changed(stage, stage.enterprise, {path: path.read_bytes() + entry.encode()})


def export_the_stream(stage: Stage) -> AbstractAsyncContextManager[None]:
    """enterprise exports the stream that it kept for itself."""
    path = stage.enterprise.home / "config" / "peers.yaml"
    content = path.read_bytes().replace(f"[{STREAM}".encode(), f"[{UNLISTED_STREAM}, {STREAM}".encode())
    return _changed(stage, stage.enterprise, {path: content})


def start_now(stage: Stage) -> AbstractAsyncContextManager[None]:
    """plant-a's configuration wants no history of the stream."""
    path = stage.plant.home / "config" / "cursors.yaml"
    stream = f"stream: {STREAM}\n    init_mode: "
    default, other = f"{stream}{templates.DEFAULT_MODE}", f"{stream}start_now\n    justification: sabotage"
    return _changed(stage, stage.plant, {path: path.read_bytes().replace(default.encode(), other.encode())})


@asynccontextmanager
async def lose_last_fact(stage: Stage) -> AsyncIterator[None]:
    """The last stored fact vanishes from plant-a's inbound stream."""
    store = stage.stores[PLANT_A.zone]
    await store.delete(INBOUND, (await store.state(INBOUND)).last_sequence)
    yield


@asynccontextmanager
async def store_twice(stage: Stage) -> AsyncIterator[None]:
    """A fact is stored in plant-a's inbound stream a second time."""
    store = stage.stores[PLANT_A.zone]
    last = await store.last(INBOUND)
    await store.publish(last.subject, last.payload, {ORIGIN_HEADER: last.origin.header_value()})
    yield


def mirror_nothing(stage: Stage) -> AbstractAsyncContextManager[None]:
    """plant-a's configuration wants no artifacts."""
    path = stage.plant.home / "config" / "cursors.yaml"
    return _changed(stage, stage.plant, {path: path.read_bytes().replace(b"    artifacts: mirror\n", b"")})


def forbid_the_type(stage: Stage) -> AbstractAsyncContextManager[None]:
    """enterprise lets plant-a have documents alone, so nothing of the other type is missing: it is forbidden."""
    path = stage.enterprise.home / "config" / "peers.yaml"
    allowed = ", ".join(PLANT_A_MAY_HAVE).encode()
    return _changed(stage, stage.enterprise, {path: path.read_bytes().replace(allowed, DOCUMENTS.encode())})


@asynccontextmanager
async def believe_the_disk(stage: Stage) -> AsyncIterator[None]:
    """plant-a's own disk holds the spoilt bytes under the digest of the true ones."""
    place = object_path(stage.plant, hashlib.sha256(SPOILT_CONTENT).hexdigest())
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(SPOILT_BYTES)
    yield


@asynccontextmanager
async def lose_facts(stage: Stage) -> AsyncIterator[None]:
    """Some stored facts vanish from the middle of plant-a's inbound stream."""
    store = stage.stores[PLANT_A.zone]
    last = (await store.state(INBOUND)).last_sequence
    for sequence in range(last - 2 * LOST_FACTS, last - LOST_FACTS):
        await store.delete(INBOUND, sequence)
    yield


@asynccontextmanager
async def reconcile_too_early(stage: Stage) -> AsyncIterator[None]:
    """The partition ends while the line is still at work behind it."""

    async def is_partitioned() -> bool:
        return bool((await stage.ask(stage.plant, "status"))["partitions"])

    async def reconcile() -> None:
        await wait_until("the partition begins", BEGIN_SECONDS_MAX, is_partitioned)
        await stage.ask(stage.plant, "admin", "reconcile", "--peer", PEER)

    task = asyncio.create_task(reconcile())
    try:
        yield
    finally:
        await end_tasks(task)


@asynccontextmanager
async def stay_apart(stage: Stage) -> AsyncIterator[None]:
    """enterprise cuts plant-a off, too, so that ending plant-a's partition is not enough."""
    peer = ("--peer", PLANT_A.zone)
    await stage.ask(stage.enterprise, "admin", "partition", *peer, "--reason", "sabotage")
    try:
        yield
    finally:
        await stage.ask(stage.enterprise, "admin", "reconcile", *peer)


@asynccontextmanager
async def alter_a_payload(stage: Stage) -> AsyncIterator[None]:
    """The last fact of plant-a's inbound stream is replaced by one with another payload."""
    store = stage.stores[PLANT_A.zone]
    last = await store.last(INBOUND)
    await store.delete(INBOUND, last.sequence)
    await store.publish(last.subject, last.payload + b" ", {ORIGIN_HEADER: last.origin.header_value()})
    yield


@asynccontextmanager
async def contradict_the_inputs(stage: Stage) -> AsyncIterator[None]:
    """What people wrote down for the bring-up names another endpoint than the one that runs."""
    path = stage.plant.home / "config" / "bringup.yaml"
    kept = path.read_bytes()
    port = stage.enterprise.endpoint.rpartition(":")[2].encode()
    write_whole(path, kept.replace(b":" + port, b":1"), PUBLIC_MODE)
    try:
        yield
    finally:
        write_whole(path, kept, PUBLIC_MODE)


@asynccontextmanager
async def polish_the_record(stage: Stage) -> AsyncIterator[None]:
    """Somebody edits enterprise's handoff before it is merged."""
    record = Path(stage.notes[HANDOFFS][1]) / "handoff.md"
    with record.open("a", encoding="utf-8") as file:
        file.write("\nAll the best.\n")
    yield


SABOTAGES: Final[Mapping[str, Sabotage]] = {
    "health": expect_somebody_else,
    "wrong-ca": trust_the_rogue,
    "no-certificate": serve_anybody,
    "unlisted-identity": list_the_stranger,
    "unlisted-stream": export_the_stream,
    "first-fetch": start_now,
    "durable-append": lose_last_fact,
    "duplicate-replay": store_twice,
    "artifacts": mirror_nothing,
    "artifact-missing": forbid_the_type,
    "artifact-spoilt": believe_the_disk,
    "kill-resume": lose_facts,
    "partition": reconcile_too_early,
    "reconciliation": stay_apart,
    "comparison": alter_a_payload,
    "bring-up": contradict_the_inputs,
    "handoff": polish_the_record,
}
