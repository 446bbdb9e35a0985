"""The processes of a gateway: how a worker is started, and what each sets once, before its loop runs."""

from __future__ import annotations

import sys
from typing import Final

from bsfg.daemon.system import keep_freed_memory, spare_collections, yield_to_the_loop
from bsfg.transport.tls_buffers import spare_tls_buffers

WORKER_MODULE: Final = "bsfg.bootstrap.worker"
WORKER_COMMAND: Final = (sys.executable, "-P", "-m", WORKER_MODULE)
WORKER_END_SECONDS_MAX: Final = 5
"""Once a worker is to end, it ends: a gateway that is gone can't end it by force."""


def prepare_process() -> None:
    """Collections, threads, memory and buffers as pages and many resting connections want them."""
    spare_collections()
    yield_to_the_loop()
    keep_freed_memory()
    spare_tls_buffers()
