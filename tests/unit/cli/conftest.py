"""A local API on a real Unix socket, and the program as a process against it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from tests.support.patience import patience
from tests.unit.cli.canned import CannedOperations

import bsfg
from bsfg.daemon.local_api import build_local_application
from bsfg.daemon.local_listeners import serve_unix

SECONDS: Final = 20.0
SOURCE: Final = str(Path(bsfg.__file__).parents[1])


@dataclass(frozen=True, slots=True)
class Finished:
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode()

    @property
    def complaint(self) -> str:
        return self.stderr.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.stderr)["error"]
        return error


async def start_bsfg(*arguments: str | Path, **settings: Any) -> asyncio.subprocess.Process:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": SOURCE, "LC_ALL": "C.UTF-8"} | settings.pop("env", {})
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bsfg.cli.main",
        *map(str, arguments),
        stdin=settings.pop("stdin", asyncio.subprocess.DEVNULL),
        stdout=settings.pop("stdout", pipe),
        stderr=pipe,
        env=environment,
        **settings,
    )


async def bsfg_program(*arguments: str | Path, stdin: bytes | None = None, **settings: Any) -> Finished:
    """Run the program to its end."""
    given = {} if stdin is None else {"stdin": asyncio.subprocess.PIPE}
    process = await start_bsfg(*arguments, **given, **settings)
    try:
        async with asyncio.timeout(SECONDS * patience()):
            stdout, stderr = await process.communicate(stdin)
    except TimeoutError:
        process.send_signal(signal.SIGKILL)
        raise
    assert process.returncode is not None
    return Finished(process.returncode, stdout, stderr)


@asynccontextmanager
async def local_api(home: Path, operations: CannedOperations) -> AsyncIterator[CannedOperations]:
    server = await serve_unix(build_local_application(operations), home / "run")
    try:
        yield operations
    finally:
        await server.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
async def operations(home: Path) -> AsyncIterator[CannedOperations]:
    """Canned operations, served for the home."""
    async with local_api(home, CannedOperations()) as operations:
        yield operations
