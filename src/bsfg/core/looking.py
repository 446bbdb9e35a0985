"""What a read of the inbound stream's end says beside what the link believes (design, decision 2; I5, I12, I20)."""

from __future__ import annotations

from collections.abc import Sequence

from bsfg.core.link_state import Flight, Link
from bsfg.core.reconcile import Halt, same_fact
from bsfg.model.cursor import Fence, HaltReason, LocalPosition
from bsfg.model.fact import digest


def agrees(link: Link, since: Fence, position: LocalPosition) -> bool:
    """Whether the stream is what a flowing link believes; ``since`` was its fence when the stream was asked.

    Pages may be stored meanwhile, so the end may lie anywhere from there to behind everything in flight.
    """
    fence, ahead, found = link.fence, link.fence_ahead, position.fence
    if fence is None or ahead is None or link.cursor is None:
        return True
    if (found.generation, found.created) != (fence.generation, fence.created):
        return False
    if position.foreign is not None or position.removed is not None:
        return False
    if not since.local_sequence <= found.local_sequence <= ahead.local_sequence:
        return False
    is_at_rest = found.local_sequence == fence.local_sequence and link.cursor.sequence is not None
    return not is_at_rest or (position.tip is not None and same_fact(link.cursor, position.tip))


def conflict(doubtful: Sequence[Flight], position: LocalPosition) -> Halt | None:
    """A fact that was to be appended is in the stream by another hand, with other content (I12).

    Its coordinates are its identity on a link. The same content is what was to be stored, whoever stored it.
    """
    tip = position.tip
    if tip is None:
        return None
    for flight in doubtful:
        for fact in flight.facts if flight.cursor.epoch == tip.epoch else ():
            if fact.sequence == tip.sequence and digest(fact) != tip.digest:
                return Halt(
                    HaltReason.CONFLICTING_DUPLICATE,
                    f"fact {fact.sequence} of epoch {tip.epoch} is here with the digest {tip.digest}, and the peer "
                    f"sent it with {digest(fact)}; what it sent was not stored",
                )
    return None
