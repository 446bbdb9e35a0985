"""A TLS connection of the gateway holds a small buffer to read into."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import asyncio, ssl
from asyncio import sslproto
from bsfg.transport.tls_buffers import READ_BYTES, spare_tls_buffers

async def buffer_bytes():
    loop = asyncio.get_running_loop()
    made = sslproto.SSLProtocol(loop, asyncio.Protocol(), ssl.create_default_context(), None, server_hostname="a")
    return len(made.get_buffer(-1))

before = asyncio.run(buffer_bytes())
spare_tls_buffers()
assert asyncio.run(buffer_bytes()) == READ_BYTES < before, "asyncio takes its buffers by another rule now"
"""


def test_a_connection_holds_no_more_than_four_records() -> None:
    # In a process of its own, for it changes what every later connection of the process has.
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ, capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 0, ended.stderr
