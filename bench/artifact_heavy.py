"""``python -m bench.artifact_heavy``: one large artifact between two zones, the memory of both, and the lag of facts.

Exit 1 where either gateway's resident memory grew by 64 MiB or more, or a fact of the same peer took a second or more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ruamel.yaml import YAML

from bench.artifacts import put_random
from bench.gateways import RECEIVER, SENDER, GatewayPair, running
from bench.pair import Setting
from bench.processes import resident_mib
from bsfg.cli.local_client import LONG_DEADLINE_SECONDS, LocalClient, route
from bsfg.config.home import Home
from bsfg.errors import BsfgError, Code
from bsfg.lab import program

MEBIBYTE: Final = 1024 * 1024
GROWTH_MIB_MAX: Final = 64.0
LAG_SECONDS_MAX: Final = 1.0
LOOK_SECONDS: Final = 0.2
STREAM: Final = "facts.operational"
FETCH_SECONDS_MAX: Final = 3_600.0


@dataclass
class Watched:
    """What was seen while the artifact moved."""

    is_over: threading.Event = field(default_factory=threading.Event)
    lags_seconds: list[float] = field(default_factory=list)
    """From before the append at the source until the receiver's cursor has it."""
    peaks_mib: dict[str, float] = field(default_factory=dict)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.artifact_heavy", description=__doc__)
    parser.add_argument("--mib", type=int, default=5_000, help="how large (%(default)s)")
    parser.add_argument("--mib-per-second", type=int, default=0, help="the limit of the receiver; 0 for none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bsfg-heavy-") as place, running(Path(place), Setting(True)) as pair:
        return _run(pair, Path(place), options.mib, options.mib_per_second)


def _run(pair: GatewayPair, folder: Path, mib: int, mib_per_second: int) -> int:
    started = _resident_mib(pair)
    began = time.monotonic()
    uri = put_random(pair.homes[SENDER], mib * MEBIBYTE, folder)
    print(f"put {mib} MiB in {time.monotonic() - began:.1f} s; grown by {_growth(started, _resident_mib(pair))}")
    if mib_per_second:
        _limit(pair.homes[RECEIVER], mib_per_second)
    watched, before = Watched(), _resident_mib(pair)
    watching = [threading.Thread(target=work, args=(pair, watched)) for work in (_watch_memory, _watch_facts)]
    for thread in watching:
        thread.start()
    began = time.monotonic()
    try:
        _fetch(pair.homes[RECEIVER], uri)
    finally:
        seconds = time.monotonic() - began
        watched.is_over.set()
        for thread in watching:
            thread.join()
    return _judge(watched, before, mib, seconds)


def _judge(watched: Watched, before: dict[str, float], mib: int, seconds: float) -> int:
    growth = {name: peak - before[name] for name, peak in watched.peaks_mib.items()}
    worst = max(watched.lags_seconds, default=0.0)
    print(f"{mib} MiB in {seconds:.1f} s, {mib / seconds:.1f} MiB/s; grown by {_growth(before, watched.peaks_mib)}")
    print(f"{len(watched.lags_seconds)} facts meanwhile, the slowest {worst:.3f} s from append to cursor")
    is_small = max(growth.values()) < GROWTH_MIB_MAX
    is_quick = bool(watched.lags_seconds) and worst < LAG_SECONDS_MAX
    return 0 if is_small and is_quick else 1


def _fetch(home: Path, uri: str) -> None:
    """One request waits ten minutes at most, and the transfer goes on behind it."""
    client, ends = LocalClient(home), time.monotonic() + FETCH_SECONDS_MAX
    while True:
        try:
            client.post(route("artifacts", "fetch"), {"uri": uri}, deadline_seconds=LONG_DEADLINE_SECONDS)
            return
        except BsfgError as error:
            if error.code is not Code.TIMED_OUT or time.monotonic() > ends:
                raise


def _watch_memory(pair: GatewayPair, watched: Watched) -> None:
    while not watched.is_over.wait(LOOK_SECONDS):
        for name, resident in _resident_mib(pair).items():
            watched.peaks_mib[name] = max(watched.peaks_mib.get(name, 0.0), resident)


def _watch_facts(pair: GatewayPair, watched: Watched) -> None:
    """One fact after the other, each followed to the receiver's cursor."""
    sender, receiver = (LocalClient(pair.homes[zone]) for zone in (SENDER, RECEIVER))
    while not watched.is_over.wait(LOOK_SECONDS):
        began = time.monotonic()
        question = {"facts": [{"data": "{}"}]}
        head = sender.post(route("append"), question, stream=STREAM)["last_sequence"]
        while (receiver.get(route("cursors", SENDER, STREAM))["sequence"] or 0) < head:
            if time.monotonic() - began > 10 * LAG_SECONDS_MAX:
                break
            time.sleep(LOOK_SECONDS / 20)
        watched.lags_seconds.append(time.monotonic() - began)


def _resident_mib(pair: GatewayPair) -> dict[str, float]:
    """Of the gateways, now."""
    return resident_mib({name: pids for name, pids in pair.pids().items() if name.endswith("gateway")})


def _growth(before: dict[str, float], after: dict[str, float]) -> str:
    return ", ".join(f"{name} {after[name] - before[name]:.1f} MiB" for name in before)


def _limit(home: Path, mib_per_second: int) -> None:
    path = Home(home).zone_file
    yaml = YAML()
    document = yaml.load(path)
    document.setdefault("limits", {})["artifact_bytes_per_second_max"] = f"{mib_per_second}MiB"
    yaml.dump(document, path)
    program.ask(home, "config", "reload")


if __name__ == "__main__":
    sys.exit(main())
