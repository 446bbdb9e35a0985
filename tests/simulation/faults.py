"""What goes wrong, one short function a kind; the docstring of each says what it stands for.

Kinds are drawn with equal chance at random moments. A kind that a seed's profile rules out does nothing then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from tests.simulation.gateway import STEPS
from tests.simulation.world import RECEIVER, STREAM, World

from bsfg.core.conversation import GapAccepted, Reconfigured, StartChosen, Woken
from bsfg.core.link_state import Phase
from bsfg.errors import Code
from bsfg.model.cursor import HaltReason, Init
from bsfg.model.moment import NANOSECONDS

Fault = Callable[[World], bool]
"""Makes it happen; False if it can't in this world."""

ORDINARY: Final[dict[str, Fault]] = {}
OF_HISTORY: Final[dict[str, Fault]] = {}
"""Those after which sender and receiver may no longer have one history."""

ARMED_LINE: Final = (
    "answer_late", "answer_replayed", "answer_cut", "confirm_lost", "confirm_late", "confirm_doubled",
)  # fmt: skip
ARMED_STORE: Final = (
    "append_lost", "append_late", "ack_lost", "ack_late", "record_not_stored", "record_ack_lost", "store_answers_lost",
)  # fmt: skip
ARMED: Final = ARMED_LINE + ARMED_STORE


def inject(world: World) -> None:
    """Plan a seed's faults."""
    kinds = [*ORDINARY.items()] + [*OF_HISTORY.items()] * world.profile.rewrites_history
    for _ in range(world.profile.faults):
        seconds = world.profile.seconds * (0.02 + 0.93 * world.random.random())
        if world.random.random() < 0.3:
            name = world.random.choice(ARMED)
            armed = world.line_faults if name in ARMED_LINE else world.store_faults
            world.mischief(seconds, partial(armed.arm, name))
        else:
            name, fault = world.random.choice(kinds)
            at_start = fault is gateway_doomed and world.random.random() < 0.5
            world.mischief(0.0 if at_start else seconds, partial(_strike, world, name, fault))


def _strike(world: World, name: str, fault: Fault) -> None:
    if fault(world):
        world.happened(name)


def ordinary(fault: Fault) -> Fault:
    ORDINARY[fault.__name__] = fault
    return fault


def of_history(fault: Fault) -> Fault:
    OF_HISTORY[fault.__name__] = fault
    return fault


def _while(world: World, set_to: Callable[[bool], object], seconds_max: float = 12.0) -> bool:
    """Something is wrong for a while."""
    set_to(True)
    world.mischief(world.random.random() * seconds_max, lambda: set_to(False))
    return True


# The line.


@ordinary
def line_cut(world: World) -> bool:
    """Partition, symmetric: nothing arrives in either direction."""

    def cut(is_cut: bool) -> None:
        world.network.loses_requests = world.network.loses_answers = is_cut

    return _while(world, cut)


@ordinary
def line_refused(world: World) -> bool:
    """Connections are refused at once."""
    return _while(world, lambda is_so: setattr(world.network, "is_refused", is_so))


@ordinary
def answers_lost(world: World) -> bool:
    """Partition, asymmetric: the sender hears, decides and stores, and is not heard."""
    return _while(world, lambda is_so: setattr(world.network, "loses_answers", is_so))


@ordinary
def requests_lost(world: World) -> bool:
    """Partition, asymmetric: the sender hears nothing."""
    return _while(world, lambda is_so: setattr(world.network, "loses_requests", is_so))


@ordinary
def line_slow(world: World) -> bool:
    seconds = world.network.seconds

    def slow(is_slow: bool) -> None:
        world.network.seconds = 1.0 + 2.0 * world.random.random() if is_slow else seconds

    return _while(world, slow, 15.0)


# The sender.


@ordinary
def sender_killed(world: World) -> bool:
    """kill -9 of the sender's gateway: what was asked breaks off; a new one knows only what is stored."""
    world.service = world.new_service()
    return _while(world, lambda is_so: setattr(world, "sender_is_up", not is_so), 6.0)


@ordinary
def source_store_away(world: World) -> bool:
    """kill -9 of the sender's NATS: nothing that it had is lost."""
    world.source.sync()
    return _while(world, world.source.go_away, 6.0)


@ordinary
def source_store_hangs(world: World) -> bool:
    return _while(world, world.source.hang, 12.0)


@ordinary
def access_withdrawn(world: World) -> bool:
    return _while(world, lambda is_so: world.caller.allow(Code.STREAM_DENIED if is_so else None), 8.0)


@ordinary
def sender_partitions(world: World) -> bool:
    """The sender's operator cuts the receiver off."""
    return _while(world, lambda is_so: world.caller.allow(Code.PARTITIONED if is_so else None), 8.0)


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
        world.excuses |= {HaltReason.DIVERGED, HaltReason.AHEAD_OF_SOURCE}
    world.service = world.new_service()
    return _while(world, world.source.go_away, 6.0)


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
    world.excuses |= {HaltReason.DIVERGED, HaltReason.AHEAD_OF_SOURCE}
    return True


# The receiver's store.


@ordinary
def store_killed(world: World) -> bool:
    """kill -9 of the receiver's NATS, at any time or in the middle of an append."""
    world.store.sync()
    if world.random.random() < 0.5:
        world.store.die_in_append = True
    else:
        world.store.is_up = False
    world.mischief(1.0 + world.random.random() * 5.0, world.store_back)
    return True


