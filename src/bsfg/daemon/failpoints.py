"""Places where a gateway of a lab kills itself or stands still on purpose, to show that nothing is lost or hidden.

Only a lab arms them (``lab: true``); anywhere else the variable says nothing and every passage costs one comparison.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from typing import Final

from bsfg.errors import BsfgError, Code

VARIABLE: Final = "BSFG_FAILPOINTS"
LABELS: Final = (
    "locate.before",
    "locate.after",
    "fetch.before",
    "fetch.answered",
    "page.taken",
    "append.before",
    "append.sent",
    "append.after",
    "record.before",
    "record.after",
    "confirm.before",
    "confirm.sent",
    "confirm.after",
)
ARTIFACT_LABELS: Final = (
    "references.wanted",
    "references.passed",
    "artifact.piece",
    "artifact.before",
    "artifact.after",
)
"""Passed only where a link mirrors artifacts."""
FROZEN_LABELS: Final = ("fetch.frozen",)
"""Where a step stays for good instead."""
SENT_SECONDS: Final = 0.001
"""A request that is this old has left, most likely without an answer yet."""


@dataclass
class _Failpoint:
    label: str
    passages_left: int


_armed: _Failpoint | None = None


def arm(text: str | None, *, is_lab: bool) -> None:
    """Arm ``label:N``, the Nth passage of a label; None disarms, and so does any zone that is no lab's.

    Raises ``configuration`` for what is no failpoint, as a fault that never happens would show nothing.
    """
    global _armed
    _armed = _parse(text) if text and is_lab else None


def passed(label: str) -> None:
    """The driver is at this step; the process is gone on the passage that was ordered, as by ``kill -9``."""
    if _armed is not None and _armed.label == label:
        _count(_armed)


def sent(label: str) -> None:
    """A request is on its way; the process ends a moment later, while its answer is out."""
    if _armed is not None and _armed.label == label:
        asyncio.get_running_loop().call_later(SENT_SECONDS, _count, _armed)


async def frozen(label: str) -> None:
    """On the passage that was ordered the step gets no further, until whoever waits for it gives it up."""
    if _armed is not None and _armed.label == label:
        _armed.passages_left -= 1
        if _armed.passages_left == 0:
            await asyncio.Event().wait()


def _count(failpoint: _Failpoint) -> None:
    failpoint.passages_left -= 1
    if failpoint.passages_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def _parse(text: str) -> _Failpoint:
    label, _, count = text.partition(":")
    known = (*LABELS, *ARTIFACT_LABELS, *FROZEN_LABELS)
    if label not in known or not count.isdecimal() or int(count) < 1:
        raise BsfgError(
            Code.CONFIGURATION,
            f"{VARIABLE}: {text!r} is no failpoint",
            hint=f"write label:N with one of {', '.join(known)}",
        )
    return _Failpoint(label, int(count))
