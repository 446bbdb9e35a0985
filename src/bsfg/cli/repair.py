"""``bsfg repair``: what verify found damaged or missing, fetched again into a new generation and proved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from bsfg.cli import decision_screens, render, verify
from bsfg.cli.cursor import follow
from bsfg.cli.local_client import LONG_DEADLINE_SECONDS, LocalClient, route
from bsfg.cli.options import common_options, dry_run_option, peer_option, reason_option, stream_option
from bsfg.errors import EXIT_DONE, EXIT_FAILED
from bsfg.model.ranges import RANGES_MAX, Ranges


@click.command("repair")
@peer_option(required=True)
@stream_option
@reason_option
@click.option("--everything", is_flag=True, help="Fetch what is undamaged, too, and take nothing over.")
@dry_run_option
@common_options
def command(
    home: Path, output: str, peer: str, stream: str, reason: str, everything: bool, dry_run: bool
) -> int:
    """Mend what differs from the peer, if anything does.

    What is damaged or missing is fetched into a new generation, all else is taken over from the one in force, and the
    whole is compared with the peer's facts before it comes into force. The old one stays until bsfg stream drop.
    Interrupted, it goes on in the gateway; audited.
    """
    client = LocalClient(home)
    found = verify.ask(client, peer, stream, None, None)
    answer: dict[str, Any] = {"peer": peer, "stream": stream, "dry_run": dry_run, "found": found}
    if found["identical"]:
        render.show(answer | {"repaired": False}, output, _nothing)
        return EXIT_DONE
    damaged = None if everything else damaged_ranges(found)
    wanted = {"peer": peer, "stream": stream, "to": found["from"], "reason": reason, "dry_run": dry_run}
    if damaged is not None:
        wanted |= {"through": found["to"], "damaged": damaged}
    answer["fetched"] = damaged
    plan = client.post(route("repair"), wanted, deadline_seconds=LONG_DEADLINE_SECONDS)
    answer |= {"plan": plan, "repaired": False}
    if output == "text":
        render.lines(_planned(answer))
    if dry_run:
        if output == "json":
            render.show(answer, output, _planned)
        return EXIT_DONE
    try:
        cursor = follow(home, peer, stream, int(plan["generation"]), output)
    except KeyboardInterrupt:
        render.usage("the gateway goes on with it; bsfg cursor query shows how far it is")
        raise
    after = verify.ask(client, peer, stream, None, None)
    answer |= {"cursor": cursor, "after": after, "repaired": bool(after["identical"])}
    render.show(answer, output, _repaired)
    return EXIT_DONE if after["identical"] else EXIT_FAILED


def damaged_ranges(found: dict[str, Any]) -> list[dict[str, Any]] | None:
    """What of a verified range can't be taken over, in order; None where that is too much to name."""
    rows = [row for row in found["differences"] if row["sequence"] is not None]
    at_peer = [(row["sequence"], row["sequence"]) for row in rows if row["kind"] != "extra"]
    # What a gap explains is asked for again: it may be there by now, or be set aside as before.
    at_peer += [(row["from"], row["to"]) for row in (*found["unresolved"], *found["explained"])]
    extra = sorted({row["sequence"] for row in rows if row["kind"] == "extra"})
    ranges = Ranges(at_peer)
    if len(ranges) + len(extra) > RANGES_MAX:
        return None
    damaged = [{"from": first, "to": last, "at_peer": True} for first, last in ranges]
    return damaged + [{"from": sequence, "to": sequence, "at_peer": False} for sequence in extra]


def _nothing(answer: dict[str, Any]) -> Iterator[str]:
    yield "nothing to repair"
    yield from verify.verified(answer["found"])


def _planned(answer: dict[str, Any]) -> Iterator[str]:
    yield from verify.verified(answer["found"])
    yield from decision_screens.rewind_planned(answer["plan"])


def _repaired(answer: dict[str, Any]) -> Iterator[str]:
    yield f"generation {answer['cursor']['generation']} is in force; the one before stays until bsfg stream drop"
    yield from verify.verified(answer["after"])
