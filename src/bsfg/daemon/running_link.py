"""Links as the rest of the gateway sees them, wherever their drivers run: worker processes stand behind this seam."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from bsfg.config.limits import Limits
from bsfg.config.values import LinkConfig
from bsfg.core.conversation import Event
from bsfg.core.link_state import Link
from bsfg.errors import BsfgError
from bsfg.model.cursor import LinkName, LinkState
from bsfg.model.names import ZoneId
from bsfg.ports import Clock


@dataclass(frozen=True, slots=True)
class InHand:
    """Facts that were fetched and are not yet durable; ``oldest_time`` is the first one's, None while a page of them
    waits for nothing but its turn."""

    facts: int = 0
    oldest_time: int | None = None


NOTHING_IN_HAND: Final = InHand()


class RunningLink(Protocol):
    """One link that runs. ``link`` is what is known of its state: the facts in it, if any, are ``in_hand``'s to say."""

    @property
    def name(self) -> LinkName: ...

    @property
    def link(self) -> Link: ...

    @property
    def state(self) -> LinkState: ...

    @property
    def heard_at(self) -> float | None:
        """When the sender last spoke, monotonic seconds."""

    @property
    def in_hand(self) -> InHand: ...

    @property
    def clock(self) -> Clock: ...

    def tell(self, event: Event) -> None:
        """Give the link an outside word that may be lost: it looks by itself soon after."""

    async def instruct(self, event: Event) -> Link:
        """Give the link an outside word that counts; the link as it was just before.

        Raises ``unavailable`` where the link can't be reached within ten seconds.
        """

    async def changed(self) -> None:
        """Wait until more is known of the link."""


class Links(Protocol):
    """Every configured link of this zone."""

    @property
    def drivers(self) -> Sequence[RunningLink]: ...

    def driver(self, name: LinkName) -> RunningLink | None: ...

    def state(self, name: LinkName) -> LinkState:
        """The link's state; ``local_unavailable`` while this zone can't run it."""

    def error(self, name: LinkName) -> BsfgError | None: ...

    def problems(self) -> Sequence[str]:
        """Why health is degraded, beside the states of the links themselves."""

    async def apply(
        self, links: Mapping[LinkName, LinkConfig], limits: Limits, partitioned: Iterable[ZoneId]
    ) -> None:
        """Run exactly these links, under the access that is in force; what is gone has stopped on return."""

    def stopped(self, name: LinkName) -> AbstractAsyncContextManager[None]:
        """Inside the block the link does not run, whatever a reload wants; behind it, it starts from what is durable.

        Raises ``unavailable`` for a link that does not run.
        """

    def tell_peer(self, peer: ZoneId, event: Event) -> None:
        """Give every link from this peer an outside word."""

    def partition(self, peer: ZoneId, is_partitioned: bool) -> None:
        """A partition began or ended; the access says so already."""

    def store_returned(self) -> None:
        """What the local store had acknowledged may be gone: every link reads the end of its stream."""

    async def stop(self) -> None: ...
