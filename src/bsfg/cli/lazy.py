"""A group of commands whose modules are imported only when one of them is called, so that help stays quick."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True, slots=True)
class Noun:
    """Where a command lives, and the line that help shows for it without importing it."""

    module: str
    """Its attribute ``command`` is the command or the group of commands."""
    help: str


class LazyGroup(click.Group):
    """A group that knows its commands by name and help line alone."""

    def __init__(self, *, nouns: Mapping[str, Noun], **settings: Any) -> None:
        super().__init__(**settings)
        self._nouns = nouns

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._nouns)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        noun = self._nouns.get(cmd_name)
        if noun is None:
            return None
        command = importlib.import_module(noun.module).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, noun.help) for name, noun in self._nouns.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self._nouns and not name.startswith("-"):
            raise click.NoSuchCommand(name, possibilities=self._nouns, ctx=ctx)
        return super().resolve_command(ctx, args)
