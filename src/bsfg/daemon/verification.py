"""``bsfg verify``: both zones' digests of a link's facts, and where they differ, which facts it is (docs/verify.md).

The peer is asked part by part while one pass reads what is held here; parts that differ are cut smaller until each is
one fact. Of the facts themselves nothing travels.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from bsfg.daemon.held_parts import HeldDigester, HeldParts
from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import Gap, LinkName
from bsfg.model.digests import DigestAnswer, DigestCall, PartDigest, split, width_of
from bsfg.model.facts import Facts
from bsfg.ports import DigestSource
from bsfg.substrates.inbound_scan import InboundScan, InboundState
from bsfg.tasks import end_tasks

PART_FACTS: Final = 1_000
PART_BYTES: Final = 16 * 1024 * 1024
PARTS_ASKED: Final = 128
PARTS_HELD_MAX: Final = 100_000
NARROWED_PARTS: Final = 64
DIFFERENCES_MAX: Final = 1_000
PASSES_MAX: Final = 4
TOO_MANY_ATTEMPTS: Final = 60
TOO_MANY_SECONDS: Final = 1.0
PROGRESS_SECONDS: Final = 0.5

Row = dict[str, Any]


class Kind(StrEnum):
    """What is wrong with one fact."""

    MISSING = "missing"
    """The peer has it, and we do not."""
    EXTRA = "extra"
    """We have it, and the peer does not."""
    DIFFERENT = "different"
    """Both have it, with other bytes."""
    OUT_OF_ORDER = "out of order"
    """Both have it, and here it does not lie in its origin's order."""
    REPEATED = "repeated"
    """It lies here once more than it should."""
    FOREIGN = "foreign"
    """A message that this gateway did not write as a fact of the link."""


