"""``bsfg serve``."""

from __future__ import annotations

import gc
from pathlib import Path

import click

from bsfg.cli.options import common_options


@click.command("serve")
@click.option("--allow-root", is_flag=True, help="Run as root all the same.")
@common_options
def command(home: Path, output: str, allow_root: bool) -> int:
    """Run this zone's gateway in the foreground, until SIGTERM or Ctrl-C."""
    # Looking for cycles among what is only being imported is a fifth of a start's time; once all is there, the
    # gateway sets the collector up for good (prepare_process).
    gc.disable()
    from bsfg.bootstrap.run import serve as run_gateway

    return run_gateway(home.absolute(), allow_root=allow_root)
