"""One artifact of random bytes from enterprise to plant-a: by the gateway, and by curl over the same mutual TLS.

The gateway hashes what comes, and its answer says that the artifact is verified and on disk; curl only writes a file.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.gateways import RECEIVER, SENDER, GatewayPair
from bsfg.cli.local_client import LONG_DEADLINE_SECONDS, LocalClient, route
from bsfg.lab import program

PIECE_BYTES: Final = 16 * 1024 * 1024
MEGABYTE: Final = 1e6

Take = Callable[[GatewayPair, str, Path], int]
"""Brings the artifact with this URI; how many bytes came."""


def rate(pair: GatewayPair, size_bytes: int, folder: Path, take: Take) -> float:
    """MB/s of one transfer; RuntimeError if not all came."""
    uri = put_random(pair.homes[SENDER], size_bytes, folder)
    os.sync()
    began = time.monotonic()
    came = take(pair, uri, folder)
    seconds = time.monotonic() - began
    if came != size_bytes:
        raise RuntimeError(f"{came} of {size_bytes} bytes came")
    return size_bytes / MEGABYTE / seconds


def put_random(home: Path, size_bytes: int, folder: Path) -> str:
    """The zone has an artifact of so many random bytes; its URI."""
    file = folder / "artifact.bin"
    with file.open("wb") as target:
        for start in range(0, size_bytes, PIECE_BYTES):
            target.write(os.urandom(min(PIECE_BYTES, size_bytes - start)))
    arguments = ("artifact", "put", str(file), "--type", "batch-files", "--key", "bench.bin")
    uri = str(program.ask(home, *arguments, deadline_seconds=LONG_DEADLINE_SECONDS)["uri"])
    file.unlink()
    return uri


def fetch(pair: GatewayPair, uri: str, folder: Path) -> int:
    """By the receiver's gateway."""
    client = LocalClient(pair.homes[RECEIVER])
    question = {"uri": uri}
    answer = client.post(route("artifacts", "fetch"), question, deadline_seconds=LONG_DEADLINE_SECONDS)
    return int(answer["size"])


def curl(pair: GatewayPair, uri: str, folder: Path) -> int:
    """By curl, with the receiver's certificate."""
    certs, target = pair.homes[RECEIVER] / "certs", folder / "curl.bin"
    command: list[str | Path] = [
        "curl", "--silent", "--show-error", "--fail", "--output", target, "--get", "--data-urlencode", f"uri={uri}",
        "--cacert", certs / "ca.crt", "--cert", certs / "server.crt", "--key", certs / "server.key",
        f"https://{pair.listener}/v1/artifacts",
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=LONG_DEADLINE_SECONDS)
    return target.stat().st_size
