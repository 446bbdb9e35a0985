"""When sender and receiver speak of one history, and what is said when they don't (design, decision 4; I16 to I18)."""

from __future__ import annotations

from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import Cursor
from bsfg.model.names import StreamName
from bsfg.model.page import Agreement, LogDescription
from bsfg.ports import Confirmed


def must_be_same_history(epoch: str, description: LogDescription) -> None:
    """Raises ``history_mismatch`` unless the log is of this epoch."""
    if epoch != description.epoch:
        raise history_mismatch(description.stream, "its epoch is another one now", epoch=description.epoch)


def must_not_be_ahead(sequence: int, description: LogDescription) -> None:
    """Raises ``ahead_of_source`` if the log never came this far: it was restored, truncated or purged and reset."""
    if sequence > description.last_sequence:
        raise BsfgError(
            Code.AHEAD_OF_SOURCE,
            f"stream {description.stream} ends at {description.last_sequence}, before sequence {sequence}",
            hint="the source has lost facts that it once had; its operator must start a new epoch",
            head=description.last_sequence,
        )


def must_follow(
    scanned_through: int, description: LogDescription, accept_gap: tuple[int, int] | None = None
) -> None:
    """Raises ``gap`` if facts behind the cursor are gone, unless exactly this gap was accepted."""
    if description.first_sequence <= scanned_through + 1:
        return
    first, last = scanned_through + 1, description.first_sequence - 1
    if accept_gap == (first, last):
        return
    gap = {"from": first, "to": last}
    raise BsfgError(
        Code.GAP,
        f"stream {description.stream} no longer has the facts from {first} to {last}",
        hint="retention passed the cursor; 'bsfg cursor accept-gap' goes on behind it",
        **gap,
    )


def agreement_on(after: Cursor, ours: str | None, confirmed: Confirmed | None) -> Agreement | None:
    """How far the cursor's fact is known to be ours: ``ours`` is its digest here, None if we no longer have it.

    None stands for a fact that is another one here. Where the fact is gone, the digest that the peer confirmed for
    this very sequence decides; without one, epoch and bounds have to do.
    """
    if ours is None and confirmed is not None and _is_at(confirmed, after):
        ours = confirmed.digest
    if ours is None:
        return Agreement.EPOCH
    return Agreement.EXACT if ours == after.digest else None


def history_mismatch(stream: StreamName, cause: str, **details: object) -> BsfgError:
    """The histories of sender and receiver are not one."""
    return BsfgError(
        Code.HISTORY_MISMATCH,
        f"stream {stream} is not the history that the cursor came from: {cause}",
        hint="the source was made again, restored or rewritten; 'bsfg cursor accept-epoch' starts anew",
        **details,
    )


def _is_at(confirmed: Confirmed, after: Cursor) -> bool:
    return (confirmed.epoch, confirmed.sequence) == (after.epoch, after.sequence)
