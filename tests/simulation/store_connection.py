"""One gateway's connections to its own NATS: what was written arrives in order, whoever died meanwhile.

Stands where ``JetStreamInboundLog`` and ``PageWriter`` stand, with their rules: appends are written in the order of
their calls, each behind the other, without waiting for the one before only where nobody else can publish; when one
fails, the connection is dropped, and so are those called before that was known. Bytes already under way still arrive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tests.simulation.receiver_store import Answer, ReceiverStore

from bsfg.errors import BsfgError, Fenced, OutcomeUnknown, SubstrateUnavailable
from bsfg.model.cursor import Fence, LinkName, LinkRecord, LocalPosition
from bsfg.model.fact import Fact

if TYPE_CHECKING:
    from tests.simulation.gateway import Gateway

ACK_SECONDS: Final = 5.0
"""As in ``substrates/page_writer.py``."""


class StoreConnection:
    """``ports.InboundLog`` of one gateway process, and its quarantine on disk."""

    def __init__(self, store: ReceiverStore, gateway: Gateway) -> None:
        self.store = store
        self.gateway = gateway
        self.faults = gateway.world.store_faults
        self.random = gateway.world.random
        self._loop = gateway.world.loop
        self._writing = asyncio.Lock()
        self._waiting: dict[asyncio.Future[Answer], None] = {}
        self._failures = 0

    async def provision(self, link: LinkName) -> None:
        """The stream is there."""

    async def locate(self, link: LinkName) -> LocalPosition:
        await self.gateway.step("locate asked")
        await self._travel()
        record, revision = self.store.record, self.store.revision
        await self._travel()
        position = self.store.position(record, revision)
        self.gateway.tails_lost_at_read = self.store.ledger.tails_lost
        await self.gateway.step("locate answered")
        return position

    async def save_record(self, link: LinkName, record: LinkRecord, revision: int | None = None) -> int:
        await self.gateway.step("record sent")
        fault = self.faults.take("record_not_stored", "record_ack_lost")
        await self._travel()
        saved = 0
        if fault != "record_not_stored":
            saved = self.store.save(record, revision)
            self.gateway.world.trace("store", "record", record.cursor, record.local_sequence, record.gaps)
        if fault is not None:
            await self._timed_out()
        await self._travel()
        await self.gateway.step("record answered")
        self.store.note_begun(record)
        return saved

    async def put(self, link: LinkName, epoch: str, fact: Fact) -> None:
        """``ports.Quarantine``: a file of the gateway's own, synced."""
        await self.gateway.step("quarantine asked")
        self.gateway.world.quarantined.add((epoch, fact.sequence))
        await self.gateway.step("quarantine answered")

    async def append(self, link: LinkName, fence: Fence, epoch: str, facts: Sequence[Fact]) -> Fence:
        failures = self._failures
        try:
            async with self._writing:
                if failures != self._failures:
                    raise Fenced("the append before this one did not succeed")
                await self._must_be_the_stream(fence)
                answer = self._write(fence, epoch, facts)
                if not self.gateway.world.profile.is_exclusive:
                    return await self._acknowledged(answer)
            return await self._acknowledged(answer)
        except BaseException:
            self._failures += 1
            self._drop()
            raise

    async def _must_be_the_stream(self, fence: Fence) -> None:
        """Asked whenever no append is under way: at the same sequence may stand another stream."""
        if self._waiting:
            return
        await self._travel()
        if fence.created != str(self.store.created):
            raise Fenced(f"the stream was created {self.store.created}, not {fence.created}")

    def _write(self, fence: Fence, epoch: str, facts: Sequence[Fact]) -> asyncio.Future[Answer]:
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting[answer] = None
        fault = self.faults.take("append_lost", "ack_lost", "ack_late", "append_late")
        seconds = self.random.random() * self.gateway.world.store_seconds
        if fault == "append_late":
            seconds += 7.0
        arrives_at = self.store.queue(self._loop.time() + seconds)
        if fault != "append_lost":
            self._loop.call_at(arrives_at, self._arrive, fence, epoch, facts, answer, fault)
        self.gateway.fell_due("append sent")
        return answer

    def _arrive(
        self,
        fence: Fence,
        epoch: str,
        facts: Sequence[Fact],
        answer: asyncio.Future[Answer],
        fault: str | None,
    ) -> None:
        said = self.store.take(fence, epoch, facts)
        self.gateway.world.trace(
            "store", "append", self.gateway.name, facts[0].sequence, facts[-1].sequence, said
        )
        self.gateway.fell_due("append stored")
        if said is None or fault == "ack_lost":
            return
        seconds = self.random.random() * self.gateway.world.store_seconds + (
            6.0 if fault == "ack_late" else 0.0
        )
        self._loop.call_later(seconds, self._answer, answer, said)

    def _answer(self, answer: asyncio.Future[Answer], said: Answer) -> None:
        if not answer.done():
            answer.set_result(said)

    async def _acknowledged(self, answer: asyncio.Future[Answer]) -> Fence:
        try:
            async with asyncio.timeout(ACK_SECONDS):
                said = await asyncio.shield(answer)
        except TimeoutError:
            raise OutcomeUnknown("NATS has not acknowledged the append") from None
        finally:
            self._waiting.pop(answer, None)
        await self.gateway.step("append answered")
        if said is None:
            raise OutcomeUnknown("the connection broke before the append was acknowledged")
        if isinstance(said, BsfgError):
            raise said
        return said

    def _drop(self) -> None:
        """The connection is gone: whoever waits on it learns nothing."""
        for answer in list(self._waiting):
            self._answer(answer, None)

    async def _travel(self) -> None:
        if self.faults.take("store_answers_lost") is not None:
            await self._timed_out()
        if not self.store.is_up:
            await asyncio.sleep(0.05)
            raise SubstrateUnavailable("NATS is away")
        if self.random.random() < 0.4:
            await asyncio.sleep(self.random.random() * self.gateway.world.store_seconds)

    async def _timed_out(self) -> None:
        await asyncio.sleep(ACK_SECONDS)
        raise SubstrateUnavailable("NATS does not answer")
