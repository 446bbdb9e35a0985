"""A lab up and down: two gateways in the background, each with a nats-server of its own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bsfg.config.home import Home
from bsfg.config.load import load
from bsfg.config.values import Configuration, EmbeddedSubstrate, LinkStart
from bsfg.errors import BsfgError, Code
from bsfg.lab import example_facts, homes, program
from bsfg.lab.held import HeldProcess, find_gateway, find_server, gateway_of, launch, server_of
from bsfg.lab.homes import ZONE_NAMES, LabPaths

HEALTHY_SECONDS_MAX: Final = 60.0
STOP_SECONDS: Final = 12.0
SERVER_STOP_SECONDS: Final = 8.0
POLL_SECONDS: Final = 0.1
LAST_LINES: Final = 5
_LINE_CHARACTERS_MAX: Final = 300
_TAIL_BYTES: Final = 16 * 1024
_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class LabZone:
    """Where everything of a running zone is, as ``lab up`` prints it."""

    zone: str
    home: Path
    endpoint: str
    local: str
    nats: str
    nats_credentials: Path
    nats_admin_credentials: Path
    log: Path
    ca_cert: Path
    ca_key: Path
    pid: int | None

    def as_json(self) -> dict[str, Any]:
        return {
            name: str(value) if isinstance(value, Path) else value
            for name in self.__dataclass_fields__
            if name != "zone"
            for value in [getattr(self, name)]
        }


def up(directory: Path, *, empty: bool) -> dict[str, Any]:
    """Build the lab if the folder is new, start what does not run, and return when both zones are healthy.

    A lab that is up already is described, not touched. Raises ``configuration`` for a folder that holds something
    else or an address that another program has taken, ``timed_out`` with the culprit's last log lines for a zone that
    does not become healthy; what this call started is then stopped.
    """
    directory = directory.absolute()
    is_new = not is_lab(directory)
    if is_new:
        build(directory)
    start(directory)
    if is_new and not empty:
        fill(directory)
        wait_healthy(directory, {})
    return describe(directory)


def build(directory: Path, *, manual_start: Iterable[str] = ()) -> None:
    """Make the homes and mark the folder as a lab's."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise BsfgError(
            Code.CONFIGURATION,
            f"{directory} is not empty and holds no lab",
            hint="name a new folder, or an empty one",
        )
    homes.build(directory, manual_start=manual_start)
    homes.write_text(LabPaths(directory).description, json.dumps({"format": _FORMAT}) + "\n")


def is_lab(directory: Path) -> bool:
    """Whether the folder holds a lab that was built to the end."""
    return LabPaths(directory).description.is_file() and all(
        (directory / zone).is_dir() for zone in ZONE_NAMES
    )


def start(directory: Path, zones: Iterable[str] = ZONE_NAMES) -> None:
    """Start the gateways that don't run, and return when both zones are healthy."""
    started: dict[str, HeldProcess] = {}
    try:
        for zone in zones:
            home = LabPaths(directory).home(zone)
            if find_gateway(home) is None:
                started[zone] = start_gateway(home)
        wait_healthy(directory, started)
    except BaseException:
        for zone in started:
            stop_zone(LabPaths(directory).home(zone))
        raise
    finally:
        for process in started.values():
            process.close()


def start_gateway(home: Path) -> HeldProcess:
    """Start one gateway without waiting for it; raises ``configuration`` for an address that is taken."""
    _refuse_taken_addresses(load(home))
    command = program.command_line("serve", "--home", str(home))
    return launch(command, Home(home).data / "gateway.stderr")


def _refuse_taken_addresses(configuration: Configuration) -> None:
    zone = configuration.zone
    wanted = [("listen", zone.listen.host, zone.listen.port), ("local", zone.local.host, zone.local.port)]
    # A nats-server that outlived its gateway holds its port rightly: the next gateway adopts it.
    if find_server(configuration.home) is None:
        wanted.append(("substrate", homes.LOOPBACK, nats_port(configuration)))
    for key, host, port in wanted:
        if not homes.is_free(host, port):
            raise BsfgError(
                Code.CONFIGURATION,
                f"zone {zone.zone} can't start: {key} {host}:{port} is taken by another program",
                hint="is another lab up? stop that program, or change the address in config/zone.yaml and peers.yaml",
            )


def nats_port(configuration: Configuration) -> int:
    """The embedded server's port, which every lab has in its zone.yaml."""
    substrate = configuration.zone.substrate
    if not isinstance(substrate, EmbeddedSubstrate) or substrate.port is None:
        raise BsfgError(
            Code.CONFIGURATION,
            f"{configuration.home}: the zone of a lab has an embedded server with a port in zone.yaml",
            hint="write substrate: {embedded: {port: N}}",
        )
    return substrate.port


def wait_healthy(directory: Path, started: dict[str, HeldProcess]) -> None:
    """Return when each zone is healthy, reaches its peer, and its links are level."""
    deadline = time.monotonic() + HEALTHY_SECONDS_MAX
    waiting = dict.fromkeys(ZONE_NAMES, "it was not asked yet")
    while waiting:
        for zone in list(waiting):
            obstacle = _obstacle(LabPaths(directory).home(zone))
            if obstacle:
                waiting[zone] = obstacle
            else:
                del waiting[zone]
        for zone, process in started.items():
            # One that finds another gateway on its home ends, and that other one is just as good.
            if process.ends_within(0) and find_gateway(LabPaths(directory).home(zone)) is None:
                raise _not_healthy(directory, zone, "its gateway ended", Code.UNAVAILABLE)
        if waiting and time.monotonic() > deadline:
            zone, obstacle = next(iter(waiting.items()))
            text = f"after {HEALTHY_SECONDS_MAX:.0f} s {obstacle}"
            raise _not_healthy(directory, zone, text, Code.TIMED_OUT)
        time.sleep(POLL_SECONDS)


