"""What goes wrong at the receiver: its store, its gateways, their operator."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tests.simulation.fault_kinds import for_a_while, of_history, ordinary
from tests.simulation.gateway import STEPS
from tests.simulation.world import World

from bsfg.core.conversation import GapAccepted, Reconfigured, StartChosen, Woken
from bsfg.core.link_state import Phase
from bsfg.model.cursor import HaltReason, Init
from bsfg.model.moment import NANOSECONDS

GATEWAY_ELSEWHERE_SHARE: Final = 0.3
"""How often the gateway runs on another machine than its NATS, and lives on when that one loses power."""

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
    if world.random.random() >= GATEWAY_ELSEWHERE_SHARE:
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
    return for_a_while(world, lambda is_so: setattr(world.store, "has_room", not is_so))


@ordinary
def record_lost(world: World) -> bool:
    """The link record is deleted, or can't be read."""
    if world.store.record is None:
        return False
    world.is_record_damaged = True
    world.excuses.add(HaltReason.CURSOR_UNKNOWN)
    world.store.put_record(None)
    world.ledger.records_lost += 1
    return True


@ordinary
def record_restored(world: World) -> bool:
    """An older link record is put back."""
    old = world.store.record
    if old is None:
        return False

    def restore() -> None:
        world.is_record_damaged = True
        world.store.put_record(old)
        world.ledger.records_lost += 1
        world.excuses.add(HaltReason.LOCAL_RESET)

    world.mischief(world.random.random() * 15.0, restore)
    return True


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
    """Two gateways at once, by mistake and where it can happen; in the end one of them is stopped."""
    if len(world.gateways) != 1 or world.profile.is_exclusive:
        return False
    world.start_gateway()
    world.mischief(3.0 + world.random.random() * 9.0, lambda: _one_goes(world))
    return True


@ordinary
def stale_gateway(world: World) -> bool:
    """SIGSTOP; another takes over, where it can; SIGCONT: the first believes that no time has passed."""
    if len(world.gateways) != 1:
        return False
    stale = world.gateways[0]
    stale.pause()
    if not world.profile.is_exclusive:
        world.mischief(
            world.random.random(), world.start_gateway if len(world.gateways) < 2 else world.ensure_gateway
        )
        world.mischief(13.0 + world.random.random() * 5.0, lambda: _one_goes(world))
    world.mischief(2.0 + world.random.random() * 10.0, stale.resume)
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
        world.mischief(world.random.random() * 5.0, lambda: for_a_while(world, world.partition, 6.0))
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
