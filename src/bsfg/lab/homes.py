"""The two homes of a lab: keys, certificates and configuration as an operator would have installed them.

The zones have disjoint homes, as on two machines: nothing in one names a file of the other. The authorities' keys lie
outside both.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bsfg.config.home import Home
from bsfg.errors import BsfgError, Code
from bsfg.lab import templates
from bsfg.lab.templates import Addresses, ZoneSpec
from bsfg.substrates.nkey_files import ensure_seed
from bsfg.transport.development_ca import (
    PUBLIC_MODE,
    AuthorityPaths,
    create_authority,
    issue,
    write_whole,
)

LISTEN_PORT: Final = 9443
PORTS_VARIABLE: Final = "BSFG_LAB_PORTS"
"""Names the ports that a lab may take, ``20400-20799``, for labs that come and go side by side: the first is what their
peer listeners prefer."""
CERTIFICATE_DAYS: Final = 365
LOOPBACK: Final = "127.0.0.1"
# Below the kernel's range for outgoing connections, so that none of them takes a port while a zone is down.
_PORTS: Final = range(20_000, 30_000)
_PORT_ATTEMPTS: Final = 200

ENTERPRISE: Final = ZoneSpec(
    zone="enterprise",
    identity="enterprise-bsfg",
    host="127.1.1.10",
    exports=("facts.operational", "facts.batch_completed", "facts.audit"),
    private_streams=("facts.telemetry",),
    artifacts=("batch-files", "documents"),
)
PLANT_A: Final = ZoneSpec(
    zone="plant-a",
    identity="plant-a-bsfg",
    host="127.3.1.10",
    exports=("facts.orders", "facts.shipments"),
    private_streams=("facts.operational",),
    artifacts=("order-files",),
)
ZONES: Final = (ENTERPRISE, PLANT_A)
ZONE_NAMES: Final = (ENTERPRISE.zone, PLANT_A.zone)


@dataclass(frozen=True, slots=True)
class LabPaths:
    """Where everything of a lab lies."""

    directory: Path

    @property
    def description(self) -> Path:
        """What ``lab up`` printed last; also the mark of a lab's folder."""
        return self.directory / "lab.json"

    def home(self, zone: str) -> Path:
        return self.directory / zone

    def authority(self, zone: str) -> AuthorityPaths:
        folder = self.directory / "ca" / zone
        return AuthorityPaths(folder / "ca.crt", folder / "ca.key")


def build(directory: Path, *, manual_start: Iterable[str] = ()) -> None:
    """Make both homes in a new or empty folder; complete and durable on return.

    ``manual_start`` names streams whose links wait for a first ``bsfg fetch``.
    """
    paths = LabPaths(directory)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / "ca").mkdir(mode=0o700)
    addresses = _choose_addresses()
    for spec in ZONES:
        paths.home(spec.zone).mkdir(mode=0o700)
        authority = paths.authority(spec.zone)
        create_authority(authority.certificate.parent, f"{spec.zone} development CA")
    for spec in ZONES:
        _build_home(paths, spec, peer_of(spec), addresses, frozenset(manual_start))


def peer_of(spec: ZoneSpec) -> ZoneSpec:
    """The other zone of the lab."""
    return PLANT_A if spec is ENTERPRISE else ENTERPRISE


def write_text(path: Path, text: str) -> None:
    """Replace a configuration file: the gateway sees the old or the new one, never a mixture."""
    write_whole(path, text.encode(), PUBLIC_MODE)


def _build_home(
    paths: LabPaths,
    spec: ZoneSpec,
    peer: ZoneSpec,
    addresses: dict[str, Addresses],
    manual_start: frozenset[str],
) -> None:
    home = Home(paths.home(spec.zone))
    for folder in (home.config, home.certs, home.data, home.run):
        folder.mkdir(mode=0o700)
    _build_certificates(paths, spec, peer, home)
    for seed in (home.local_seed, home.admin_seed):
        ensure_seed(seed)
    own, other = addresses[spec.zone], addresses[peer.zone]
    write_text(home.zone_file, templates.zone_yaml(spec, own))
    write_text(home.peers_file, templates.peers_yaml(spec, peer, other))
    write_text(home.cursors_file, templates.cursors_yaml(peer, manual_start))
    write_text(home.bringup_file, templates.bringup_yaml(ENTERPRISE, PLANT_A, addresses, home.anchors))


def _build_certificates(paths: LabPaths, spec: ZoneSpec, peer: ZoneSpec, home: Home) -> None:
    """The server certificate, every anchor in ca.crt, and the peer's own one that vouches for it alone."""
    own, other = paths.authority(spec.zone), paths.authority(peer.zone)
    issue(
        own.certificate,
        own.key,
        spec.identity,
        san_dns=[spec.identity],
        san_ip=[spec.host],
        days=CERTIFICATE_DAYS,
        out_cert=home.server_certificate,
        out_key=home.server_key,
    )
    peer_anchor = other.certificate.read_bytes()
    write_whole(home.anchors, own.certificate.read_bytes() + peer_anchor, PUBLIC_MODE)
    write_whole(home.certs / f"{peer.zone}-ca.crt", peer_anchor, PUBLIC_MODE)


def _choose_addresses() -> dict[str, Addresses]:
    """The contract's listeners where they are free, else another port of the same address."""
    taken: set[int] = set()

    def free(host: str) -> int:
        port = free_port(host, taken)
        taken.add(port)
        return port

    ports = given_ports()
    chosen, preferred = {}, ports.start if ports else LISTEN_PORT
    for spec in ZONES:
        listen = preferred if is_free(spec.host, preferred) else free(spec.host)
        chosen[spec.zone] = Addresses(f"{spec.host}:{listen}", f"{LOOPBACK}:{free(LOOPBACK)}", free(LOOPBACK))
    return chosen


def given_ports() -> range | None:
    """What the environment says under ``BSFG_LAB_PORTS``; ``configuration`` for what is no range of ports."""
    text = os.environ.get(PORTS_VARIABLE, "")
    if not text:
        return None
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) < 2**16):
        raise BsfgError(
            Code.CONFIGURATION, f"{PORTS_VARIABLE}={text!r} is no range of ports", hint="write FIRST-LAST: 20400-20799"
        )
    return range(int(first), int(last) + 1)


def free_port(host: str, taken: set[int]) -> int:
    """A port of this address that nobody listens on now; ``unavailable`` where none is found."""
    ports = given_ports() or _PORTS
    for port in random.sample(ports, min(len(ports), _PORT_ATTEMPTS)):
        if port not in taken and is_free(host, port):
            return port
    raise BsfgError(
        Code.UNAVAILABLE,
        f"no free port on {host} between {ports.start} and {ports.stop - 1}",
        hint="is this address one of this machine's? ss -ltn shows who listens",
    )


def is_free(host: str, port: int) -> bool:
    """Whether a listener could be opened here now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
