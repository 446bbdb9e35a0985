"""What this machine can do to a lab: namespaces, packet filters and loop mounts want root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Final

INSIDE: Final = "BSFG_FAULTS_INSIDE"
_UNSHARE: Final = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_SBIN: Final = ("/usr/sbin", "/sbin")


def find_system_tools() -> None:
    """``nft`` and ``mkfs.ext4`` lie where a user's path may not lead."""
    path = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([path, *(folder for folder in _SBIN if folder not in path.split(os.pathsep))])


def can_separate() -> bool:
    """Whether the lab can have a network, mounts and processes of its own."""
    probe = [*_UNSHARE, "--", "true"]
    tools = all(shutil.which(tool) for tool in ("unshare", "ip"))
    return os.geteuid() == 0 and tools and subprocess.run(probe, capture_output=True, timeout=10).returncode == 0


def separate(arguments: list[str]) -> None:
    """Go on in namespaces of our own, where that is possible; nothing of the lab outlives this program then."""
    if INSIDE in os.environ or not can_separate():
        return
    command = [*_UNSHARE, "--", sys.executable, "-u", "-m", "tests.faults", *arguments]
    os.execvpe(command[0], command, os.environ | {INSIDE: "1"})


def prepare() -> None:
    """The loopback of a new network is down."""
    if INSIDE in os.environ:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=10)


def can_drop_packets() -> bool:
    """Only inside our own network, where nobody else's packets are."""
    return INSIDE in os.environ and shutil.which("nft") is not None and _runs("nft", "list", "tables")


def can_cut_power() -> bool:
    """Only inside our own mounts, which end with us."""
    return INSIDE in os.environ and has_loop_mounts()


def has_loop_mounts() -> bool:
    tools = ("mkfs.ext4", "mount", "umount", "findmnt", "losetup")
    return all(shutil.which(tool) for tool in tools) and _runs("losetup", "--find")


def _runs(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, timeout=10).returncode == 0
