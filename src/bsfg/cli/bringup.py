"""``bsfg bringup``: the runbook as a command (runbook, sections 1 to 9; contract, sections 6 and 7)."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import click

from bsfg import __version__
from bsfg.bootstrap import run_records
from bsfg.checks import runner
from bsfg.checks.catalog import CATALOG, SECTIONS
from bsfg.checks.check import Check, Context, Options
from bsfg.checks.model import CheckResult, RunRecord, Waiver
from bsfg.checks.policies import described_inputs, gather_policies, peer_version
from bsfg.checks.runner import Plan
from bsfg.checks.surroundings import Credentials
from bsfg.cli import bringup_screens, render
from bsfg.cli.options import ZONE, PartitionDuration, reporting_options
from bsfg.cli.surroundings import CommandSurroundings
from bsfg.config.bringup import Inputs, load_inputs
from bsfg.config.load import load
from bsfg.config.scalars import did_you_mean
from bsfg.config.values import Configuration, PeerConfig
from bsfg.daemon.handoffs import WrittenHandoff, write_handoff
from bsfg.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, BsfgError, Code
from bsfg.model.names import ZoneId

_FILE: Final = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator wants of this run beside the peer."""

    sections: tuple[str, ...]
    skip: tuple[str, ...]
    reasons: tuple[str, ...]
    again: bool
    wait_seconds: float
    options: Options
    output: str
    only: str = ""
    """Only checks whose id begins so, and what they stand on."""

    @property
    def is_whole(self) -> bool:
        return not self.sections and not self.only


@click.command("bringup")
@click.option("--peer", type=ZONE, help="The peer of the relationship.")
@click.option("--inputs", "inputs_file", type=_FILE, help="[default: the home's config/bringup.yaml]")
@click.option("--section", "sections", multiple=True, help="Only this section, and what it stands on; may be repeated.")
@click.option("--skip", multiple=True, metavar="ID", help="Leave a check out, as an exception; may be repeated.")
@click.option("--reason", "reasons", multiple=True, help="Why; one for each --skip, or one for all.")
@click.option("--again", is_flag=True, help="Repeat also what passed a short while ago.")
@click.option("--wait", type=PartitionDuration(), help="Repeat checks that fail for so long, for example 30s.")
@click.option("--list", "only_list", is_flag=True, help="Only list the checks.")
@click.option("--confirm-window", metavar="REF", help="The change window that the drills are allowed in.")
@click.option("--denial-cert", type=_FILE, help="An identity of a trusted CA that the peer does not list.")
@click.option("--denial-key", type=_FILE, help="Its private key.")
@reporting_options("text", "json", "junit")
def command(
    home: Path,
    output: str,
    peer: str | None,
    inputs_file: Path | None,
    sections: tuple[str, ...],
    skip: tuple[str, ...],
    reasons: tuple[str, ...],
    again: bool,
    wait: int | None,
    only_list: bool,
    confirm_window: str | None,
    denial_cert: Path | None,
    denial_key: Path | None,
) -> int:
    """Bring a relationship up as the runbook says.

    Runs its sections in order and halts where it halts. What passed within the last hour is not repeated, so that an
    interrupted run goes on where it was. Exits 1 if any check failed, or could not be run where the runbook halts.
    """
    if only_list:
        render.show(bringup_screens.listing(CATALOG), output, bringup_screens.list_lines)
        return EXIT_DONE
    if peer is None:
        raise click.UsageError("Missing option '--peer'.")
    options = Options(confirm_window, _denial(denial_cert, denial_key))
    wishes = Wishes(_sections(sections), skip, reasons, again, float(wait or 0), options, output)
    return start(home, peer, wishes, inputs_file)


def start(home: Path, peer: str, wishes: Wishes, inputs_file: Path | None = None) -> int:
    """Run checks of this home's relationship with a peer, print them, and return the exit status."""
    configuration = load(home)
    inputs = load_inputs(configuration.paths, inputs_file)
    skipped = _waivers(wishes, inputs)
    with run_records.claim(configuration.paths):
        try:
            return asyncio.run(_run(configuration, _peer(configuration, peer), inputs, wishes, skipped))
        except asyncio.CancelledError:
            return EXIT_INTERRUPTED


async def _run(
    configuration: Configuration, peer: PeerConfig, inputs: Inputs, wishes: Wishes, skipped: Mapping[str, Waiver]
) -> int:
    _end_in_order()
    context = Context(peer, configuration, inputs, CommandSurroundings(configuration, peer), wishes.options)
    plan = Plan(_chosen(wishes), skipped, _earlier(context, wishes), wishes.wait_seconds)
    began = context.surroundings.now()
    record = RunRecord(
        zone=context.zone,
        identity=configuration.zone.identity_rule.identity,
        peer=peer.id,
        peer_identity=peer.rule.identity,
        run=run_records.new_run(peer.id, began),
        began=began,
        ended=None,
        version=__version__,
        peer_version=None,
        results=(),
        inputs=described_inputs(context),
        policies={},
        approver=inputs.approver.by if inputs.approver else None,
    )
    run_records.prune(configuration.paths, peer.id)
    printed = bringup_screens.Progress(wishes.output)

    def report(result: CheckResult) -> None:
        nonlocal record
        record = replace(record, results=(*record.results, result))
        run_records.save(configuration.paths, record)
        printed.result(result)

    printed.began(record)
    results = await runner.run(plan, context, report)
    record = replace(
        record,
        ended=context.surroundings.now(),
        policies=await gather_policies(context),
        peer_version=peer_version(results),
    )
    path = run_records.save(configuration.paths, record)
    handoff = await _handoff(configuration, record) if wishes.is_whole else None
    printed.ended(record, str(path), handoff)
    return EXIT_DONE if runner.is_met(results) else EXIT_FAILED


