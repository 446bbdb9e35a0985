"""A failpoint ends the process at the passage that was ordered, in a lab alone."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bsfg.daemon import failpoints
from bsfg.errors import BsfgError, Code

PASSING = """
import sys
from bsfg.daemon import failpoints
failpoints.arm(sys.argv[1], is_lab=sys.argv[2] == "lab")
for passage in range(3):
    print(passage, flush=True)
    failpoints.passed("append.before")
    failpoints.passed("append.after")
"""
SENDING = """
import asyncio
from bsfg.daemon import failpoints
async def main():
    failpoints.arm("append.sent:2", is_lab=True)
    for passage in range(3):
        print(passage, flush=True)
        failpoints.sent("append.sent")
        await asyncio.sleep(0.05)
asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm(None, is_lab=True)


def run(code: str, *arguments: str) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=20)
    return done.returncode, done.stdout.split()


def test_the_process_ends_at_the_passage_that_was_ordered() -> None:
    assert run(PASSING, "append.after:2", "lab") == (-signal.SIGKILL, ["0", "1"])


def test_outside_a_lab_nothing_is_armed() -> None:
    assert run(PASSING, "append.after:2", "zone") == (0, ["0", "1", "2"])
    assert run(PASSING, "no failpoint at all", "zone") == (0, ["0", "1", "2"])


def test_an_unreached_passage_ends_nothing() -> None:
    assert run(PASSING, "append.after:4", "lab") == (0, ["0", "1", "2"])


def test_what_was_sent_ends_the_process_a_moment_later() -> None:
    assert run(SENDING) == (-signal.SIGKILL, ["0", "1"])


@pytest.mark.parametrize("text", ["append.after", "append.after:0", "append.after:x", "append.later:1", ":1"])
def test_what_is_no_failpoint_is_refused_in_a_lab(text: str) -> None:
    with pytest.raises(BsfgError) as refused:
        failpoints.arm(text, is_lab=True)
    assert refused.value.code is Code.CONFIGURATION


@pytest.mark.parametrize("label", failpoints.LABELS)
def test_every_label_can_be_ordered(label: str) -> None:
    failpoints.arm(f"{label}:1000000", is_lab=True)
    failpoints.passed("no such label")


async def test_a_step_that_is_frozen_stays_until_it_is_given_up() -> None:
    failpoints.arm("fetch.frozen:2", is_lab=True)
    await failpoints.frozen("fetch.frozen")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await failpoints.frozen("fetch.frozen")
    await failpoints.frozen("fetch.frozen")
