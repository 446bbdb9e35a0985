"""YAML 1.2 text to a tree with places: plain mappings, lists and scalars only.

ruamel.yaml parses; this module builds from its events, so that depth is bounded before anything is built, every value
knows its place, and anchors, aliases, merge keys, tags and directives are refused by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml import events as yaml_events
from ruamel.yaml.error import MarkedYAMLError, StringMark
from ruamel.yaml.nodes import ScalarNode as RuamelScalarNode
from ruamel.yaml.reader import ReaderError

from bsfg.config.source import ListNode, MapNode, Node, Place, ScalarNode, Source
from bsfg.model.names import printable

DEPTH_MAX: Final = 16
INTEGER_DIGITS_MAX: Final = 18
KEY_LENGTH_MAX: Final = 200
_TAG: Final = "tag:yaml.org,2002:"
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_QUOTE_HINT: Final = "quote values that contain ': ' or begin with one of [ ] { } * & ! | > @ ` % \" '"


class _TooDeep(Exception):
    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place


@dataclass(slots=True)
class _Open:
    """A collection that is being read; in a mapping, the key whose value comes next, None if it can't be used."""

    node: ListNode | MapNode
    key: ScalarNode | None = None
    key_is_read: bool = False


def read_tree(text: str, source: Source) -> None:
    """Put the text's tree in the source's root; what can't be read or used is reported and left out."""
    composer = _Composer(source)
    try:
        composer.run(text)
    except _TooDeep as error:
        source.give_up(error.place, f"nested deeper than {DEPTH_MAX} levels")
    except MarkedYAMLError as error:
        _report_syntax(error, source)
    except ReaderError as error:
        place = place_at(text, error.position)
        source.give_up(place, f"character U+{error.character:04X} is not allowed in YAML")
    except Exception as error:  # The parser's own slips on odd text; whatever they are, the text is at fault.
        source.give_up(composer.reached, f"is not valid YAML: the parser stopped with {type(error).__name__}")


def place_at(text: str, position: int) -> Place:
    """Line and column of a character position."""
    before = text[:position]
    return before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1


def _report_syntax(error: MarkedYAMLError, source: Source) -> None:
    mark = error.problem_mark or error.context_mark
    problem = error.problem or error.context or "unexpected text"
    if "'\\t'" in problem:
        source.give_up(_place(mark), "a tab where YAML wants spaces", "indent and separate with spaces")
        return
    context = f", {error.context}" if error.context and error.problem else ""
    if context and error.context_mark is not None:
        context += f" that begins at line {error.context_mark.line + 1}"
    source.give_up(_place(mark), f"is not valid YAML: {problem}{context}", _QUOTE_HINT)


def _place(mark: StringMark | None) -> Place:
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


