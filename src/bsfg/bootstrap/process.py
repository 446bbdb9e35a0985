"""What every process of a gateway sets once, before its loop runs."""

from __future__ import annotations

from bsfg.daemon.system import keep_freed_memory, spare_collections, yield_to_the_loop
from bsfg.transport.tls_buffers import spare_tls_buffers


def prepare_process() -> None:
    """Collections, threads, memory and buffers as pages and many resting connections want them."""
    spare_collections()
    yield_to_the_loop()
    keep_freed_memory()
    spare_tls_buffers()
