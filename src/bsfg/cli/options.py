"""What all commands share: ``--home``, ``--output``, and types of arguments that several of them take."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from bsfg.model.names import parse_stream, parse_zone

DEFAULT_HOME: Final = "/opt/bsfg"
PARTITION_SECONDS_MAX: Final = 24 * 3600
UNTIL_RECONCILED: Final = "until-reconciled"

_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION: Final = re.compile(r"([1-9][0-9]{0,8})([smhd])", re.ASCII)
_Function = TypeVar("_Function", bound=Callable[..., Any])


def common_options(function: _Function) -> _Function:
    """Give a command ``--home`` and ``--output``, as its parameters ``home`` and ``output``."""
    return reporting_options("text", "json")(function)


def reporting_options(*outputs: str) -> Callable[[_Function], _Function]:
    """The same with these ways to report, the first being the default."""
    output = click.option(
        "--output",
        type=click.Choice(outputs),
        default=outputs[0],
        show_default=True,
        help="For people or for scripts.",
    )
    home = click.option(
        "--home",
        type=click.Path(path_type=Path),
        envvar="BSFG_HOME",
        default=DEFAULT_HOME,
        show_default=True,
        show_envvar=True,
        help="The zone's home.",
    )
    return lambda function: home(output(function))


class ZoneType(click.ParamType[str]):
    """A zone id."""

    name = "zone"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return parse_zone(value)


class StreamType(click.ParamType[str]):
    """A logical stream name."""

    name = "stream"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return parse_stream(value)


class PartitionDuration(click.ParamType[int | None]):
    """How long a partition lasts, in seconds; None for one that only ``admin reconcile`` ends."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value == UNTIL_RECONCILED:
            return None
        match = _DURATION.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is not a duration like 90s, 15m or 2h, nor {UNTIL_RECONCILED}", param, ctx)
        seconds = int(match[1]) * _UNIT_SECONDS[match[2]]
        if seconds > PARTITION_SECONDS_MAX:
            self.fail(f"{value} is longer than 24h; {UNTIL_RECONCILED} has no end", param, ctx)
        return seconds


ZONE: Final = ZoneType()
STREAM: Final = StreamType()


def peer_option(*, required: bool) -> Callable[[_Function], _Function]:
    text = "The peer." if required else "The peer whose inbound stream is meant; without it the local one."
    return click.option("--peer", type=ZONE, required=required, help=text)


def stream_option(function: _Function) -> _Function:
    return click.option("--stream", type=STREAM, required=True, help="The stream's logical name.")(function)


def reason_option(function: _Function) -> _Function:
    return click.option("--reason", required=True, help="Why; it is audited.")(function)


def dry_run_option(function: _Function) -> _Function:
    return click.option("--dry-run", is_flag=True, help="Only say what would be skipped, repeated or lost.")(function)
