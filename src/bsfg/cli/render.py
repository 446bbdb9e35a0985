"""Everything that the program prints goes through here: JSON, tables of 80 columns, marks, errors.

Text that came from elsewhere is shown with its control characters escaped, so that no peer and no producer can move
an operator's cursor. JSON is ASCII for the same reason.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import click

from bsfg.errors import BsfgError
from bsfg.model import units

COLUMNS: Final = 80
COLUMN_WIDTH_MIN: Final = 8
UNKNOWN: Final = "unknown"
_GAP: Final = "  "
_MARKS: Final = {
    "passed": ("✓", "green"),
    "passed with exception": ("~", "yellow"),
    "attested": ("@", "cyan"),
    "warned": ("!", "yellow"),
    "failed": ("✗", "red"),
    "skipped": ("»", "yellow"),
    "not run": ("-", "yellow"),
}
_FRACTION: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d+Z", re.ASCII)

Screen = Callable[[Any], Iterable[str]]


# What leaves the program


def show(answer: Any, output: str, screen: Screen) -> None:
    """Print an answer: as it is in JSON, or as the lines that the screen makes of it."""
    if output == "json":
        click.echo(json.dumps(answer, indent=2))
    else:
        lines(screen(answer))


def lines(text: Iterable[str]) -> None:
    for line in text:
        click.echo(line)


def json_line(answer: Any) -> None:
    """One JSON value on one line, for people and scripts alike."""
    click.echo(json.dumps(answer))


def line(text: str) -> None:
    click.echo(text)


def raw(content: bytes) -> None:
    """Bytes as they are, for a pipe."""
    sys.stdout.buffer.write(content)


def flush() -> None:
    sys.stdout.buffer.flush()


def usage(text: str) -> None:
    click.echo(text, err=True)


def show_error(error: BsfgError, output: str) -> int:
    """Print an error on stderr and return the exit status that belongs to it."""
    try:
        if output == "json":
            click.echo(json.dumps(error.as_json()), err=True)
        else:
            for line in error_lines(error):
                click.echo(line, err=True)
    except BrokenPipeError:
        discard_output()
    return error.exit_status


def error_lines(error: BsfgError) -> list[str]:
    """Every problem of a configuration on its own line; any other error as one line and its hint."""
    problems = error.details.get("problems")
    if isinstance(problems, list) and problems and all(isinstance(problem, dict) for problem in problems):
        return [problem_line(problem) for problem in problems]
    text = [f"{click.style('error:', fg='red')} {printable(error.message)}"]
    if error.hint:
        # A hint may have lines to be typed; what a peer sent never has.
        first, *others = error.hint.splitlines() or [""]
        text += [f"  hint: {printable(first)}", *map(printable, others)]
    return text


def problem_line(problem: Mapping[str, Any]) -> str:
    place = ":".join(printable(problem.get(part, "?")) for part in ("file", "line", "column"))
    hint = problem.get("hint")
    return f"{place}: {printable(problem.get('message', ''))}" + (f" ({printable(hint)})" if hint else "")


def prepare_terminal() -> None:
    """A character that the terminal's encoding lacks is shown escaped instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Nobody reads our output any more: what is still buffered goes nowhere, without a complaint at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


# Values


def printable(value: Any) -> str:
    """A value as one line of text: ``unknown`` for None, control and formatting characters escaped."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = value if isinstance(value, str) else str(value)
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def number(value: Any) -> str:
    """A count with its thousands apart."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else printable(value)


def moment(value: Any) -> str:
    """An RFC 3339 time to the second."""
    return _FRACTION.sub(r"\1Z", printable(value))


def seconds(value: Any) -> str:
    """A duration in its two largest units."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return printable(value)
    if value < 10:
        return f"{value:.1f} s"
    return units.duration(int(value))


def size(value: Any) -> str:
    """A number of bytes in a unit that people read."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return printable(value)
    return units.size(value)


def joined(values: Any) -> str:
    """A list on one line, ``none`` where it is empty."""
    if not isinstance(values, list | tuple):
        return printable(values)
    return ", ".join(printable(value) for value in values) or "none"


def mark(outcome: Any) -> str:
    """The mark of a check's outcome, coloured where a terminal shows it."""
    sign, colour = _MARKS.get(outcome, ("?", "yellow"))
    return click.style(sign, fg=colour)


def emphasis(text: str, *, good: bool) -> str:
    return click.style(text, fg="green" if good else "red", bold=not good)


# Layout


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, indent: int = 0, whole: int = 0) -> list[str]:
    """Columns side by side in at most 80; the widest give way, and what is cut ends in an ellipsis.

    The first ``whole`` columns are names that people copy: they are never cut, and the table may grow wider for them.
    """
    cells = [list(titles), *(list(row) for row in rows)]
    widths = _fitted([max(map(len, column)) for column in zip(*cells, strict=True)], COLUMNS - indent, whole)
    return [" " * indent + _row(row, widths) for row in cells]


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return _GAP.join(_cut(cell, width).ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _fitted(widths: list[int], room: int, whole: int) -> list[int]:
    kept, fitted = widths[:whole], widths[whole:]
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - room
    while excess > 0 and max(fitted, default=0) > COLUMN_WIDTH_MIN:
        fitted[fitted.index(max(fitted))] -= 1
        excess -= 1
    return kept + fitted


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def fields(pairs: Iterable[tuple[str, str]], *, indent: int = 0) -> list[str]:
    """Names and values in two columns; a long value goes on below itself."""
    entries = list(pairs)
    width = max((len(name) for name, _ in entries), default=0)
    text: list[str] = []
    for name, value in entries:
        first, *rest = _wrapped(value, COLUMNS - indent - width - len(_GAP))
        text.append(f"{' ' * indent}{name.ljust(width)}{_GAP}{first}".rstrip())
        text.extend(" " * (indent + width + len(_GAP)) + line for line in rest)
    return text


def paragraph(text: str, *, first: str = "", indent: int = 0) -> list[str]:
    """Text broken at 80 columns; ``first`` stands before its first line, the others are indented."""
    head, *rest = _wrapped(text, COLUMNS - indent)
    return [f"{first}{head}", *(" " * indent + line for line in rest)]


def _wrapped(text: str, width: int) -> list[str]:
    text_lines: list[str] = []
    line = ""
    for word in text.split(" "):
        if line and len(line) + 1 + len(word) > width:
            text_lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*text_lines, line]


def tree(value: Any, *, indent: int = 0) -> list[str]:
    """Nested values, one a line, as YAML would show them; ``-`` where there is none."""
    pad = " " * indent
    if isinstance(value, Mapping):
        return [line for name, item in value.items() for line in _branch(f"{pad}{printable(name)}:", item, indent)]
    if isinstance(value, list | tuple):
        return [line for item in value for line in _item(item, indent)]
    return [pad + _leaf(value)]


def _branch(head: str, item: Any, indent: int) -> list[str]:
    if isinstance(item, Mapping | list | tuple):
        return [head, *tree(item, indent=indent + 2)] if item else [f"{head} none"]
    return [f"{head} {_leaf(item)}"]


def _leaf(value: Any) -> str:
    return "-" if value is None else printable(value)


def _item(item: Any, indent: int) -> list[str]:
    first, *rest = tree(item, indent=indent + 2) or [""]
    return [" " * indent + "- " + first.lstrip(), *rest]
