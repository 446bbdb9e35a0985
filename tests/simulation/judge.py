"""The last look: everything is healed and drained; what is missing, doubled, or passed over in silence?"""

from __future__ import annotations

from tests.simulation.world import World

from bsfg.core.link_state import Link, Phase
from bsfg.model.cursor import Gap
from bsfg.model.fact import Fact


def judge(world: World) -> None:
    """Add to the ledger what is wrong in the end."""
    link = world.gateways[0].driver.link
    if link.cursor is None:
        return
    epoch = link.cursor.epoch
    inbound = [fact for found, fact in world.store.stream if found == epoch]
    start = _start(world, link, inbound)
    gaps = world.store.record.gaps if world.store.record else ()
    if inbound:
        _nothing_passed_over(world, epoch, inbound, start, gaps)
    if link.phase is not Phase.HALTED:
        _everything_is_here(world, epoch, inbound, start)
        _one_history(world, inbound)


def _start(world: World, link: Link, inbound: list[Fact]) -> int:
    """Where the link was to begin in this epoch: as it was written down, else as its operator said last."""
    assert link.cursor is not None
    epoch = link.cursor.epoch
    if epoch in world.ledger.starts:
        return world.ledger.starts[epoch][0]
    if epoch in world.ledger.accepted:
        return world.ledger.accepted[epoch][-1]
    return inbound[0].sequence if inbound else world.source.last_sequence + 1


def _nothing_passed_over(
    world: World, epoch: str, inbound: list[Fact], start: int, gaps: tuple[Gap, ...]
) -> None:
    """Every fact of this history up to the last one here is here, was deleted singly, or is named (I9, I18, I19)."""
    here = _reached(world, epoch, inbound)
    branch = world.history.places[int(inbound[-1].payload)].branch
    lost, unnamed = [], []
    for sequence in range(start, inbound[-1].sequence):
        number = world.history.at(branch, sequence)
        if sequence in here or number is None or number in world.history.deleted:
            continue
        if any(gap.first <= sequence <= gap.last for gap in gaps):
            continue
        if number not in world.history.expired:
            lost.append(sequence)
        elif not world.is_record_damaged:
            unnamed.append(sequence)
    world.ledger.overstated_gaps += any(
        gap.reason == "retention" and any(gap.first <= fact.sequence <= gap.last for fact in inbound)
        for gap in gaps
    )
    _report(world, f"{epoch}: lost", lost)
    _report(world, f"{epoch}: expired before it arrived, without a gap record", unnamed)


def _everything_is_here(world: World, epoch: str, inbound: list[Fact], start: int) -> None:
    """The link says that it is level: all that the source holds is here (I25, I26)."""
    if world.ledger.unproven_histories:
        return
    here = _reached(world, epoch, inbound)
    missing = [sequence for sequence in world.source.order if sequence >= start and sequence not in here]
    _report(world, f"{epoch}: at the source and not here, and the link is level", missing)


def _one_history(world: World, inbound: list[Fact]) -> None:
    """A link that goes on has the source's own history, as far as the source itself can tell (I16)."""
    if not inbound or world.ledger.unproven_histories:
        return
    others = [fact.sequence for fact in inbound if world.source.facts.get(fact.sequence, fact) != fact]
    _report(world, "another fact at the source, and the link is not halted", others, "I16")


def _reached(world: World, epoch: str, inbound: list[Fact]) -> set[int]:
    """Sequences of the facts that were stored here, in the quarantine, or until somebody deleted them here by hand."""
    elsewhere = world.quarantined | world.store.taken_by_hand
    return {fact.sequence for fact in inbound} | {sequence for found, sequence in elsewhere if found == epoch}


def _report(world: World, what: str, sequences: list[int], invariant: str = "lost") -> None:
    if sequences:
        shown = f"{len(sequences)} facts, {sequences[0]} to {sequences[-1]}"
        world.ledger.violated(invariant, f"{what}: {shown}")