async def _handoff(configuration: Configuration, record: RunRecord) -> WrittenHandoff | None:
    """The signed handoff of a whole run; a run stands without one, and says why there is none."""
    try:
        return await asyncio.to_thread(write_handoff, configuration.paths, record, time.time_ns())
    except BsfgError as error:
        render.usage(f"note: no handoff was written: {render.printable(error.message)}")
        return None


def _end_in_order() -> None:
    """A closed terminal and SIGTERM end the run as Ctrl-C does: drills restore what they changed."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGHUP, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _chosen(wishes: Wishes) -> tuple[Check, ...]:
    if wishes.is_whole:
        return CATALOG
    named = [
        check.id
        for check in CATALOG
        if (wishes.only and check.id.startswith(wishes.only)) or _chapter(check) in wishes.sections
    ]
    return runner.closure(named, CATALOG)


def _chapter(check: Check) -> str:
    return check.section.partition(".")[0]


def _earlier(context: Context, wishes: Wishes) -> Mapping[str, CheckResult]:
    """What earlier runs of this very relationship, under this very configuration, found last of each check."""
    found: dict[str, CheckResult] = {}
    if wishes.again:
        return found
    for path in reversed(run_records.recent(context.configuration.paths, context.peer.id)):
        try:
            record = run_records.read(path)
        except BsfgError as error:
            render.usage(f"note: {render.printable(error.message)}; nothing of it is used")
            continue
        if _belongs(record, context):
            found |= {result.id: result for result in record.results}
    return found


def _belongs(record: RunRecord, context: Context) -> bool:
    own, peer = context.configuration.zone.identity_rule, context.peer
    here = (context.zone, own.identity, peer.id, peer.rule.identity)
    there = (record.zone, record.identity, record.peer, record.peer_identity)
    return here == there and record.version == __version__ and record.inputs.get("files") == _files(context)


def _files(context: Context) -> Any:
    return described_inputs(context)["files"]


def _peer(configuration: Configuration, peer: str) -> PeerConfig:
    found = configuration.peers.get(ZoneId(peer))
    if found is None:
        known = ", ".join(configuration.peers) or "none"
        raise BsfgError(
            Code.CONFIGURATION,
            f"no peer {peer} in config/peers.yaml (there: {known})",
            hint=did_you_mean(peer, configuration.peers) or "add its entry first (runbook, section 4.1)",
        )
    return found


def _sections(sections: tuple[str, ...]) -> tuple[str, ...]:
    for section in sections:
        if section not in SECTIONS:
            raise click.BadParameter(f"{section!r} is none of {', '.join(SECTIONS)}", param_hint="--section")
    return sections


def _waivers(wishes: Wishes, inputs: Inputs) -> Mapping[str, Waiver]:
    """Each skipped check with its reason, in the approver's name; both are required (contract, section 7)."""
    skip, reasons = wishes.skip, [reason.strip() for reason in wishes.reasons]
    known = [check.id for check in CATALOG]
    for name in skip:
        if name not in known:
            hint = did_you_mean(name, known)
            raise click.BadParameter(f"no check has the id {name!r}. {hint}".rstrip(), param_hint="--skip")
    if reasons and len(reasons) not in (1, len(skip)):
        raise click.UsageError(f"{len(reasons)} --reason for {len(skip)} --skip: give one for each, or one for all")
    if skip and (not reasons or not all(reasons)):
        raise click.UsageError("--skip needs --reason: it is recorded as an exception")
    if skip and inputs.approver is None:
        raise BsfgError(
            Code.CONFIGURATION,
            f"{inputs.file} names no approver, and an exception is recorded in an approver's name",
            hint="approver: {by: NAME, reference: REF}",
        )
    approver = inputs.approver
    if approver is None:
        return {}
    given = reasons * len(skip) if len(reasons) == 1 else reasons
    return {
        name: Waiver(reason, approver.by, approver.reference) for name, reason in zip(skip, given, strict=True)
    }


def _denial(certificate: Path | None, key: Path | None) -> Credentials | None:
    if (certificate is None) != (key is None):
        raise click.UsageError("--denial-cert and --denial-key go together")
    if certificate is None or key is None:
        return None
    for path in (certificate, key):
        if not path.is_file():
            raise BsfgError(Code.CONFIGURATION, f"there is no file {path}", hint="name the certificate and its key")
    return Credentials(certificate, key)
