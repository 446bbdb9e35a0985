"""``bsfg audit``: whether the audit log is whole (contract, section 8)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from bsfg.cli import render
from bsfg.cli.options import common_options
from bsfg.config.home import Home
from bsfg.errors import EXIT_DONE, EXIT_FAILED


@click.group("audit")
def command() -> None:
    """Whether the audit log is whole."""


@command.command("verify")
@common_options
def verify(home: Path, output: str) -> int:
    """Follow the chain through every file of the audit log.

    Names file and line of each break, and exits 1 if there is one. The newest records cut off can't be seen by this.
    """
    from bsfg.daemon.audit_files import verify as verified

    verdict = verified(Home(home.absolute()).data)
    render.show(verdict.as_json(), output, _verdict)
    return EXIT_FAILED if verdict.problems else EXIT_DONE


def _verdict(answer: Mapping[str, Any]) -> Iterable[str]:
    problems = answer["problems"]
    counted = f"{render.number(answer['records'])} records in {render.number(answer['files'])} files"
    yield f"{render.mark('failed' if problems else 'passed')} {counted}"
    yield from (f"  {render.printable(problem)}" for problem in problems)
    if not problems:
        yield "  the chain holds from the first to the last"
    if answer["unfinished"]:
        yield f"  {render.printable(answer['unfinished'])} is not finished: it is being written, or a crash cut it"
