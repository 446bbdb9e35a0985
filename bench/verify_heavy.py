"""``python -m bench.verify_heavy``: ``bsfg verify`` over many facts, damage that it has to name, and its repair.

Two zones of a lab hold the same facts. First they are verified as they are: facts a second, memory, bytes between the
zones. Then one payload byte is altered, one fact removed, two swapped and one added in the receiver's stream, behind
the gateway's back: exactly those have to be named. Exit 1 where a bound is missed or anything else is said.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from ruamel.yaml import YAML

from bench.damage import Damage, rewrite
from bench.facts import Facts
from bench.gateways import RECEIVER, SENDER, GatewayPair, running
from bench.measure import Meter
from bench.pair import Setting
from bench.processes import resident_mib
from bench.wire import Counted, counted
from bsfg.cli.local_client import LONG_DEADLINE_SECONDS, LocalClient, route
from bsfg.config.home import Home
from bsfg.lab import processes, program
from bsfg.lab.stores import Store, opened

STREAM: Final = "facts.operational"
LINK: Final = ("--peer", SENDER, "--stream", STREAM)
RATE_MIN: Final = 100_000.0
GROWTH_MIB_MAX: Final = 64.0
WIRE_SHARE_MAX: Final = 0.01
ROUNDS: Final = 3
LOOK_SECONDS: Final = 0.05
SETTLE_SECONDS: Final = 2.0
WAIT_SECONDS_MAX: Final = 600.0

_T = TypeVar("_T")


@dataclass(frozen=True)
class Seen:
    """One verification from outside."""

    answer: dict[str, Any]
    seconds: float
    growth_mib: dict[str, float]
    """How far the memory of each gateway rose above what it was before."""
    wire_bytes: int
    cpu_seconds: dict[str, float]
    foreign_cores: float
    """How many processors everything else on the machine kept busy meanwhile."""

    def told(self, size_bytes: int) -> str:
        """One line."""
        facts = self.answer["facts"]
        share = self.wire_bytes / (facts * size_bytes)
        grown = ", ".join(f"{name} {mib:+.1f} MiB" for name, mib in self.growth_mib.items())
        spent = ", ".join(f"{name} {seconds / facts * 1e6:.1f}" for name, seconds in self.cpu_seconds.items())
        return (
            f"{facts} facts in {self.seconds:.2f} s, {facts / self.seconds:,.0f} facts/s; "
            f"{self.wire_bytes:,} bytes on the wire, {share:.4%}; memory {grown}; CPU s per million: {spent}; "
            f"{self.foreign_cores:.1f} cores busy with other work"
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.verify_heavy", description=__doc__)
    parser.add_argument("--facts", type=int, default=1_000_000, help="how many (%(default)s)")
    parser.add_argument("--bytes", type=int, default=512, help="of each payload (%(default)s)")
    options = parser.parse_args()
    facts = Facts(options.facts, options.bytes, (STREAM,))
    with (
        tempfile.TemporaryDirectory(prefix="bsfg-verify-") as place,
        running(Path(place), Setting()) as pair,
        _counted(pair) as wire,
    ):
        return 0 if _Run(pair, wire, facts).judged() else 1


@contextmanager
def _counted(pair: GatewayPair) -> Iterator[Counted]:
    """What the receiver says to the sender is counted from here on."""
    path = Home(pair.homes[RECEIVER]).peers_file
    with counted(pair.listener) as wire:
        yaml = YAML()
        document = yaml.load(path)
        document["peers"][0]["endpoint"] = wire.address
        yaml.dump(document, path)
        program.ask(pair.homes[RECEIVER], "config", "reload")
        yield wire


@dataclass(frozen=True)
class _Run:
    pair: GatewayPair
    wire: Counted
    facts: Facts

    def judged(self) -> bool:
        """Whether every bound was kept and just the damage was named."""
        print(f"filled at {self.pair.fill(self.facts):,.0f} facts/s")
        began = time.monotonic()
        asyncio.run(self.pair.release())
        _eventually("the receiver is level", self._is_level)
        print(f"level after {time.monotonic() - began:.1f} s")
        time.sleep(SETTLE_SECONDS)
        seen = [self._verified("as it is") for _ in range(ROUNDS)]
        kept = [all(each.answer["identical"] for each in seen), self._keeps_bounds(seen)]
        return all([*kept, self._names_damage(), self._repairs()])

    def _keeps_bounds(self, seen: list[Seen]) -> bool:
        count = self.facts.count
        rate = sorted(count / each.seconds for each in seen)[len(seen) // 2]
        growth = max(mib for each in seen for mib in each.growth_mib.values())
        share = max(each.wire_bytes for each in seen) / (count * self.facts.size_bytes)
        print(
            f"median {rate:,.0f} facts/s (at least {RATE_MIN:,.0f}), memory {growth:+.1f} MiB "
            f"(below {GROWTH_MIB_MAX:.0f}), wire {share:.4%} (below {WIRE_SHARE_MAX:.0%})"
        )
        return rate >= RATE_MIN and growth < GROWTH_MIB_MAX and share < WIRE_SHARE_MAX

    def _names_damage(self) -> bool:
        damage = Damage.within(self.facts.count)
        self._cut_off()
        _in_store(self._store, lambda store: rewrite(store, self.pair.target_stream(STREAM), damage))
        self._let_in()
        _eventually("the link is halted", lambda: self._cursor()["reason"] == "local_reset")
        seen = self._verified("damaged")
        named = {(row["kind"], row["sequence"]) for row in seen.answer["differences"]}
        for row in seen.answer["differences"]:
            print(f"  {row['kind']}: {row['sequence']} (local {row['local_sequence']})")
        return named == damage.names and not seen.answer["unresolved"]

    def _repairs(self) -> bool:
        before, began = self.wire.carried_bytes, time.monotonic()
        arguments = ("repair", *LINK, "--reason", "bench")
        answer = program.ask(self.pair.homes[RECEIVER], *arguments, deadline_seconds=WAIT_SECONDS_MAX)
        seconds, carried = time.monotonic() - began, self.wire.carried_bytes - before
        print(f"repaired in {seconds:.1f} s, {carried:,} bytes on the wire: {answer['repaired']}")
        return bool(answer["repaired"])

    def _verified(self, what: str) -> Seen:
        over, peaks = threading.Event(), resident_mib(self.pair.pids())
        before = dict(peaks)
        watching = threading.Thread(target=self._watch, args=(over, peaks))
        watching.start()
        carried, meter, began = self.wire.carried_bytes, Meter(self.pair), time.monotonic()
        answer = program.ask(
            self.pair.homes[RECEIVER], "verify", *LINK, deadline_seconds=LONG_DEADLINE_SECONDS
        )
        seconds = time.monotonic() - began
        cpu, foreign = meter.cpu(), meter.foreign_cores()
        over.set()
        watching.join()
        growth = {name: peaks[name] - before[name] for name in peaks if name.endswith("gateway")}
        seen = Seen(answer, seconds, growth, self.wire.carried_bytes - carried, cpu, foreign)
        print(f"{what}: {seen.told(self.facts.size_bytes)}")
        return seen

    def _watch(self, over: threading.Event, peaks: dict[str, float]) -> None:
        while not over.wait(LOOK_SECONDS):
            for name, mib in resident_mib(self.pair.pids()).items():
                peaks[name] = max(peaks[name], mib)

    def _is_level(self) -> bool:
        row = self._cursor()
        return bool(row["state"] == "level" and row["scanned_through"] >= self.facts.count)

    def _cursor(self) -> dict[str, Any]:
        answer: dict[str, Any] = LocalClient(self.pair.homes[RECEIVER]).get(route("cursors", SENDER, STREAM))
        return answer

    def _cut_off(self) -> None:
        question = {"peer": SENDER, "reason": "bench", "seconds": WAIT_SECONDS_MAX}
        LocalClient(self.pair.homes[RECEIVER]).post(route("partitions"), question)

    def _let_in(self) -> None:
        asyncio.run(self.pair.release())

    def _store(self) -> Any:
        zone = processes.zone_of(self.pair.directory, RECEIVER)
        return opened(zone, zone.nats_admin_credentials)


def _in_store(open_store: Callable[[], Any], work: Callable[[Store], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        async with open_store() as store:
            return await work(store)

    return asyncio.run(run())


def _eventually(what: str, holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + WAIT_SECONDS_MAX
    while not holds():
        if time.monotonic() > ends:
            raise TimeoutError(f"{what}: not within {WAIT_SECONDS_MAX:.0f} s")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