def _obstacle(home: Path) -> str:
    """Why the zone is not healthy; empty if it is."""
    if not Home(home).socket.is_socket():
        # Asking takes as much of the machine as a start needs, and both zones are starting now.
        return "its gateway does not answer yet"
    try:
        status = program.ask(home, "status")
    except BsfgError as error:
        return error.message
    if status["health"] != "ok":
        return f"health is {status['health']}: {'; '.join(status['problems'])}"
    away = [row["id"] for row in status["peers"] if row["reachable"] is not True]
    if away:
        return f"peer {', '.join(away)} is not reachable"
    manual = {
        (name.peer, name.stream) for name, link in load(home).links.items() if link.start is LinkStart.MANUAL
    }
    rows = [row for row in status["links"] if (row["peer"], row["stream"]) not in manual]
    moving = [f"{row['peer']}/{row['stream']} is {row['state']}" for row in rows if row["state"] != "level"]
    return f"link {', '.join(moving)}" if moving else ""


def _not_healthy(directory: Path, zone: str, why: str, code: Code) -> BsfgError:
    home = Home(LabPaths(directory).home(zone))
    said = last_lines(home.data / "gateway.stderr")
    return BsfgError(
        code,
        f"zone {zone} did not become healthy: {why}"
        + (f"; it said last: {' | '.join(said)}" if said else ""),
        hint=f"its log is {home.data / 'bsfg.log'}",
        zone=zone,
        last_lines=said,
    )


def last_lines(path: Path) -> list[str]:
    """The end of a log: of its JSON lines the message alone, every line cut."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [_message_of(line)[:_LINE_CHARACTERS_MAX] for line in lines[-LAST_LINES:]]


def _message_of(line: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    return str(entry.get("message", line)) if isinstance(entry, dict) else line


def fill(directory: Path) -> None:
    """Give every exported stream its first facts from the examples, and some of them their artifacts."""
    for example in example_facts.EXPORTED:
        payload = b"\n".join(example.lines(example_facts.FEW_FACTS)) + b"\n"
        append(LabPaths(directory).home(example.zone), example.stream, example.tail, payload)
    for artifact in example_facts.EXAMPLE_ARTIFACTS:
        append_with_artifact(LabPaths(directory).home(artifact.zone), artifact)


def append(home: Path, stream: str, tail: str, ndjson: bytes) -> dict[str, Any]:
    """Append NDJSON payloads as a producer would; they are durable on return."""
    answer: dict[str, Any] = program.ask(
        home, "append", "--stream", stream, "--subject", tail, "--ndjson", "-", stdin=ndjson
    )
    return answer


def append_with_artifact(home: Path, example: example_facts.ExampleArtifact) -> None:
    """Put an example's file and append the fact that refers to it; both are durable on return."""
    place = ("--stream", example.stream, "--subject", example.tail)
    artifact = ("--artifact", str(example.path), "--type", example.artifact_type, "--key", example.key)
    program.ask(home, "append", *place, *artifact, "-", stdin=example.fact)


def down(directory: Path, zone: str | None = None) -> dict[str, Any]:
    """Stop the processes of the lab, or of one zone; the folder stays. Says what was stopped."""
    directory = directory.absolute()
    if not is_lab(directory):
        raise BsfgError(Code.CONFIGURATION, f"{directory} holds no lab", hint="bsfg lab up --dir D makes one")
    if zone is not None and zone not in ZONE_NAMES:
        raise BsfgError(
            Code.INVALID_REQUEST, f"the lab has no zone {zone}", hint=f"its zones are {', '.join(ZONE_NAMES)}"
        )
    stopped = {name: stop_zone(LabPaths(directory).home(name)) for name in ([zone] if zone else ZONE_NAMES)}
    return {"dir": str(directory), "stopped": stopped}


def stop_zone(home: Path) -> dict[str, int | None]:
    """Stop a zone's gateway in order, and its nats-server if that is still there; the pids of what was stopped."""
    server_pid = find_server(home)
    with gateway_of(home) as gateway:
        gateway_pid = gateway.pid if gateway else None
        if gateway is not None:
            gateway.stop(STOP_SECONDS)
    with server_of(home) as server:
        if server is not None:
            server.stop(SERVER_STOP_SECONDS)
    return {"gateway": gateway_pid, "nats_server": server_pid}


def describe(directory: Path) -> dict[str, Any]:
    """The lab as ``lab up`` prints it; also kept in ``lab.json``."""
    zones = {zone: zone_of(directory, zone).as_json() for zone in ZONE_NAMES}
    description = {"dir": str(directory), "zones": zones}
    homes.write_text(
        LabPaths(directory).description, json.dumps(description | {"format": _FORMAT}, indent=2) + "\n"
    )
    return description


def zone_of(directory: Path, zone: str) -> LabZone:
    """One zone of the lab, as its configuration says it."""
    paths = LabPaths(directory)
    configuration = load(paths.home(zone))
    home, authority = configuration.paths, paths.authority(zone)
    return LabZone(
        zone=zone,
        home=home.path,
        endpoint=str(configuration.zone.listen),
        local=str(configuration.zone.local),
        nats=f"nats://{homes.LOOPBACK}:{nats_port(configuration)}",
        nats_credentials=home.local_seed,
        nats_admin_credentials=home.admin_seed,
        log=home.data / "bsfg.log",
        ca_cert=authority.certificate,
        ca_key=authority.key,
        pid=find_gateway(home.path),
    )
