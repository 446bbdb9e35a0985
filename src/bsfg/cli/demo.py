"""``bsfg demo``: the main job in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bsfg.cli import render
from bsfg.cli.options import common_options


class SabotageType(click.ParamType[str]):
    """One of the things that the demo knows how to break; they are looked up only when one is asked for."""

    name = "sabotage"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from bsfg.lab.demo import SABOTAGES

        if value not in SABOTAGES:
            self.fail(f"{value!r} is none of {', '.join(SABOTAGES)}", param, ctx)
        return str(value)


@click.command("demo")
@click.option("--keep", is_flag=True, help="Leave the lab running and say how to play with it.")
@click.option("--sabotage", metavar="NAME", type=SabotageType(), help="Break one line's subject: it must fail.")
@common_options
def command(home: Path, output: str, keep: bool, sabotage: str | None) -> int:
    """Set up a lab, move facts, run the drills, compare both zones fact by fact; exit 0 only if all held."""
    from bsfg.lab import demo

    return demo.run(directory=None, keep=keep, sabotage=sabotage, output=output, write=render.line)
