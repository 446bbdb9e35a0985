"""Which nats-server versions BSFG accepts, embedded or external (design, decision 17)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from bsfg.errors import SubstrateUnavailable

ServerVersion = tuple[int, int, int]

REFUSED_THROUGH: Final[ServerVersion] = (2, 10, 23)
WARNED_BELOW: Final[ServerVersion] = (2, 12, 12)
WARNED_RANGE: Final[tuple[ServerVersion, ServerVersion]] = ((2, 14, 0), (2, 14, 3))
ATOMIC_SINCE: Final = (2, 12)
"""The first version that takes atomic batches."""
BATCH_LIMIT_SINCE: Final = (2, 15)
"""The first version that was seen to take the limit of a batch from its configuration."""
ADVICE: Final = "use 2.12.12 or newer of 2.12, or 2.14.4 or newer"

_VERSION: Final = re.compile(r"\bv?(\d{1,4})\.(\d{1,4})\.(\d{1,4})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a server may be used, and what to say about it; no reason means that there is nothing to say."""

    accepted: bool
    reason: str = ""


def parse_version(text: str) -> ServerVersion | None:
    """The first ``x.y.z`` in what a server says of itself, such as ``nats-server: v2.15.1``; None without one."""
    match = _VERSION.search(text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def format_version(version: ServerVersion) -> str:
    """The version as people write it: ``2.15.1``."""
    return ".".join(str(part) for part in version)


def takes_batches(text: str) -> bool:
    """Whether a server that says this of itself takes atomic batches; False where it says no version."""
    version = parse_version(text)
    return version is not None and version[:2] >= ATOMIC_SINCE


def demand_accepted(text: str) -> None:
    """Raise ``SubstrateUnavailable`` for a server that says a version which is refused (design, decision 17)."""
    version = parse_version(text)
    if version is not None and not (verdict := judge(version)).accepted:
        raise SubstrateUnavailable(verdict.reason, hint=ADVICE)


def judge(version: ServerVersion) -> Verdict:
    """Refuse 2.10.23 and older; warn below 2.12.12 and from 2.14.0 to 2.14.3, which can lose or repeat messages."""
    shown = format_version(version)
    if version <= REFUSED_THROUGH:
        return Verdict(
            False, f"nats-server {shown} is refused, as all through {format_version(REFUSED_THROUGH)}"
        )
    if version < WARNED_BELOW or WARNED_RANGE[0] <= version <= WARNED_RANGE[1]:
        return Verdict(True, f"nats-server {shown} has known defects in JetStream: {ADVICE}")
    return Verdict(True)