class _Composer:
    """Builds nodes from events, with a stack of open collections instead of recursion."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._yaml = YAML(typ="safe", pure=True)
        self._open: list[_Open] = []
        self._documents = 0
        self.reached: Place = (1, 1)
        """Where the last thing that was understood ends."""

    def run(self, text: str) -> None:
        for event in self._yaml.parse(text):
            self._take(event)
            self.reached = _place(event.end_mark)
            if self._documents > 1:
                return

    def _take(self, event: Any) -> None:
        place = _place(event.start_mark)
        match event:
            case yaml_events.DocumentStartEvent():
                self._begin_document(event, place)
            case yaml_events.AliasEvent():
                self._source.report(place, f"alias *{event.anchor} is not allowed", "write the value out")
                self._add(None, place)
            case yaml_events.ScalarEvent():
                self._refuse_decorations(event, place)
                self._add(self._scalar(event, place) if event.tag is None else None, place)
            case yaml_events.MappingStartEvent() | yaml_events.SequenceStartEvent():
                self._refuse_decorations(event, place)
                self._begin_collection(event, place)
            case yaml_events.MappingEndEvent() | yaml_events.SequenceEndEvent():
                closed = self._open.pop().node
                self._add(closed, closed.place)

    def _begin_document(self, event: Any, place: Place) -> None:
        self._documents += 1
        if self._documents > 1:
            self._source.give_up(
                place, "a second YAML document", "keep one document in each file, without '---'"
            )
        elif event.version is not None or event.tags:
            self._source.give_up(
                place, "YAML directives are not allowed", "files are YAML 1.2; remove the % lines"
            )

    def _refuse_decorations(self, event: Any, place: Place) -> None:
        if event.anchor is not None:
            self._source.report(place, f"anchor &{event.anchor} is not allowed", "write the value out")
        if event.tag is not None:
            self._source.report(
                place, f"tag {printable(str(event.tag).replace(_TAG, '!!'))} is not allowed", "remove it"
            )

    def _begin_collection(self, event: Any, place: Place) -> None:
        if len(self._open) >= DEPTH_MAX:
            raise _TooDeep(place)
        is_mapping = isinstance(event, yaml_events.MappingStartEvent)
        self._open.append(_Open(MapNode(place) if is_mapping else ListNode(place)))

    def _add(self, node: Node | None, place: Place) -> None:
        """Hand a finished node to the collection around it; None stands for one that was refused."""
        if not self._open:
            if node is None:
                self._source.readable = False
            else:
                self._source.root = node
            return
        around = self._open[-1]
        if isinstance(around.node, ListNode):
            if node is not None:
                around.node.items.append(node)
            else:
                around.node.is_partial = True
        elif around.key_is_read:
            self._add_value(around, around.node, node)
        else:
            self._add_key(around, around.node, node, place)

    def _add_key(self, around: _Open, mapping: MapNode, node: Node | None, place: Place) -> None:
        around.key_is_read = True
        around.key = None
        if not isinstance(node, ScalarNode) or len(node.text) > KEY_LENGTH_MAX:
            self._source.report(place, "a key that is not a short word", "keys are the words of the manual")
        elif node.text == "<<":
            self._source.report(place, "merge key << is not allowed", "write the keys out")
        elif node.text in mapping.key_places:
            line = mapping.key_places[node.text][0]
            self._source.report(
                place, f"duplicate key {printable(node.text)}", f"first in line {line}; keep one of the two"
            )
        else:
            around.key = node
            mapping.key_places[node.text] = place

    def _add_value(self, around: _Open, mapping: MapNode, node: Node | None) -> None:
        around.key_is_read = False
        if node is None or around.key is None:
            return
        if isinstance(node, ScalarNode) and node.value is None and not node.text:
            # What isn't there has no useful place of its own.
            node.place = around.key.place
        mapping.entries[around.key.text] = node

    def _scalar(self, event: Any, place: Place) -> ScalarNode | None:
        text = str(event.value)
        if _SURROGATE.search(text):
            self._source.report(
                place, "half of a surrogate pair is not a character", "write it as it is, in UTF-8"
            )
            return None
        if not event.implicit[0]:
            return ScalarNode(place, text, text)
        match str(self._yaml.resolver.resolve(RuamelScalarNode, text, (True, False))).removeprefix(_TAG):
            case "null":
                return ScalarNode(place, None, text)
            case "bool":
                return ScalarNode(place, text.lower() == "true", text)
            case "int":
                return self._integer(text, place)
            case "float" if "_" not in text:
                return ScalarNode(place, float(text.replace(".inf", "inf").replace(".nan", "nan")), text)
            case _:
                return ScalarNode(place, text, text)

    def _integer(self, text: str, place: Place) -> ScalarNode | None:
        digits = text.lstrip("+-")
        if not digits.isdecimal() or (len(digits) > 1 and digits[0] == "0"):
            self._source.report(
                place,
                f"number {printable(text)} is not in plain decimal",
                "write it like 9443, or quote a text",
            )
            return None
        if len(digits) > INTEGER_DIGITS_MAX:
            self._source.report(place, f"number {printable(text)} is too large")
            return None
        return ScalarNode(place, int(text), text)
