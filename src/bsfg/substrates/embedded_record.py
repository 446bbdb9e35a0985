"""What a gateway remembers about the server on its store, in ``data/nats/server.json``.

The lock says who the server is; the record says with what it was started, so that a later gateway knows whether it
may adopt it as it is. A missing or broken record costs one orderly restart of the server, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from bsfg.substrates.private_files import replace_private

_RECORD_BYTES_MAX: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """The server that runs on the store, or ran there last."""

    pid: int
    start_ticks: int
    port: int
    version: str
    store: str
    durability_strict: bool
    batch_messages_max: int | None
    """A limit that a running server does not change."""
    configuration_sha256: str
    """The configuration that the server has loaded, not merely the one in the file."""

    def save(self, path: Path) -> None:
        """Durable on return."""
        replace_private(path, msgspec.json.format(msgspec.json.encode(self)) + b"\n")


def load_record(path: Path) -> ServerRecord | None:
    """The record, or None if there is none that can be read."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_RECORD_BYTES_MAX), type=ServerRecord)
    except (OSError, msgspec.MsgspecError):
        return None
