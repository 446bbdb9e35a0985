"""The epoch of a local stream: a random id, bound in the stream's metadata to the stream's ``created`` time.

A stream that is made again from its saved configuration carries the metadata over (measured), so an id alone would
survive what it must not. Where id and time do not belong together, a new epoch begins (contract, section 1).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

from bsfg.errors import SubstrateUnavailable
from bsfg.model.names import StreamName, physical
from bsfg.substrates.control import Control

EPOCH_KEY: Final = "bsfg_epoch"
EPOCH_CREATED_KEY: Final = "bsfg_epoch_created"
ATTEMPTS_MAX: Final = 3

_EPOCH: Final = re.compile(r"[0-9a-f]{16}")

EpochBegan = Callable[[StreamName, str | None, str, str], None]
"""Told of each new epoch, once it is durable: stream, old epoch or None, new epoch, why."""


def new_epoch() -> str:
    """16 random hexadecimal digits."""
    return secrets.token_hex(8)


def epoch_metadata(created: str) -> dict[str, str]:
    """Metadata that begins a new epoch of the stream that was created then."""
    return {EPOCH_KEY: new_epoch(), EPOCH_CREATED_KEY: created}


def bound_epoch(stream_info: Mapping[str, Any]) -> str | None:
    """The stream's epoch if it belongs to the stream's creation time, else None."""
    metadata = stream_info["config"].get("metadata") or {}
    epoch = metadata.get(EPOCH_KEY, "")
    if not _EPOCH.fullmatch(epoch) or metadata.get(EPOCH_CREATED_KEY) != stream_info["created"]:
        return None
    return str(epoch)


async def ensure_epoch(
    control: Control, stream: StreamName, stream_info: dict[str, Any], epoch_began: EpochBegan
) -> tuple[str, dict[str, Any]]:
    """The stream's epoch, durable in its metadata, and the stream's state read after that.

    Only the metadata is written: the configuration goes back as it was read, fields unknown to us included. What
    stands in the stream afterwards counts, so that two gateways that begin an epoch at once agree on one.
    """
    for _ in range(ATTEMPTS_MAX):
        epoch = bound_epoch(stream_info)
        if epoch is not None:
            return epoch, stream_info
        old, why = _why_new(stream_info)
        wanted = epoch_metadata(stream_info["created"])
        await write_metadata(control, stream_info, wanted)
        stream_info = await control.api(f"STREAM.INFO.{physical(stream)}")
        if bound_epoch(stream_info) == wanted[EPOCH_KEY]:
            epoch_began(stream, old, wanted[EPOCH_KEY], why)
    raise SubstrateUnavailable(
        f"stream {stream}: a new epoch does not stay in its metadata", hint="does another tool edit the stream?"
    )


async def begin_epoch(control: Control, stream: StreamName) -> tuple[str | None, str]:
    """Begin a new epoch because an operator says so: the old one and the new one, which is durable on return."""
    stream_info = await control.api(f"STREAM.INFO.{physical(stream)}")
    old, wanted = bound_epoch(stream_info), epoch_metadata(stream_info["created"])
    await write_metadata(control, stream_info, wanted)
    return old, wanted[EPOCH_KEY]


async def write_metadata(control: Control, stream_info: Mapping[str, Any], changes: Mapping[str, str]) -> None:
    """Write these metadata keys and leave all else in the stream's configuration as it was read."""
    config = dict(stream_info["config"])
    config["metadata"] = {**(config.get("metadata") or {}), **changes}
    await control.api(f"STREAM.UPDATE.{config['name']}", config)


def _why_new(stream_info: Mapping[str, Any]) -> tuple[str | None, str]:
    metadata = stream_info["config"].get("metadata") or {}
    old = metadata.get(EPOCH_KEY)
    if old is None:
        return None, "the stream had no epoch"
    bound_to = metadata.get(EPOCH_CREATED_KEY, "nothing")
    return str(old), f"the stream was created {stream_info['created']}, its epoch belongs to {bound_to}"
