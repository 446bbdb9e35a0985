"""A set of stream names in which no two collide, in time that grows with the names and not with their pairs."""

from __future__ import annotations

from collections.abc import Iterator

from bsfg.model.names import StreamName, physical


class NamesInUse:
    """Says which earlier name a new one collides with, as :func:`bsfg.model.names.colliding` defines it."""

    def __init__(self) -> None:
        self._lines: dict[StreamName, int] = {}
        self._physical: dict[str, StreamName] = {}
        self._below: dict[str, StreamName] = {}
        """For each dotted prefix of a name, the first name that begins with it."""

    @property
    def names(self) -> list[StreamName]:
        return list(self._lines)

    def has(self, name: StreamName) -> bool:
        return name in self._lines

    def line(self, name: StreamName) -> int:
        """The line that the name was added with."""
        return self._lines[name]

    def add(self, name: StreamName, line: int) -> StreamName | None:
        """Take the name in; the name that it equals or collides with, and then it is not taken in, or None."""
        other = self._physical.get(physical(name)) or self._below.get(name)
        prefixes = list(_prefixes(name))
        other = other or next((StreamName(prefix) for prefix in prefixes if prefix in self._lines), None)
        if other is not None:
            return other
        self._lines[name] = line
        self._physical[physical(name)] = name
        for prefix in prefixes:
            self._below.setdefault(prefix, name)
        return None


def _prefixes(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