@ordinary
def store_power_cut(world: World) -> bool:
    """The receiver's NATS loses power: stream and record each keep what was synced. Its gateway may run elsewhere."""
    record = world.store.record
    world.store.lose_power()
    world.is_record_damaged |= world.store.record is not record
    if world.random.random() < 0.7:
        for gateway in list(world.gateways):
            world.kill(gateway)
    world.mischief(1.0 + world.random.random() * 5.0, world.store_back)
    world.mischief(1.0 + world.random.random() * 5.0, world.ensure_gateway)
    return True


@ordinary
def disk_full(world: World) -> bool:
    """Appends are not answered, also when there is room again, until the server is restarted."""
    world.store.is_wedged = True
    world.mischief(world.random.random() * 12.0, world.store_back)
    return True


@ordinary
def stream_full(world: World) -> bool:
    """The inbound stream's limit is reached: a definite refusal, until there is room."""
    return _while(world, lambda is_so: setattr(world.store, "has_room", not is_so))


@ordinary
def record_lost(world: World) -> bool:
    """The link record is deleted, or can't be read."""
    world.is_record_damaged = True
    world.excuses.add(HaltReason.CURSOR_UNKNOWN)
    world.store.record = None
    return True


@ordinary
def record_restored(world: World) -> bool:
    """An older link record is put back."""
    old = world.store.record

    def restore() -> None:
        world.is_record_damaged = True
        world.store.record = old
        world.excuses.add(HaltReason.LOCAL_RESET)

    world.mischief(world.random.random() * 15.0, restore)
    return old is not None


@of_history
def inbound_made_again(world: World) -> bool:
    world.store.recreate()
    world.excuses.add(HaltReason.LOCAL_RESET)
    return True


@of_history
def inbound_purged(world: World) -> bool:
    world.store.purge()
    world.excuses.add(HaltReason.LOCAL_RESET)
    return True


@of_history
def foreign_writer(world: World) -> bool:
    """Something else writes to the inbound stream, where it can."""
    if world.profile.is_exclusive:
        return False
    world.store.write_foreign()
    world.excuses.add(HaltReason.FOREIGN_WRITER)
    return True


# The receiver's gateways and their operator.


@ordinary
def gateway_killed(world: World) -> bool:
    """kill -9 at any time."""
    if not world.gateways:
        return False
    world.kill(world.random.choice(world.gateways))
    world.mischief(world.random.random() * 4.0, world.ensure_gateway)
    return True


@ordinary
def gateway_doomed(world: World) -> bool:
    """kill -9 of the next gateway that comes to a labelled step."""
    world.doom = world.random.choice(STEPS)
    return True


@ordinary
def second_gateway(world: World) -> bool:
    """Two gateways at once, by mistake; in the end one of them is stopped."""
    if len(world.gateways) != 1:
        return False
    world.start_gateway()
    world.mischief(3.0 + world.random.random() * 9.0, lambda: _one_goes(world))
    return True


@ordinary
def stale_gateway(world: World) -> bool:
    """SIGSTOP; another takes over; SIGCONT: the first believes that no time has passed."""
    if len(world.gateways) != 1:
        return False
    stale = world.gateways[0]
    stale.pause()
    world.mischief(
        world.random.random(), world.start_gateway if len(world.gateways) < 2 else world.ensure_gateway
    )
    world.mischief(2.0 + world.random.random() * 10.0, stale.resume)
    world.mischief(13.0 + world.random.random() * 5.0, lambda: _one_goes(world))
    return True


def _one_goes(world: World) -> None:
    if len(world.gateways) > 1:
        world.kill(world.random.choice(world.gateways))


@ordinary
def answers_doubled(world: World) -> bool:
    """What was answered is answered again, late or by an older connection."""
    gateways = [gateway for gateway in world.gateways if gateway.heard]
    for gateway in gateways:
        world.mischief(world.random.random() * 2.0, gateway.hear_again)
    return bool(gateways)


@ordinary
def notified(world: World) -> bool:
    """Notifications, true or forged, any number of them."""
    for _ in range(world.random.randrange(1, 20)):
        world.mischief(world.random.random() * 3.0, lambda: world.tell_all(Woken()))
    return True


@ordinary
def receiver_partitions(world: World) -> bool:
    """The receiver's operator cuts the sender off, now and then several times in a row."""
    for _ in range(world.random.randrange(1, 6)):
        world.mischief(world.random.random() * 5.0, lambda: _while(world, world.partition, 6.0))
    return True


@ordinary
def reconfigured(world: World) -> bool:
    """Reloads, now and then a storm of them."""

    def reload() -> None:
        limits = replace(world.settings.limits, facts=world.random.randrange(5, 40))
        world.settings = replace(world.settings, limits=limits)
        world.tell_all(Reconfigured(world.settings))

    for _ in range(world.random.randrange(1, 12)):
        world.mischief(world.random.random() * 3.0, reload)
    return True


@ordinary
def operator_mistaken(world: World) -> bool:
    """Decisions about a link that asks for none, as by a command that is repeated."""

    def decide() -> None:
        init = Init("full_backfill", None, None, world.source.epoch, 1, 0)
        for gateway in world.gateways:
            if gateway.driver.link.phase is not Phase.HALTED:
                gateway.driver.tell(GapAccepted(0))
                gateway.driver.tell(StartChosen(init))

    for _ in range(world.random.randrange(1, 12)):
        world.mischief(world.random.random() * 3.0, decide)
    return True


@ordinary
def operator_asks(world: World) -> bool:
    """``bsfg fetch``; a link that starts by hand starts."""
    world.tell_all(Woken(by_operator=True))
    return True


@ordinary
def clock_jumps(world: World) -> bool:
    """Either zone's wall clock goes wrong by up to two days."""
    jump = int((world.random.random() - 0.5) * 4 * 86_400) * NANOSECONDS
    world.random.choice((world.sender_clock, world.receiver_clock)).jumped_nanoseconds = jump
    return True
