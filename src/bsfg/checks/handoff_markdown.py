"""A handoff's blocks as Markdown. What a peer or a person wrote is text in it, never markup."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from bsfg.checks.handoff_layout import Block, Bullets, Command, Heading, Paragraph, Table

_MARKUP: Final = re.compile(
    r"[\\`*\[\]<>|~&$@]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=www)\.|:(?=//)", re.ASCII | re.IGNORECASE
)
_LEADING_MARK: Final = re.compile(r"\s*(?:\d+(?=[.)])|(?=[-+=#]))", re.ASCII)


def as_markdown(blocks: Iterable[Block]) -> str:
    """The whole document, a blank line between blocks."""
    return "\n\n".join("\n".join(_lines(block)) for block in blocks) + "\n"


def escaped(text: str) -> str:
    """One line of text that every Markdown reader shows as it is: no markup, no link, no HTML."""
    return _MARKUP.sub(lambda match: f"\\{match[0]}", one_line(text))


def _line(text: str) -> str:
    """The same at the beginning of a line or an item, where it must not become a heading or a list."""
    line = escaped(text).lstrip()
    mark = _LEADING_MARK.match(line)
    return f"{mark[0]}\\{line[mark.end() :]}" if mark else line


def one_line(text: str) -> str:
    """Control and formatting characters shown escaped, so that none moves, hides or breaks what stands around it."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def _lines(block: Block) -> list[str]:
    match block:
        case Heading(text, level):
            return [f"{'#' * level} {escaped(text)}"]
        case Paragraph(text, None):
            return [_line(text)]
        case Paragraph(text, _):
            return [f"**{escaped(text)}**"]
        case Bullets(items):
            return [f"- {_line(item)}" for item in items]
        case Command(lines):
            return ["```sh", *map(one_line, lines), "```"]
        case Table():
            return _table(block)


def _table(table: Table) -> list[str]:
    head = [escaped(name) for name in table.head]
    rows = [[escaped(cell) for cell in row] for row in table.rows]
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows)]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
