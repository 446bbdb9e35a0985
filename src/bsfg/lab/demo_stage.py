"""What all lines of the demo share: the running lab, its stores, the example facts, and how a line fails."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bsfg.errors import BsfgError
from bsfg.lab import processes, program
from bsfg.lab.example_facts import ExampleFile
from bsfg.lab.homes import ENTERPRISE, PLANT_A
from bsfg.lab.peer_requests import Credentials, Reply, Target, send
from bsfg.lab.processes import LabZone
from bsfg.lab.stores import Store
from bsfg.lab.templates import ZoneSpec
from bsfg.model.cursor import LinkName
from bsfg.model.names import StreamName, ZoneId, inbound_physical, physical

POLL_SECONDS: Final = 0.1
METRICS_SECONDS: Final = 5.0

Evidence = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many facts each part of the demo moves."""

    first: int = 3_000
    """Batch events that wait for the first fetch."""
    more: int = 200
    """Appended while the cursor is watched."""
    replay: int = 500
    """Put on the wire again."""
    killed: int = 9_000
    """Published while the gateway is killed."""
    partitioned: int = 400
    """Appended while the zones are apart."""


class NotHeld(Exception):
    """The line's title is not true."""


def demand(condition: object, why: str) -> None:
    """Go on only if the condition holds."""
    if not condition:
        raise NotHeld(why)


@dataclass
class Stage:
    """The lab that the demo plays on."""

    directory: Path
    scratch: Path
    """Certificates that nobody should believe."""
    sizes: Sizes
    zones: dict[str, LabZone]
    stores: dict[str, Store]
    """Each zone's NATS as its administrator."""
    local_stores: dict[str, Store]
    """Each zone's NATS as a local application."""
    taken: dict[str, int] = field(default_factory=dict)
    """How many lines of each example file were appended."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What one line leaves for the next."""

    @property
    def enterprise(self) -> LabZone:
        return self.zones[ENTERPRISE.zone]

    @property
    def plant(self) -> LabZone:
        return self.zones[PLANT_A.zone]

    async def ask(self, zone: LabZone, *arguments: str, stdin: bytes = b"") -> Any:
        """A command of the program in a zone's home, as its operator."""
        return await asyncio.to_thread(program.ask, zone.home, *arguments, stdin=stdin)

    async def append(self, example: ExampleFile, count: int) -> dict[str, Any]:
        """Append the next lines of an example, from its beginning again where it ends."""
        lines = example.lines()
        begin = self.taken.get(example.name, 0)
        self.taken[example.name] = begin + count
        payload = b"".join(lines[index % len(lines)] + b"\n" for index in range(begin, begin + count))
        home = self.zones[example.zone].home
        answer = await asyncio.to_thread(processes.append, home, example.stream, example.tail, payload)
        demand(
            answer["appended"] == count,
            f"append to {example.stream} took {answer['appended']} of {count} facts",
        )
        return answer

    async def append_envelopes(self, example: ExampleFile, count: int) -> None:
        """Append the next lines with a message id and a header each, as a producer that has its own ids would."""
        begin = self.taken.get(example.name, 0)
        self.taken[example.name] = begin + count
        envelopes = [
            {
                "subject": example.tail,
                "message_id": f"{example.name}-{number}",
                "headers": [["Content-Type", "application/json"]],
                "data": line.decode(),
            }
            for number, line in enumerate(example.lines()[begin : begin + count], start=begin)
        ]
        text = "".join(json.dumps(envelope) + "\n" for envelope in envelopes)
        zone = self.zones[example.zone]
        arguments = ("append", "--stream", example.stream, "--envelope", "-")
        answer = await self.ask(zone, *arguments, stdin=text.encode())
        demand(
            answer["appended"] == count,
            f"append to {example.stream} took {answer['appended']} of {count} facts",
        )

    async def cursor(self, zone: LabZone, peer: str, stream: str) -> dict[str, Any]:
        row: dict[str, Any] = await self.ask(zone, "cursor", "query", "--peer", peer, "--stream", stream)
        return row

    async def request(
        self, spec: ZoneSpec, path: str, credentials: Credentials | None, body: bytes | None = None
    ) -> Reply:
        """One request to a zone's peer listener, with what the other zone trusts."""
        caller = self.plant if spec is ENTERPRISE else self.enterprise
        target = Target(self.zones[spec.zone].endpoint, spec.identity, caller.home / "certs" / "ca.crt")
        return await asyncio.to_thread(send, target, credentials, path, body)

    async def counted(self, zone: LabZone, *names: str) -> float:
        """The sum of these counters, all labels, by the zone's own ``/metrics``; 0 while that does not answer."""
        try:
            text = await asyncio.to_thread(_metrics, zone.local)
        except OSError:
            return 0.0
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.partition("{")[0].partition(" ")[0] in names
        )


def credentials_of(zone: LabZone) -> Credentials:
    """The zone's own certificate, as its operator uses it with curl."""
    return Credentials(zone.home / "certs" / "server.crt", zone.home / "certs" / "server.key")


def inbound_stream(peer: str, stream: str) -> str:
    """The JetStream stream that a link of the lab fills."""
    return inbound_physical(ZoneId(peer), StreamName(stream), 1)


def local_stream(stream: str) -> str:
    """The JetStream stream that holds a zone's own facts."""
    return physical(StreamName(stream))


def link_name(peer: str, stream: str) -> LinkName:
    return LinkName(ZoneId(peer), StreamName(stream))


async def wait_until(what: str, seconds: float, holds: Callable[[], Awaitable[bool]]) -> float:
    """Ask until it holds; the seconds that it took. NotHeld when the time is over."""
    began = time.monotonic()
    while True:
        try:
            if await holds():
                return time.monotonic() - began
            why = ""
        except BsfgError as error:
            why = f": {error.message}"
        if time.monotonic() - began > seconds:
            raise NotHeld(f"{what}: not within {seconds:.0f} s{why}")
        await asyncio.sleep(POLL_SECONDS)


def _metrics(local: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{local}/metrics", timeout=METRICS_SECONDS) as answer:
        text: str = answer.read().decode()
    return text
