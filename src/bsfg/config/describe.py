"""The parsed configuration as JSON, for ``bsfg config show``: every default spelled out, every unit in its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from bsfg.config.address import Address
from bsfg.config.values import Configuration, EmbeddedSubstrate, ExternalSubstrate, FileStore, S3Store
from bsfg.model.cursor import InitMode, LinkName
from bsfg.model.identity import IdentityRule
from bsfg.model.moment import format_time


def describe(configuration: Configuration) -> dict[str, Any]:
    """``{"home", "zone", "peers", "cursors", "files"}``; secrets appear only as the paths of their files."""
    return {
        "home": str(configuration.home),
        "zone": _plain(configuration.zone),
        "peers": [_plain(peer) for peer in configuration.peers.values()],
        "cursors": [_plain(link) for link in configuration.links.values()],
        "files": dict(configuration.file_hashes),
    }


def _plain(value: Any) -> Any:
    match value:
        case Enum():
            return value.value
        case Path() | Address():
            return str(value)
        case tuple():
            return [_plain(item) for item in value]
        case _ if is_dataclass(value) and not isinstance(value, type):
            return _members(value)
        case _:
            return value


def _members(value: Any) -> dict[str, Any]:
    """The fields of a value; those of a value that has no key of its own in the files stand among the others."""
    described: dict[str, Any] = _kind_of(value)
    for field in fields(value):
        member = getattr(value, field.name)
        match member:
            case IdentityRule() | LinkName() | InitMode():
                described |= _inlined(member)
            case _:
                described[field.name] = _plain(member)
    return described


def _inlined(value: IdentityRule | LinkName | InitMode) -> Mapping[str, Any]:
    match value:
        case IdentityRule(identity, identity_from, san_extra):
            return {
                "identity": identity,
                "identity_from": identity_from.value,
                "identity_san_extra": list(san_extra),
            }
        case LinkName(peer, stream):
            return {"peer": peer, "stream": stream}
        case InitMode(text=text, timestamp=timestamp):
            shown = None if timestamp is None else format_time(timestamp)
            return {"init_mode": text, "init_timestamp": shown}


def _kind_of(value: Any) -> dict[str, Any]:
    match value:
        case EmbeddedSubstrate():
            return {"kind": "embedded"}
        case ExternalSubstrate():
            return {"kind": "external"}
        case FileStore():
            return {"kind": "file"}
        case S3Store():
            return {"kind": "s3"}
        case _:
            return {}
