"""``python -m bench.idle``: what a gateway with many level links costs while nothing happens.

One gateway as it is served, with its nats-server; its peers are listeners in one other process, which is not counted.
The target is under 5 % of one core and 256 MiB for 100 peers of 5 links (of the gateway; its store is told beside it).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from bench.processes import Processes, cpu_seconds, family, free_port
from bsfg.cli.local_client import LocalClient, route
from bsfg.config.home import Home
from bsfg.errors import BsfgError
from bsfg.lab import program
from bsfg.transport.development_ca import AuthorityPaths, create_authority, issue, write_whole

CORE_SHARE_MAX: Final = 0.05
MEMORY_MIB_MAX: Final = 256.0
ZONE: Final = "hub"
IDENTITY: Final = "hub-bsfg"
PEERS: Final = Path(__file__).with_name("idle_peers.py")
DAYS: Final = 2
LEVEL_SECONDS_MAX: Final = 300.0
PEERS_PER_ADDRESS: Final = 250


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description=__doc__)
    parser.add_argument("--peers", type=int, default=100, help="peers (%(default)s)")
    parser.add_argument("--links", type=int, default=5, help="links of each (%(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long it is watched (%(default)s)")
    parser.add_argument("--settle", type=float, default=40.0, help="seconds to rest before (%(default)s)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="bsfg-idle-") as folder:
        return _measure(Path(folder), options)


def _measure(folder: Path, options: argparse.Namespace) -> int:
    home = _build(folder, options.peers, options.links)
    with Processes(folder) as processes:
        processes.start("peers", [sys.executable, str(PEERS), str(folder)])
        processes.wait_until("the peers' start", lambda: _is_ready(folder / "peers.log"))
        began = time.monotonic()
        processes.start("gateway", program.command_line("serve", "--home", str(home.path)))
        with _ended_whole(processes.started["gateway"].pid):
            _wait_level(home.path, options.peers * options.links, processes)
            print(f"{options.peers * options.links} links level after {time.monotonic() - began:.1f} s")
            time.sleep(options.settle)
            figures = _watch(processes.started["gateway"].pid, options.seconds)
            processes.stop("gateway")
    return _tell(figures, options)


@contextmanager
def _ended_whole(gateway: int) -> Iterator[None]:
    """A gateway that has to be killed leaves its nats-server behind, as it should; here that ends too."""
    started: frozenset[int] = frozenset()
    try:
        yield
    except BaseException:
        started = family(gateway) - {gateway}
        raise
    finally:
        for pid in started:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _is_ready(log: Path) -> bool:
    return "ready" in log.read_text(encoding="utf-8").splitlines()


def _watch(gateway: int, seconds: float) -> Mapping[str, float]:
    """Share of one core and resident MiB, of the gateway and of what it started."""
    others = family(gateway) - {gateway}
    before = {pid: cpu_seconds(pid) for pid in (gateway, *others)}
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    share = {pid: (cpu_seconds(pid) - spent) / took for pid, spent in before.items()}
    return {
        "gateway_core_share": share[gateway],
        "gateway_mib": _resident_mib(gateway),
        "store_core_share": sum(share[pid] for pid in others),
        "store_mib": sum(map(_resident_mib, others)),
    }


def _resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)


def _tell(figures: Mapping[str, float], options: argparse.Namespace) -> int:
    share, memory = figures["gateway_core_share"], figures["gateway_mib"]
    is_met = share < CORE_SHARE_MAX and memory < MEMORY_MIB_MAX
    print(f"{options.peers} peers by {options.links} links, idle, over {options.seconds:.0f} s")
    print(f"gateway      {share:6.1%} of one core  {memory:6.0f} MiB resident")
    print(f"nats-server  {figures['store_core_share']:6.1%} of one core  {figures['store_mib']:6.0f} MiB resident")
    words = "met" if is_met else "missed"
    print(f"target: gateway under {CORE_SHARE_MAX:.0%} of one core and {MEMORY_MIB_MAX:.0f} MiB: {words}")
    return 0 if is_met else 1


def _wait_level(home: Path, links: int, processes: Processes) -> None:
    deadline = time.monotonic() + LEVEL_SECONDS_MAX
    rows: list[Mapping[str, Any]] = []
    while sum(row["state"] == "level" for row in rows) < links:
        if time.monotonic() > deadline or processes.started["gateway"].poll() is not None:
            log = (processes.log_folder / "gateway.log").read_text(encoding="utf-8")[-2_000:]
            level = sum(row["state"] == "level" for row in rows)
            raise RuntimeError(f"{level} of {links} links are level; the gateway said: {log}")
        time.sleep(1.0)
        try:
            rows = LocalClient(home).get(route("cursors"))["cursors"]
        except BsfgError:
            continue


def _build(folder: Path, peers: int, links: int) -> Home:
    """The gateway's home, and the peers' plan beside it."""
    authority = AuthorityPaths(folder / "ca" / "ca.crt", folder / "ca" / "ca.key")
    (folder / "ca").mkdir()
    create_authority(folder / "ca", "idle bench CA")
    home = Home(folder / "hub")
    home.path.mkdir(mode=0o700)
    for place in (home.config, home.certs, home.data, home.run):
        place.mkdir(mode=0o700)
    _issue(authority, IDENTITY, "127.0.0.1", home.server_certificate, home.server_key)
    write_whole(home.anchors, authority.certificate.read_bytes(), 0o644)
    streams = [f"facts.s{number}" for number in range(links)]
    port = free_port()
    plan = [_peer(folder, authority, number, port) for number in range(peers)]
    content = {"zone": ZONE, "identity": IDENTITY, "anchors": str(authority.certificate)}
    (folder / "plan.json").write_text(json.dumps({**content, "streams": streams, "peers": plan}))
    _configure(home, plan, streams)
    return home


def _peer(folder: Path, authority: AuthorityPaths, number: int, port: int) -> dict[str, Any]:
    zone = f"peer-{number}"
    host = f"127.50.{number // PEERS_PER_ADDRESS}.{number % PEERS_PER_ADDRESS + 1}"
    certificate, key = folder / f"{zone}.crt", folder / f"{zone}.key"
    _issue(authority, f"{zone}-bsfg", host, certificate, key)
    place = {"host": host, "port": port, "certificate": str(certificate), "key": str(key)}
    return {"zone": zone, "identity": f"{zone}-bsfg", **place}


def _issue(authority: AuthorityPaths, identity: str, host: str, certificate: Path, key: Path) -> None:
    issue(
        authority.certificate,
        authority.key,
        identity,
        san_dns=[identity],
        san_ip=[host],
        days=DAYS,
        out_cert=certificate,
        out_key=key,
    )


def _configure(home: Home, plan: list[dict[str, Any]], streams: list[str]) -> None:
    ports = [free_port() for _ in range(3)]
    zone = [
        f"zone: {ZONE}",
        f"identity: {IDENTITY}",
        f"listen: 127.0.0.1:{ports[0]}",
        f"local: 127.0.0.1:{ports[1]}",
        f"substrate: {{embedded: {{port: {ports[2]}}}}}",
        "lab: true",
    ]
    peers, cursors = ["peers:"], ["cursors:"]
    for peer in plan:
        peers += [
            f"  - id: {peer['zone']}",
            f"    identity: {peer['identity']}",
            f"    endpoint: {peer['host']}:{peer['port']}",
            "    authorized: true",
            "    streams: []",
        ]
        for stream in streams:
            cursors += [
                f"  - peer: {peer['zone']}",
                f"    stream: {stream}",
                "    init_mode: bounded_backfill_24h",
            ]
    for path, lines in ((home.zone_file, zone), (home.peers_file, peers), (home.cursors_file, cursors)):
        write_whole(path, ("\n".join(lines) + "\n").encode(), 0o644)


if __name__ == "__main__":
    sys.exit(main())
