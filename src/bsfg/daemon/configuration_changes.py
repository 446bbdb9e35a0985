"""What differs between two configurations, for the audit: files by their hash, settings by their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from bsfg.config.describe import describe
from bsfg.config.values import Configuration

SETTINGS_MAX: Final = 100
_KEYS: Final = {"peers": ("id",), "cursors": ("peer", "stream"), "streams": ("name",)}
"""By what the entries of a list are known."""


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The names whose values are not the same in both."""
    return [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]


def changed_settings(before: Configuration, after: Configuration) -> list[str]:
    """Where the settings differ, like ``peers[plant-a].streams``; an entry that came or went by itself.

    Never a value. At most ``SETTINGS_MAX``; an ellipsis stands for the others.
    """
    places = differing(*(dict(_places(describe(each))) for each in (before, after)))
    return [*places[:SETTINGS_MAX], "…"] if len(places) > SETTINGS_MAX else places


def _places(described: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    described = {name: value for name, value in described.items() if name not in ("home", "files")}
    yield from _below("", described)


def _below(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, member in value.items():
            yield from _below(f"{place}.{name}" if place else str(name), member)
        return
    keys = _KEYS.get(place.rpartition(".")[2])
    if isinstance(value, list) and keys and all(isinstance(entry, dict) for entry in value):
        for entry in value:
            known_by = " ".join(str(entry.get(key)) for key in keys)
            yield from _below(f"{place}[{known_by}]", entry)
        return
    yield place, value
