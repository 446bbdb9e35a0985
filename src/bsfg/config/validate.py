"""A file's tree against its schema: every value that does not fit is reported in its place and left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bsfg.config.fields import REFUSED, shown
from bsfg.config.scalars import did_you_mean
from bsfg.config.schema import Section
from bsfg.config.source import PROBLEMS_MAX, ListNode, MapNode, Node, Path, ScalarNode, Source, plain
from bsfg.model.names import printable

_PHRASES: Final[Mapping[str, tuple[str, str]]] = {
    "bool_type": ("must be true or false", "yes, no, on and off are texts in YAML 1.2"),
    "int_type": ("must be a whole number", "write digits without quotes"),
    "list_type": ("must be a list", "write [a, b], or one '- ' line for each entry"),
    "model_type": ("must be a mapping of keys", "write 'key: value' lines below it"),
    "model_attributes_type": ("must be a mapping of keys", "write 'key: value' lines below it"),
    "dict_type": ("must be a mapping of keys", "write 'key: value' lines below it"),
    "greater_than_equal": ("must be at least {ge}", ""),
    "less_than_equal": ("must be at most {le}", ""),
}
_EMPTY_LISTS: Final[tuple[Path, ...]] = (("peers",), ("cursors",))
_PASSES_MAX: Final = 20

File = TypeVar("File", bound=Section)


def validate(schema: type[File], source: Source) -> File:
    """The file's values; what was wrong is in the source's problems, and gone from its tree and from the result."""
    if isinstance(source.root, ScalarNode) and source.root.value is None:
        source.root = MapNode(source.root.place)
    _drop_nulls(schema, source)
    for _ in range(_PASSES_MAX):
        try:
            return schema.model_validate(plain(source.root))
        except ValidationError as error:
            details = error.errors(include_url=False)
        for detail in details[: PROBLEMS_MAX + 1]:
            _report(schema, source, detail)
        source.remove([detail["loc"] for detail in details])
    # Each pass removes what it reports, so that only a defect of the schema leads here.
    raise AssertionError(f"{source.file}: the schema refuses what is left of the file")


def _drop_nulls(schema: type[Section], source: Source) -> None:
    """Report keys and entries without a value; a file's one list that is all comments is just empty."""
    paths = [
        path
        for path in _null_paths(source.root, ())
        if isinstance(path[-1], int) or path[-1] in _keys_at(schema, path[:-1])
    ]
    for path in paths:
        if path in _EMPTY_LISTS and isinstance(source.root, MapNode):
            source.root.entries[str(path[0])] = ListNode(source.place(path))
        else:
            source.problem(path, f"{_label(path)} has no value", "give one, or remove the line")
    source.remove([path for path in paths if path not in _EMPTY_LISTS])


def _null_paths(node: Node, path: Path) -> Iterator[Path]:
    match node:
        case ScalarNode(value=None) if path:
            yield path
        case ListNode(items=items):
            for index, item in enumerate(items):
                yield from _null_paths(item, (*path, index))
        case MapNode(entries=entries):
            for key, entry in entries.items():
                yield from _null_paths(entry, (*path, key))


def _report(schema: type[Section], source: Source, detail: ErrorDetails) -> None:
    path = detail["loc"]
    kind = detail["type"]
    context: dict[str, Any] = detail.get("ctx", {})
    if kind == "extra_forbidden":
        hint = did_you_mean(str(path[-1]), _keys_at(schema, path[:-1]))
        source.problem_at_key(path, f"unknown key {printable(str(path[-1]))}", hint)
    elif kind == REFUSED:
        source.problem(path, f"{_label(path)}: {context['message']}", context["hint"])
    else:
        phrase, hint = _PHRASES.get(kind, (detail["msg"], ""))
        message = f"{_label(path)} {phrase.format(**context)}, not {shown(detail['input'])}"
        source.problem(path, message, hint)


def _label(path: Path) -> str:
    if not path:
        return "the file"
    if isinstance(path[-1], int):
        return f"entry of {_label(path[:-1])}"
    return path[-1]


def _keys_at(schema: type[Section], path: Path) -> set[str]:
    """The keys that a mapping at this path may have."""
    sections = [schema]
    for key in path:
        if isinstance(key, str):
            found = [section.model_fields[key] for section in sections if key in section.model_fields]
            sections = [inner for entry in found for inner in _sections_in(entry.annotation)]
    return {key for section in sections for key in section.model_fields}


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections_in(argument)
