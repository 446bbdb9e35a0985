"""A real S3 server: Ceph's radosgw with a monitor and an OSD in memory, as three processes of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

PROGRAMS: Final = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
REGION: Final = "default"
UP_SECONDS: Final = 90.0
COMMAND_SECONDS: Final = 60

_CONFIG: Final = """
[global]
fsid = {fsid}
mon_host = v2:127.0.0.1:{mon}
mon_initial_members = a
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
keyring = {root}/keyring
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 2000
mon_warn_on_pool_no_redundancy = false
run_dir = {root}
admin_socket =
log_file = {root}/$name.log
pid_file =
[mon.a]
mon_data = {root}/mon
[osd.0]
osd_objectstore = memstore
memstore_device_bytes = 1073741824
osd_data = {root}/osd
[client.rgw]
rgw_frontends = beast endpoint=127.0.0.1:{port}
rgw_thread_pool_size = 32
rgw_run_sync_thread = false
rgw_enable_gc_threads = false
rgw_enable_lc_threads = false
"""


@dataclass(frozen=True)
class RadosGateway:
    """A running server and the keys of its one user."""

    endpoint: str
    access_key: str
    secret_key: str
    root: Path

    def credentials_file(self, folder: Path) -> Path:
        path = folder / "s3.credentials"
        path.touch(mode=0o600)
        path.write_text(
            f"[default]\naws_access_key_id = {self.access_key}\naws_secret_access_key = {self.secret_key}\n"
        )
        return path


def is_installed() -> bool:
    return all(shutil.which(name) for name in PROGRAMS)


@contextmanager
def radosgw_or_skip(root: Path) -> Iterator[RadosGateway]:
    """A server, or a skip that says why there is none."""
    if not is_installed():
        pytest.skip("radosgw is not installed; tools/setup-tests installs it for root")
    with running_radosgw(root) as server:
        yield server


@contextmanager
def running_radosgw(root: Path) -> Iterator[RadosGateway]:
    """A server with one user and no bucket."""
    mon, port = _free_ports(2)
    (root / "mon").mkdir()
    (root / "osd").mkdir()
    config = root / "ceph.conf"
    fsid = str(uuid.uuid4())
    config.write_text(_CONFIG.format(fsid=fsid, mon=mon, port=port, root=root))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        _start_monitor(root, config, fsid, mon, processes)
        _start_osd(root, config, processes)
        processes.append(_spawn(root, "radosgw", "-f", "-n", "client.rgw", "-c", str(config)))
        user = _user(config)
        _await_port(port)
        yield RadosGateway(f"http://127.0.0.1:{port}", user["access_key"], user["secret_key"], root)
    finally:
        for process in reversed(processes):
            process.kill()
        for process in processes:
            process.wait(COMMAND_SECONDS)


def _start_monitor(
    root: Path, config: Path, fsid: str, port: int, processes: list[subprocess.Popen[bytes]]
) -> None:
    keyring, monmap = str(root / "keyring"), str(root / "monmap")
    every = ("--cap", "mon", "allow *", "--cap", "osd", "allow *", "--cap", "mgr", "allow *")
    _run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    for name in ("client.admin", "client.rgw", "osd.0"):
        _run("ceph-authtool", keyring, "--gen-key", "-n", name, *every)
    _run("monmaptool", "--create", "--addv", "a", f"[v2:127.0.0.1:{port}]", "--fsid", fsid, monmap)
    _run("ceph-mon", "--mkfs", "-i", "a", "-c", str(config), "--monmap", monmap, "--keyring", keyring)
    processes.append(_spawn(root, "ceph-mon", "-f", "-i", "a", "-c", str(config)))
    _ceph(config, "mon", "enable-msgr2")


def _start_osd(root: Path, config: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    identifier = str(uuid.uuid4())
    _ceph(config, "osd", "new", identifier)
    options = ("-i", "0", "-c", str(config), "--osd-uuid", identifier)
    _run("ceph-osd", "--mkfs", *options)
    processes.append(_spawn(root, "ceph-osd", "-f", *options))
    deadline = time.monotonic() + UP_SECONDS
    while json.loads(_ceph(config, "osd", "stat", "-f", "json"))["num_up_osds"] < 1:
        assert time.monotonic() < deadline, "the OSD did not come up"
        time.sleep(0.2)
    _ceph(config, "osd", "crush", "add", "osd.0", "1.0", "root=default", "host=here")


def _user(config: Path) -> dict[str, str]:
    made = _run(
        "radosgw-admin",
        "-n",
        "client.rgw",
        "-c",
        str(config),
        "user",
        "create",
        "--uid",
        "bsfg",
        "--display-name",
        "bsfg",
    )
    keys: dict[str, str] = json.loads(made[made.index("{") :])["keys"][0]
    return keys


def _await_port(port: int) -> None:
    deadline = time.monotonic() + UP_SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline, "radosgw does not listen"
        time.sleep(0.1)


def _ceph(config: Path, *words: str) -> str:
    return _run("ceph", "-c", str(config), "-n", "client.admin", "--connect-timeout", "30", *words)


def _spawn(root: Path, *command: str) -> subprocess.Popen[bytes]:
    log = (root / f"{command[0]}.out").open("wb")
    with log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, timeout=COMMAND_SECONDS, env=dict(os.environ))
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.decode()}"
    return done.stdout.decode()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
