"""Which TCP connections this process has, by the kernel's word, and who was told that it is cut off (runbook 8.1)."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from bsfg.model.names import ZoneId

CUT_OFF_KEPT: Final = 256
_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_ESTABLISHED: Final = "01"
_OPENING: Final = "02"


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection that is open or being opened; ends as ``address:port`` or ``[address]:port``."""

    local: str
    remote: str
    local_port: int
    remote_port: int


@dataclass(slots=True)
class CutOff:
    """The far ends of connections on which a peer was told that it is partitioned; newest last."""

    ends: deque[tuple[ZoneId, str]] = field(default_factory=lambda: deque(maxlen=CUT_OFF_KEPT))

    def told(self, peer: ZoneId, remote: str) -> None:
        self.ends.append((peer, remote))

    def of(self, peer: ZoneId) -> list[str]:
        return [remote for found, remote in self.ends if found == peer]


def own_connections() -> list[Connection]:
    """Every TCP connection of this process and of its workers that is open or being opened, as ``ss`` lists it."""
    inodes = _sockets_of(Path("/proc/self"))
    for child in _children():
        inodes |= _sockets_of(child)
    found = []
    for table in _TABLES:
        try:
            lines = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if columns[3] in (_ESTABLISHED, _OPENING) and columns[9] in inodes:
                found.append(_connection(columns[1], columns[2]))
    return found


def _children() -> Iterator[Path]:
    """The processes that this one has started: workers, and the embedded server, which dials nobody."""
    ours = str(os.getpid())
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if parent == ours:
            yield stat.parent


def _sockets_of(process: Path) -> set[str]:
    inodes = set[str]()
    try:
        descriptors = list((process / "fd").iterdir())
    except OSError:
        # It has ended, and its connections with it.
        return inodes
    for descriptor in descriptors:
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    return inodes


def _connection(local: str, remote: str) -> Connection:
    here, there = _end(local), _end(remote)
    return Connection(here[0], there[0], here[1], there[1])


def _end(text: str) -> tuple[str, int]:
    """An end as the kernel prints it: the address in words of four bytes, each in the machine's order."""
    digits, _, port = text.partition(":")
    words = [bytes.fromhex(digits[start : start + 8])[::-1] for start in range(0, len(digits), 8)]
    number = int(port, 16)
    if len(words) == 1:
        return f"{IPv4Address(words[0])}:{number}", number
    address = IPv6Address(b"".join(words))
    if address.ipv4_mapped is not None:
        return f"{address.ipv4_mapped}:{number}", number
    return f"[{address}]:{number}", number
