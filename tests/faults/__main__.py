"""``make faults SEED=N BUDGET=SECONDS``: real servers and gateways, real accidents, and a ledger that decides."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

from tests.faults import crossings, flow, histories, lazy_power, machine, network, power
from tests.faults.report import Report
from tests.faults.schedule import KILLS, Kind
from tests.faults.stage import Stuck

SCENARIOS: Final = ("failpoints", "histories", "network", "power", "flow")
FLOW_OVERHEAD_SECONDS: Final = 40.0
"""Of the budget, for the calm behind the faults and for the judge."""
FLOW_SECONDS_MIN: Final = 10.0
FACTS_PER_SECOND: Final = 1_000
POWER_SHARE: Final = 0.6
"""Of the budget is over when the last power cut may begin."""


def main() -> int:
    arguments = _arguments()
    machine.find_system_tools()
    machine.separate(["--seed", str(arguments.seed), *_without_seed(sys.argv[1:])])
    machine.prepare()
    began = time.monotonic()
    options = " ".join(_without_seed(sys.argv[1:]))
    print(f"seed {arguments.seed}: repeat with python -m tests.faults --seed {arguments.seed} {options}")
    reports = []
    for scenario in _scenarios(arguments, began):
        report = _outcome(scenario, arguments.seed)
        print("\n".join(report.lines()))
        reports.append(report)
    good = all(report.is_good for report in reports)
    print(f"{'all exact' if good else 'NOT EXACT'} after {time.monotonic() - began:.0f} s, seed {arguments.seed}")
    return 0 if good else 1


def _outcome(scenario: Callable[[], Report], seed: int) -> Report:
    """What does not come up in time is as wrong as a lost fact."""
    try:
        return scenario()
    except Stuck as stuck:
        return Report("a scenario that got stuck", seed, wrong=[str(stuck)])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--budget", type=float, default=300.0, metavar="SECONDS")
    parser.add_argument("--facts", type=int, default=0, help="of the flow; by default as many as the budget allows")
    parser.add_argument("--only", choices=SCENARIOS, action="append", help="this scenario; may be given again")
    parser.add_argument("--kinds", choices=("all", "kill"), default="all")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="between faults")
    parser.add_argument("--cuts", type=int, default=5, help="power cuts under strict durability")
    parser.add_argument("--lazy-cuts", type=int, default=0, help="power cuts under lazy durability")
    parser.add_argument("--quiet", action="store_true", help="don't print each fault as it happens")
    return parser.parse_args()


def _without_seed(words: list[str]) -> list[str]:
    """The arguments but for the seed, which is known by now."""
    left, rest = [], iter(words)
    for word in rest:
        if word == "--seed":
            next(rest)
        elif not word.startswith("--seed="):
            left.append(word)
    return left


def _scenarios(arguments: argparse.Namespace, began: float) -> Iterator[Callable[[], Report]]:
    wanted = arguments.only or SCENARIOS
    say: Callable[[str], None] = (lambda text: None) if arguments.quiet else print
    seed = arguments.seed
    if "failpoints" in wanted:
        yield lambda: crossings.run(seed)
    if "histories" in wanted:
        yield lambda: histories.run(seed)
    if "network" in wanted:
        yield lambda: network.run(seed)
    if "power" in wanted:
        yield from _power(arguments, began)
    if "flow" in wanted:
        yield lambda: _flow(arguments, began, say)


def _power(arguments: argparse.Namespace, began: float) -> Iterator[Callable[[], Report]]:
    """The control first: without it the cuts show nothing."""
    if not machine.can_cut_power():
        print("no power cuts: they want root, namespaces and loop mounts")
        return
    until = began + arguments.budget * (1.0 if arguments.only else POWER_SHARE)
    yield lambda: power.run(arguments.seed, 1, is_lazy=True)
    if arguments.cuts:
        yield lambda: power.run(arguments.seed, arguments.cuts, is_lazy=False, until=until)
    if arguments.lazy_cuts:
        yield lambda: lazy_power.run(arguments.seed, arguments.lazy_cuts, until=until)


def _flow(arguments: argparse.Namespace, began: float, say: Callable[[str], None]) -> Report:
    left = arguments.budget - (time.monotonic() - began) - FLOW_OVERHEAD_SECONDS
    seconds = max(FLOW_SECONDS_MIN, left)
    facts = arguments.facts or int(seconds * FACTS_PER_SECOND)
    kinds = KILLS if arguments.kinds == "kill" else tuple(Kind)
    return flow.run(arguments.seed, seconds, facts, kinds, say, arguments.interval)


if __name__ == "__main__":
    sys.exit(main())
