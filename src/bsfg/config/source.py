"""One configuration file as a tree of values that know their line and column, and the problems found in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bsfg.errors import Problem

PROBLEMS_MAX: Final = 100

Place = tuple[int, int]
"""Line and column, both from 1."""
Path = tuple[str | int, ...]
"""Keys and list positions from the root of a file to a value."""
START: Final[Place] = (1, 1)


@dataclass(slots=True)
class ScalarNode:
    place: Place
    value: str | int | float | bool | None
    text: str
    """As written, for a scalar that stands as a key."""


@dataclass(slots=True)
class ListNode:
    """``is_partial`` once an entry that was written could not be used."""

    place: Place
    items: list[Node] = field(default_factory=list)
    is_partial: bool = False


@dataclass(slots=True)
class MapNode:
    """``key_places`` has every key that was written, also those whose value could not be used."""

    place: Place
    entries: dict[str, Node] = field(default_factory=dict)
    key_places: dict[str, Place] = field(default_factory=dict)


Node = ScalarNode | ListNode | MapNode


class Source:
    """A file's tree, from which what is wrong is removed, and the list of what was wrong.

    Everything that remains has been found good so far, so that one pass can go on to the rules between values.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.root: Node = MapNode(START)
        self.readable = True
        """False once nothing can be said about the contents."""

    @property
    def is_full(self) -> bool:
        """Whether further problems would not be shown; loops that look for them may end."""
        return len(self.problems) > PROBLEMS_MAX

    def report(self, place: Place, message: str, hint: str = "") -> None:
        """Note a problem; after ``PROBLEMS_MAX`` of one file, one last line says that there are more."""
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(self.file, *place, message, hint))
        elif len(self.problems) == PROBLEMS_MAX:
            self.problems.append(Problem(self.file, *place, "more problems follow", "mend the others first"))

    def give_up(self, place: Place, message: str, hint: str = "") -> None:
        """Note a problem that makes the rest of the file unreadable."""
        self.report(place, message, hint)
        self.readable = False

    def problem(self, path: Path, message: str, hint: str = "") -> None:
        """Note what is wrong with the value at this path."""
        self.report(self.place(path), message, hint)

    def problem_at_key(self, path: Path, message: str, hint: str = "") -> None:
        """Note what is wrong with the last key of this path."""
        parent = self.node(path[:-1])
        place = parent.key_places.get(str(path[-1])) if isinstance(parent, MapNode) else None
        self.report(place or self.place(path), message, hint)

    def node(self, path: Path) -> Node | None:
        """The node at this path, None where there is none."""
        node: Node | None = self.root
        for element in path:
            if isinstance(node, MapNode):
                node = node.entries.get(str(element))
            elif isinstance(node, ListNode) and isinstance(element, int) and element < len(node.items):
                node = node.items[element]
            else:
                return None
        return node

    def place(self, path: Path) -> Place:
        """Where the value at this path stands; for one that is not there, where its parent stands."""
        node = self.node(path)
        if node is not None:
            return node.place
        return self.place(path[:-1]) if path else START

    def was_written(self, path: Path) -> bool:
        """Whether the file has this key at all, be its value good or bad."""
        parent = self.node(path[:-1])
        return isinstance(parent, MapNode) and path[-1] in parent.key_places

    def is_spoiled(self, path: Path) -> bool:
        """Whether the file has this key with a value that was removed as bad."""
        return self.was_written(path) and self.node(path) is None

    def has_lost(self, key: str, inner: str) -> bool:
        """Whether entries of this list of the root, or this key of one of them, were removed as bad."""
        entries = self.node((key,))
        if not self.readable or self.is_spoiled((key,)) or not isinstance(self.root, MapNode):
            return True
        if not isinstance(entries, ListNode):
            return False
        return entries.is_partial or any(
            self.is_spoiled((key, index, inner)) for index in range(len(entries.items))
        )

    def remove(self, paths: Sequence[Path]) -> None:
        """Take the values at these paths out of the tree; a root that is bad leaves nothing to read."""
        doomed = {id(node) for path in paths if path and (node := self.node(path)) is not None}
        for parent in [self.node(path) for path in {path[:-1] for path in paths if path}]:
            if isinstance(parent, MapNode):
                parent.entries = {
                    key: entry for key, entry in parent.entries.items() if id(entry) not in doomed
                }
            elif isinstance(parent, ListNode):
                kept = [item for item in parent.items if id(item) not in doomed]
                parent.is_partial = parent.is_partial or len(kept) < len(parent.items)
                parent.items = kept
        if () in paths:
            self.root = MapNode(self.root.place)
            self.readable = False


def plain(node: Node) -> Any:
    """The node's value as dicts, lists and scalars."""
    match node:
        case MapNode(entries=entries):
            return {key: plain(entry) for key, entry in entries.items()}
        case ListNode(items=items):
            return [plain(item) for item in items]
        case ScalarNode(value=value):
            return value
