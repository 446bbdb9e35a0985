"""What a gateway and its worker processes say to each other (design, section 5: workers own whole links)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bsfg.config.limits import Limits
from bsfg.config.values import LinkConfig, PeerConfig, ZoneConfig
from bsfg.core.conversation import Event
from bsfg.core.link_state import Link
from bsfg.daemon.running_link import InHand
from bsfg.errors import BsfgError
from bsfg.model.cursor import LinkName, LinkState
from bsfg.model.names import ZoneId
from bsfg.model.policy import PeerPolicy
from bsfg.transport.trust import TrustMaterial

# From the gateway.


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first word: which zone this is, and where its store is."""

    index: int
    home: Path
    zone: ZoneConfig
    urls: tuple[str, ...]
    seed_file: Path | None
    """The gateway's own NKey seed at the embedded server; elsewhere zone.yaml names the credentials."""


@dataclass(frozen=True, slots=True)
class Orders:
    """All that the worker is to do from now on: who may be dialled, and which links run. The newest alone count."""

    number: int
    trust: TrustMaterial | None
    """None: as before."""
    policies: Mapping[ZoneId, PeerPolicy]
    partitions: Mapping[ZoneId, int | None]
    peers: Mapping[ZoneId, PeerConfig]
    links: Mapping[LinkName, LinkConfig]
    limits: Limits


@dataclass(frozen=True, slots=True)
class Tell:
    """An outside word for a link."""

    name: LinkName
    event: Event


@dataclass(frozen=True, slots=True)
class Ask:
    """An outside word for a link, answered with the link as it was just before."""

    number: int
    name: LinkName
    event: Event


@dataclass(frozen=True, slots=True)
class Beat:
    """The gateway is there."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End, in order."""


# From the worker.


@dataclass(frozen=True, slots=True)
class Taken:
    """Orders were carried out."""

    number: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A link at one moment, without the facts that it holds."""

    name: LinkName
    link: Link
    state: LinkState
    error: BsfgError | None
    heard_at: float | None
    in_hand: InHand


@dataclass(frozen=True, slots=True)
class Answer:
    """To :class:`Ask`; None where the link does not run."""

    number: int
    snapshot: Snapshot | None


Call = tuple[str, tuple[Any, ...]]
"""Something that happened: what to call in the gateway, and with what."""


@dataclass(frozen=True, slots=True)
class Report:
    """What happened since the last report, in order, and the links that are not as they were."""

    snapshots: tuple[Snapshot, ...] = ()
    calls: tuple[Call, ...] = ()


def without_facts(link: Link) -> Link:
    """A link as others may see it, small enough to be sent often."""
    return link._replace(flights=(), doubtful=(), held=None, fetch_failure=None)
