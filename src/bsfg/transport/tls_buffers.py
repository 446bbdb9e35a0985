"""How much asyncio holds to read from a TLS connection.

By itself it holds 256 KiB for each, all of it touched: a gateway with 500 held polls had 125 MiB of them. And what is
read into so large a buffer is copied out through memory that the allocator gives back each time; with 64 KiB the same
bytes took two thirds of the time (measured, one connection over loopback).
"""

from __future__ import annotations

import asyncio
from asyncio import sslproto
from typing import Final

READ_BYTES: Final = 64 * 1024
"""Four TLS records."""
MUCH_BYTES: Final = 256 * 1024


def spare_tls_buffers() -> None:
    """From now on each TLS connection of this process has a small buffer."""
    sslproto.SSLProtocol.max_size = READ_BYTES


def read_much(transport: asyncio.BaseTransport) -> None:
    """From now on this one connection reads ``MUCH_BYTES`` at once; for those that read all the time, and are few."""
    protocol = getattr(transport, "_ssl_protocol", None)
    if isinstance(protocol, sslproto.SSLProtocol):
        vars(protocol)["max_size"] = MUCH_BYTES
