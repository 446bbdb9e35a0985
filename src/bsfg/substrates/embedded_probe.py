"""Whether the embedded server is ready and has loaded our configuration, asked as its own users."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nats.errors
from nats.aio.client import Client

from bsfg.errors import SubstrateUnavailable
from bsfg.model.names import StreamName
from bsfg.substrates.embedded_configuration import GATEWAY_ACCOUNT, USER_SUBJECT, publishable
from bsfg.substrates.server_version import ServerVersion, parse_version

ANSWER_SECONDS: Final = 2


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """What the server says about itself and about the user who asks."""

    version: ServerVersion | None
    account: str
    publish: frozenset[str]


async def ask_as(url: str, seed: Path) -> ServerAnswer:
    """Log in with the seed and ask who we are and whether JetStream answers.

    Raises ``SubstrateUnavailable`` if the server can't be reached, refuses the seed, or has no JetStream for it.
    """
    connection = Client()
    try:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await connection.connect(
                    url,
                    nkeys_seed=str(seed),
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=ANSWER_SECONDS,
                    error_cb=_ignore,
                )
            user = json.loads((await connection.request(USER_SUBJECT, timeout=ANSWER_SECONDS)).data)
            jetstream = json.loads((await connection.request("$JS.API.INFO", timeout=ANSWER_SECONDS)).data)
        finally:
            await connection.close()
    except (OSError, TimeoutError, nats.errors.Error, ValueError) as error:
        raise SubstrateUnavailable(
            f"nats-server at {url} does not answer: {error or type(error).__name__}"
        ) from error
    if "error" in jetstream:
        raise SubstrateUnavailable(
            f"JetStream at {url} is not ready: {jetstream['error'].get('description')}"
        )
    return _answer(user)


async def has_loaded(url: str, gateway_seed: Path, local_seed: Path, streams: Sequence[StreamName]) -> bool:
    """Whether the server serves our users with exactly these streams."""
    gateway = await ask_as(url, gateway_seed)
    local = await ask_as(url, local_seed)
    return gateway.account == GATEWAY_ACCOUNT and local.publish == frozenset(publishable(streams))


def _answer(user: dict[str, Any]) -> ServerAnswer:
    told = user.get("data", {})
    return ServerAnswer(
        parse_version(str(user.get("server", {}).get("ver", ""))),
        str(told.get("account", "")),
        frozenset(told.get("permissions", {}).get("publish", {}).get("allow", ())),
    )


async def _ignore(error: Exception) -> None:
    """What goes wrong is raised by the call that it concerns; nats-py would log it with a traceback."""