@dataclass(frozen=True, slots=True)
class Difference:
    kind: Kind
    sequence: int | None
    """At the origin; None for a foreign message."""
    local_sequence: int | None = None
    note: str | None = None

    def as_json(self) -> Row:
        shown = {"kind": self.kind.value, "sequence": self.sequence, "local_sequence": self.local_sequence}
        return shown | ({"note": self.note} if self.note else {})


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is compared, both ends included, and what is not and why."""

    epoch: str
    first: int
    last: int
    outside: tuple[str, ...] = ()
    places: tuple[int, int] | None = None
    """Where the range lies here if all is in order; None where the whole stream has to be read."""


@dataclass
class Verification:
    """One run for one link; ``bounds`` says anew what can be compared, for retention moves on both sides."""

    link: LinkName
    peer: DigestSource
    scan: InboundScan
    bounds: Callable[[], Awaitable[Bounds]]
    gaps: tuple[Gap, ...] = ()
    differences: list[Difference] = field(default_factory=list)
    explained: list[Row] = field(default_factory=list)
    unresolved: list[Row] = field(default_factory=list)
    reads_all: bool = False

    async def run(self) -> AsyncGenerator[Row, None]:
        """Progress as ``{"progress": …}``, and in the end one ``{"result": …}``."""
        for attempt in range(PASSES_MAX):
            bounds = await self.bounds()
            if self.reads_all:
                bounds = replace(bounds, places=None)
            self.differences, self.explained, self.unresolved = [], [], []
            if bounds.first > bounds.last:
                yield {"result": self._result(bounds, None)}
                return
            held: HeldParts | None = None
            async with contextlib.aclosing(self._compare(bounds)) as steps:
                async for step in steps:
                    if isinstance(step, HeldParts):
                        held = step
                    else:
                        yield step
            differs = bool(self.differences or self.unresolved)
            if differs and bounds.places is not None:
                # What seems to be missing may lie elsewhere.
                self.reads_all = True
                continue
            has_moved = (await self.bounds()).first > bounds.first
            if not (has_moved and differs) or attempt == PASSES_MAX - 1:
                yield {"result": self._result(bounds, held)}
                return

    async def _compare(self, bounds: Bounds) -> AsyncGenerator[Row | HeldParts, None]:
        state = await self.scan.state()
        held = HeldParts(bounds.first, bounds.last, _width(bounds, state))
        asked: list[PartDigest] = []
        asking = asyncio.create_task(
            self._ask_all(bounds.epoch, bounds.first, bounds.last, held.width, asked)
        )
        try:
            told = 0.0
            begin, end = bounds.places or (max(1, state.first_sequence), state.last_sequence)
            async with contextlib.aclosing(held.read(self.scan, begin, end)) as pages:
                async for _ in pages:
                    if asking.done():
                        asking.result()
                    if (now := asyncio.get_running_loop().time()) - told > PROGRESS_SECONDS:
                        told = now
                        yield _progress(bounds, held)
            while not asking.done():
                await asyncio.wait({asking}, timeout=PROGRESS_SECONDS)
                yield _progress(bounds, held)
            await asking
        finally:
            await end_tasks(asking)
        yield held
        async for row in self._narrow_all(bounds, held, asked):
            yield row

    async def _ask_all(self, epoch: str, first: int, last: int, width: int, asked: list[PartDigest]) -> None:
        """The peer's digests of every part of a range, all of this width but the last, into ``asked`` as they come."""
        start = first
        while start <= last:
            parts = max(1, min(PARTS_ASKED, (last - start + 1) // width))
            end = min(start + width * parts - 1, last)
            answer = await self._ask(epoch, start, end, parts)
            asked += answer.parts
            start = min(start + width * len(answer.parts), last + 1)

    async def _ask(self, epoch: str, first: int, last: int, parts: int) -> DigestAnswer:
        call = DigestCall(self.link.stream, epoch, first, last, parts)
        for attempt in range(TOO_MANY_ATTEMPTS):
            try:
                return await self.peer.digests(call)
            except BsfgError as error:
                # Somebody else of ours asks the peer for digests just now; it takes one request at a time.
                if error.code is not Code.TOO_MANY or attempt == TOO_MANY_ATTEMPTS - 1:
                    raise
                await asyncio.sleep(TOO_MANY_SECONDS)
        raise AssertionError("the last attempt returns or raises")

    # Narrowing.

    async def _narrow_all(
        self, bounds: Bounds, held: HeldParts, asked: list[PartDigest]
    ) -> AsyncGenerator[Row, None]:
        self.differences += [
            Difference(Kind.FOREIGN, None, each.local_sequence, each.why) for each in held.foreign
        ]
        starts = range(bounds.first, bounds.last + 1, held.width)
        for start, ours, theirs, place in zip(
            starts, held.parts.parts, asked, held.parts.places, strict=True
        ):
            if ours == theirs:
                continue
            end = min(start + held.width - 1, bounds.last)
            await self._narrow(bounds.epoch, start, end, place, held)
            yield _progress(bounds, held)
        for sequence in sorted(held.strangers):
            index = (sequence - bounds.first) // held.width
            await self._judge_stranger(bounds.epoch, sequence, held.parts.places[index], held)
        # Of two that changed places one lies in the rising run; its bytes have been compared with all others.
        named = {difference.sequence for difference in self.differences}
        self.differences += [
            Difference(Kind.OUT_OF_ORDER, sequence)
            for sequence in sorted(held.misplaced - named - held.strangers.keys())
        ]
        self.differences.sort(key=lambda each: (each.sequence or 0, each.local_sequence or 0))

    async def _narrow(
        self, epoch: str, first: int, last: int, place: tuple[int, int] | None, held: HeldParts
    ) -> None:
        """Cut a range that differs into parts until each is one fact."""
        if len(self.differences) + len(self.explained) >= DIFFERENCES_MAX:
            self.unresolved.append({"from": first, "to": last})
            return
        width = width_of(first, last, NARROWED_PARTS)
        local, answered = await self._digest_again(first, last, width, place, held), list[PartDigest]()
        await self._ask_all(epoch, first, last, width, answered)
        ranges = split(first, last, NARROWED_PARTS)
        for (begin, end), ours, theirs, where in zip(
            ranges, local.parts, answered, local.places, strict=True
        ):
            if ours == theirs:
                continue
            if begin == end:
                self._judge(begin, ours, theirs, where, held)
            elif not ours.count and theirs.count == end - begin + 1:
                self._all_missing(begin, end, held)
            else:
                await self._narrow(epoch, begin, end, where, held)

    def _all_missing(self, first: int, last: int, held: HeldParts) -> None:
        """A range that the peer has without a hole, and of which nothing lies in order here."""
        gap = self._gap_at(first)
        if gap is not None and last <= gap.last:
            self.explained.append({"from": first, "to": last, "reason": gap.reason})
            return
        for sequence in range(first, last + 1):
            self._missing(sequence, held)

    async def _digest_again(
        self, first: int, last: int, width: int, place: tuple[int, int] | None, held: HeldParts
    ) -> HeldDigester:
        """The part's facts once more, those that lie in order, in digests of smaller parts."""
        digester = HeldDigester(first, last, width)
        aside = {place for places in held.strangers.values() for place in places}
        if place is not None:
            async with contextlib.aclosing(self.scan.pages(*place)) as pages:
                async for page in pages:
                    facts = page.facts
                    digester.add(
                        Facts.of(
                            fact
                            for fact in facts
                            if first <= fact.sequence <= last and fact.time not in aside
                        )
                    )
        digester.finish()
        return digester

    def _judge(
        self,
        sequence: int,
        ours: PartDigest,
        theirs: PartDigest,
        place: tuple[int, int] | None,
        held: HeldParts,
    ) -> None:
        if sequence in held.strangers:
            return
        local_sequence = place[0] if place else None
        if ours.count and theirs.count:
            self.differences.append(Difference(Kind.DIFFERENT, sequence, local_sequence))
        elif ours.count:
            self.differences.append(Difference(Kind.EXTRA, sequence, local_sequence))
        else:
            self._missing(sequence, held)

    def _missing(self, sequence: int, held: HeldParts) -> None:
        if sequence in held.strangers:
            return
        gap = self._gap_at(sequence)
        if gap is not None:
            self.explained.append({"from": sequence, "to": sequence, "reason": gap.reason})
        else:
            self.differences.append(Difference(Kind.MISSING, sequence))

    def _gap_at(self, sequence: int) -> Gap | None:
        return next((gap for gap in self.gaps if gap.first <= sequence <= gap.last), None)

    async def _judge_stranger(
        self, epoch: str, sequence: int, place: tuple[int, int] | None, held: HeldParts
    ) -> None:
        """A fact that lies out of order: is it the only copy, and is it the fact that the peer has?"""
        theirs = (await self._ask(epoch, sequence, sequence, 1)).parts[0]
        in_order = (await self._digest_again(sequence, sequence, 1, place, held)).parts[0]
        places = held.strangers[sequence]
        if in_order.count or len(places) > 1:
            extra = places if in_order.count else places[1:]
            self.differences += [Difference(Kind.REPEATED, sequence, each) for each in extra]
        if in_order.count:
            return
        copy = await self._digest_again(
            sequence, sequence, 1, (places[0], places[0]), HeldParts(sequence, sequence, 1)
        )
        if not theirs.count:
            self.differences.append(Difference(Kind.EXTRA, sequence, places[0]))
        elif copy.parts[0] != theirs:
            self.differences.append(Difference(Kind.DIFFERENT, sequence, places[0], "and out of order"))
        else:
            self.differences.append(Difference(Kind.OUT_OF_ORDER, sequence, places[0]))

    def _result(self, bounds: Bounds, held: HeldParts | None) -> Row:
        is_identical = not self.differences and not self.unresolved
        outside = list(bounds.outside)
        if held is not None and held.of_earlier_epochs:
            outside.append(f"{held.of_earlier_epochs} facts of earlier epochs")
        return {
            "peer": self.link.peer,
            "stream": self.link.stream,
            "epoch": bounds.epoch,
            "from": bounds.first,
            "to": bounds.last,
            "facts": held.facts if held else 0,
            "digest": held.digest if held and is_identical else None,
            "part_width": held.width if held else None,
            "identical": is_identical,
            "differences": [each.as_json() for each in self.differences],
            "unresolved": self.unresolved,
            "explained": self.explained,
            "outside": outside,
        }


def _width(bounds: Bounds, state: InboundState) -> int:
    """So many sequences a part that it holds some thousand facts, can be read in a moment, and the list stays short."""
    sequences, messages = bounds.last - bounds.first + 1, max(1, state.messages)
    facts = max(1, min(PART_FACTS, PART_BYTES * messages // max(1, state.bytes)))
    return max(facts, sequences * facts // messages, sequences // PARTS_HELD_MAX)


def _progress(bounds: Bounds, held: HeldParts) -> Row:
    shown = {"compared_through": max(bounds.first - 1, held.reached), "to": bounds.last, "facts": held.facts}
    return {"progress": shown}
