"""What the documents say is what the program has: commands, options, modules, metrics, states and limits."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest

from bsfg.cli.main import program
from bsfg.config.limits import LimitRange, limit_ranges
from bsfg.model.cursor import HaltReason, LinkState
from bsfg.transport.handshake import REASONS

ROOT: Final = Path(__file__).resolve().parents[2]
SOURCE: Final = ROOT / "src" / "bsfg"
DOCUMENTS: Final = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPERATIONS: Final = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
METRIC: Final = re.compile(r"\bbsfg_[a-z_]+")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def command_lines() -> Iterator[tuple[str, str]]:
    """Every command line of bsfg in a shell block of a document, with the document's name."""
    for path in DOCUMENTS:
        for block in re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                found = re.search(r"(?:^|\| )(?:\.venv/bin/)?bsfg (.*)", line)
                if found:
                    yield relative(path), found[1]


@pytest.mark.parametrize(("document", "line"), sorted(set(command_lines())))
def test_a_documented_command_line_exists_with_its_options(document: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    command: click.Command = program
    context = click.Context(program, info_name="bsfg")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, f"{document}: bsfg has no {words[0]}"
        command, words = found, words[1:]
    known = {"--help", *(name for parameter in command.params for name in parameter.opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known


def test_a_module_that_a_document_names_exists() -> None:
    rooms = "model|core|config|substrates|transport|daemon|checks|lab|cli"
    named = {
        (relative(path), module)
        for path in DOCUMENTS
        for module in re.findall(rf"`(?:src/bsfg/)?((?:{rooms})/[a-z_]+\.py)`", path.read_text(encoding="utf-8"))
    }
    assert named
    assert not [name for name in sorted(named) if not (SOURCE / name[1]).is_file()]


def test_the_operations_manual_lists_every_metric_and_no_other() -> None:
    rooms = [SOURCE / "daemon" / "telemetry.py", SOURCE / "daemon" / "gauges.py"]
    quoted = re.compile(r'"(bsfg_[a-z_]+)"')
    exported = {name for path in rooms for name in quoted.findall(path.read_text(encoding="utf-8"))}
    documented = {name.removesuffix("_total") for name in METRIC.findall(OPERATIONS)}
    assert documented == exported


@pytest.mark.parametrize("word", [*LinkState, *HaltReason, *REASONS])
def test_the_operations_manual_explains_each_state_and_reason(word: str) -> None:
    assert f"`{word}`" in OPERATIONS


@pytest.mark.parametrize("limit", list(limit_ranges()), ids=lambda limit: limit.name)
def test_the_operations_manual_lists_each_limit_with_what_it_bounds(limit: LimitRange) -> None:
    row = rf"^\| `{limit.name}` \|( [^|]+ \|){{3}} {re.escape(limit.bounds)} \|$"
    assert re.search(row, OPERATIONS, re.MULTILINE)


def test_links_between_documents_lead_somewhere() -> None:
    links = [
        (path, link)
        for path in DOCUMENTS
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    ]
    assert links
    assert not [f"{relative(path)}: {link}" for path, link in links if not (path.parent / link).exists()]


def test_every_decision_record_has_its_number_and_a_status() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [path.name[:4] for path in records] == [f"{number:04d}" for number in range(1, len(records) + 1)]
    assert not [
        relative(path)
        for path in records
        if not re.search(r"^Status: (accepted|superseded by \d{4})$", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
