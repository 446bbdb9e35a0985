"""What several probes look at: the local API's answers and the peer's view, each with its evidence."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from bsfg.checks.check import Context
from bsfg.checks.model import Evidence
from bsfg.model.cursor import LinkName


async def local(context: Context, *segments: str, **query: Any) -> tuple[Any, Evidence]:
    """``GET`` of the local API."""
    path = route(*segments)
    seen = await context.surroundings.local("GET", path, query=query or None)
    return seen, context.evidence(path.removeprefix("/v1/"), seen, f"local API GET {path}")


async def view(context: Context) -> tuple[dict[str, Any], Evidence]:
    """How the peer sees us, by its own word."""
    seen = await context.surroundings.local("GET", route("peers", context.peer.id, "view"))
    return seen, context.evidence("the peer's view of us", seen, f"peer {context.peer.id} GET /v1/view")


async def cursor(context: Context, name: LinkName) -> dict[str, Any]:
    """One link as ``bsfg cursor query`` prints it."""
    row: dict[str, Any] = await context.surroundings.local("GET", route("cursors", name.peer, name.stream))
    return row


def route(*segments: str) -> str:
    """A path of the local API, each segment quoted."""
    return "/v1/" + "/".join(quote(segment, safe="") for segment in segments)


def listed(names: Any) -> str:
    """Names on one line, in order."""
    return ", ".join(sorted(map(str, names))) or "none"
