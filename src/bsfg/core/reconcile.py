"""Where a link goes on, judged from one read of its inbound stream and the record beside it (design, decision 2).

The stream is the truth: the cursor is the last fact that is really in it. The record adds what the data can't say,
and is believed only while it names this very stream at this very sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

from bsfg.model.cursor import Cursor, Gap, HaltReason, Init, LinkRecord, LocalPosition


@dataclass(frozen=True, slots=True)
class Resume:
    """The link goes on from this cursor."""

    cursor: Cursor
    init: Init | None
    gaps: tuple[Gap, ...]


@dataclass(frozen=True, slots=True)
class NeedsStart:
    """The link never had a cursor: its init mode decides, once (I21)."""


@dataclass(frozen=True, slots=True)
class Halt:
    """The link waits for an operator."""

    reason: HaltReason
    message: str
    gap: tuple[int, int] | None = None
    """The facts that the sender no longer has, where that is the reason; both ends included."""


def resume(position: LocalPosition) -> Resume | NeedsStart | Halt:
    """Decide where to go on; never starts anew where something was stored before (I8, I20)."""
    if position.foreign is not None:
        return Halt(HaltReason.FOREIGN_WRITER, position.foreign)
    record = position.record
    if record is not None and record.created != position.fence.created:
        return Halt(
            HaltReason.LOCAL_RESET,
            f"the inbound stream was created at {position.fence.created}, "
            f"but this link's stream was created at {record.created}",
        )
    if position.removed is not None:
        return Halt(HaltReason.LOCAL_RESET, position.removed)
    if position.tip is not None:
        return _resume_from_tip(position.tip, position, record)
    return _resume_without_facts(position, record)


def _resume_from_tip(tip: Cursor, position: LocalPosition, record: LinkRecord | None) -> Resume | Halt:
    if record is None:
        return Resume(tip, None, ())
    is_believed = record.local_sequence == position.fence.local_sequence and (
        same_fact(record.cursor, tip) or _starts_anew(record)
    )
    return Resume(record.cursor if is_believed else tip, record.init, record.gaps)


def same_fact(one: Cursor, other: Cursor) -> bool:
    """Whether both are at one fact, however far each has scanned."""
    return (one.epoch, one.sequence, one.digest) == (other.epoch, other.sequence, other.digest)


def _starts_anew(record: LinkRecord) -> bool:
    """An operator accepted another epoch: it has no fact yet, and the stream's last one belongs to the epoch before."""
    return (
        record.cursor.sequence is None
        and record.init is not None
        and record.init.epoch == record.cursor.epoch
    )


def _resume_without_facts(position: LocalPosition, record: LinkRecord | None) -> Resume | NeedsStart | Halt:
    if position.fence.local_sequence > 0:
        if (
            record is not None
            and record.local_sequence == position.fence.local_sequence
            and _starts_anew(record)
        ):
            return Resume(record.cursor, record.init, record.gaps)
        return Halt(
            HaltReason.LOCAL_RESET,
            f"the inbound stream holds no fact but has held {position.fence.local_sequence}: it was emptied by hand",
        )
    if record is None and position.revision == 0 and position.begun is None:
        return NeedsStart()
    if record is not None and record.local_sequence == 0:
        return Resume(record.cursor, record.init, record.gaps)
    init = _resolved(position, record)
    if init is None:
        return Halt(
            HaltReason.CURSOR_UNKNOWN,
            "the inbound stream is empty, and nothing says any more where the link started",
        )
    # All that was here is lost: from the resolved start on it is fetched once more.
    start = Cursor(init.epoch, None, None, init.start_sequence - 1)
    return Resume(start, init, record.gaps if record is not None else ())


def _resolved(position: LocalPosition, record: LinkRecord | None) -> Init | None:
    """Where the link started, by its record or by what is known beside the store."""
    if record is not None and record.init is not None:
        return record.init
    return position.begun.init if position.begun is not None else None
