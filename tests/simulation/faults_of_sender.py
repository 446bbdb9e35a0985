"""What goes wrong on the line and at the sender; each docstring says what a kind stands for."""

from __future__ import annotations

from tests.simulation.fault_kinds import for_a_while, of_history, ordinary
from tests.simulation.world import RECEIVER, STREAM, World

from bsfg.errors import Code
from bsfg.model.cursor import HaltReason

# The line.


@ordinary
def line_cut(world: World) -> bool:
    """Partition, symmetric: nothing arrives in either direction."""

    def cut(is_cut: bool) -> None:
        world.network.loses_requests = world.network.loses_answers = is_cut

    return for_a_while(world, cut)


@ordinary
def line_refused(world: World) -> bool:
    """Connections are refused at once."""
    return for_a_while(world, lambda is_so: setattr(world.network, "is_refused", is_so))


@ordinary
def answers_lost(world: World) -> bool:
    """Partition, asymmetric: the sender hears, decides and stores, and is not heard."""
    return for_a_while(world, lambda is_so: setattr(world.network, "loses_answers", is_so))


@ordinary
def requests_lost(world: World) -> bool:
    """Partition, asymmetric: the sender hears nothing."""
    return for_a_while(world, lambda is_so: setattr(world.network, "loses_requests", is_so))


@ordinary
def line_slow(world: World) -> bool:
    seconds = world.network.seconds

    def slow(is_slow: bool) -> None:
        world.network.seconds = 1.0 + 2.0 * world.random.random() if is_slow else seconds

    return for_a_while(world, slow, 15.0)


# The sender.


@ordinary
def sender_killed(world: World) -> bool:
    """kill -9 of the sender's gateway: what was asked breaks off; a new one knows only what is stored."""
    world.service = world.new_service()
    return for_a_while(world, lambda is_so: setattr(world, "sender_is_up", not is_so), 6.0)


@ordinary
def source_store_away(world: World) -> bool:
    """kill -9 of the sender's NATS: nothing that it had is lost."""
    world.source.sync()
    return for_a_while(world, world.source.go_away, 6.0)


@ordinary
def source_store_hangs(world: World) -> bool:
    return for_a_while(world, world.source.hang, 12.0)


@ordinary
def access_withdrawn(world: World) -> bool:
    return for_a_while(world, lambda is_so: world.caller.allow(Code.STREAM_DENIED if is_so else None), 8.0)


@ordinary
def sender_partitions(world: World) -> bool:
    """The sender's operator cuts the receiver off."""
    return for_a_while(world, lambda is_so: world.caller.allow(Code.PARTITIONED if is_so else None), 8.0)


@ordinary
def confirms_lost(world: World) -> bool:
    """The sender's record of confirms is gone."""
    world.are_confirms_damaged = True
    return world.source.confirms.pop((RECEIVER, STREAM), None) is not None


@ordinary
def facts_deleted(world: World) -> bool:
    """Single facts are deleted anywhere in the source; of the first ones nobody can tell that from retention."""
    _excuse_gap(world)
    held = world.source.order
    for sequence in world.random.sample(held, min(len(held), world.random.randrange(1, 6))):
        world.source.delete(sequence)
    return bool(held)


@ordinary
def last_facts_deleted(world: World) -> bool:
    """The source's last facts are deleted: its scan goes further than its last fact."""
    _excuse_gap(world)
    last = world.source.order[-world.random.randrange(1, 4) :]
    for sequence in last:
        world.source.delete(sequence)
    return bool(last)


@ordinary
def facts_expired(world: World) -> bool:
    """Retention takes the source's oldest facts, delivered or not."""
    held = world.source.order
    if not held:
        return False
    _excuse_gap(world)
    world.source.expire(held[world.random.randrange(len(held))] + 1)
    return True


@ordinary
def source_purged(world: World) -> bool:
    _excuse_gap(world)
    world.source.expire(world.source.last_sequence + 1)
    return True


def _excuse_gap(world: World) -> None:
    if not world.settings.records_gaps:
        world.excuses.add(HaltReason.GAP)


@of_history
def source_power_cut(world: World) -> bool:
    """The sender's machine loses power: what its NATS had not synced is gone, and its sequences come again."""
    if not world.profile.source_is_strict:
        world.source.lose_tail(world.source.synced_sequence)
        world.excuses |= {HaltReason.DIVERGED, HaltReason.AHEAD_OF_SOURCE, HaltReason.CONFLICTING_DUPLICATE}
    world.service = world.new_service()
    return for_a_while(world, world.source.go_away, 6.0)


@of_history
def source_made_again(world: World) -> bool:
    """Deleted and made again under its name, with its old metadata: ``created`` is another."""
    world.source.recreate()
    world.excuses.add(HaltReason.DIVERGED)
    return True


@of_history
def source_restored(world: World) -> bool:
    """Yesterday's copy is put back, with or without its old ``created``."""
    last = world.source.last_sequence
    if last < 2:
        return False
    world.source.lose_tail(world.random.randrange(last // 2, last))
    if world.random.random() < 0.3:
        world.source.created += 1
    world.excuses |= {HaltReason.DIVERGED, HaltReason.AHEAD_OF_SOURCE, HaltReason.CONFLICTING_DUPLICATE}
    return True
