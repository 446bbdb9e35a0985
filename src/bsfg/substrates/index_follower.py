"""Keeps the index of message ids level with its stream, whoever publishes there.

The stream is the truth: the index follows it from where it was last stored, by reading, but for what this gateway
appended itself and knows already. An id that is asked for is answered only when the index has reached the end that
the stream had at that moment. A stream that lost its end, was made again or began a new epoch makes the index begin
anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from bsfg.errors import BsfgError, SubstrateUnavailable
from bsfg.model.fact import Fact
from bsfg.model.names import StreamName, physical
from bsfg.model.page import LogDescription, PageLimits
from bsfg.ports import ExportedLog
from bsfg.substrates.message_index import (
    Entry,
    History,
    IndexDamaged,
    IndexFile,
    Position,
    anchor_of,
    content_of,
    index_files,
    index_path,
    key_of,
    remove_index,
    split_message_id,
)
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.own_ranges import OwnRange, OwnRanges
from bsfg.substrates.page_reader import PageReader
from bsfg.tasks import end_tasks

PAGE: Final = PageLimits(facts=1_000, bytes=4 * 1024 * 1024)
LEVEL_SECONDS_MAX: Final = 20.0
"""How long a caller waits for the index to be level; building it goes on behind that."""
FOLLOW_SECONDS: Final = 1.0
REST_FACTOR: Final = 4.0
"""Following on its own account rests so many times as long as it read: a fifth of the loop at most."""
RETRY_SECONDS: Final = 5.0
STORE_ENTRIES: Final = 4_000
"""So many go to the file together: enough to share their pages, few enough that no lookup waits long for them."""
ENTRIES_MAX: Final = 20_000
"""The most that are held in memory; who brings more waits for the file."""
OWN_SKIP_MIN: Final = 64
"""A shorter stretch of our own is read like the facts around it: a reader that goes on is cheaper than a new one."""
BEGINNINGS_MAX: Final = 3
CLOSE_SECONDS: Final = 2.0

Connect = Callable[[], Awaitable[NatsConnection]]
Report = Callable[[StreamName, str], None]
_Result = TypeVar("_Result")


class _HistoryChanged(Exception):
    """The stream no longer holds what the index was made from."""


class StreamIndex:
    """The index of one stream. ``turn`` is held by whoever asks for ids and appends by the answer."""

    def __init__(
        self,
        stream: StreamName,
        source: ExportedLog,
        connect: Connect,
        folder: Path,
        pool: ThreadPoolExecutor,
        report: Report,
    ) -> None:
        self.turn = asyncio.Lock()
        self.generation = 0
        """Changes when the index begins anew; what was appended before that is not noted in it."""
        self._stream = stream
        self._source = source
        self._reader = PageReader(connect, physical(stream), stream)
        self._folder = folder
        self._pool = pool
        self._report = report
        self._busy = asyncio.Lock()
        self._file: IndexFile | None = None
        self._position = Position()
        self._entries: dict[bytes, Entry] = {}
        self._own = OwnRanges()
        self._storing: asyncio.Task[None] | None = None
        self._store_problem: Exception | None = None
        self._target = 0

    # -- for those who append

    async def known(self, keys: Sequence[bytes]) -> dict[bytes, Entry]:
        """The entries of those keys that the stream holds, or has held, up to its end at the time of the call.

        Raises ``SubstrateUnavailable`` where the store or the file does not answer, or the index is not level in
        time; trying again goes on from where it is.
        """
        try:
            async with asyncio.timeout(LEVEL_SECONDS_MAX), self._busy:
                return await self._begun_anew(lambda: self._known(keys))
        except TimeoutError:
            raise SubstrateUnavailable(
                f"the index of message ids of {self._stream} is being built: it is at sequence "
                f"{self._position.sequence} of {self._target}",
                hint="try again soon; facts without message ids are taken meanwhile",
            ) from None

    def note(
        self, generation: int, first: int, last: int, anchor: bytes, entries: Iterable[tuple[bytes, Entry]]
    ) -> None:
        """These sequences were appended by us in a row, with these ids; ``anchor`` is that of the last one."""
        if generation != self.generation:
            return
        self._own.add(OwnRange(first, last, anchor))
        for key, entry in entries:
            self._entries.setdefault(key, entry)

    # -- following

    async def follow(self) -> None:
        """Stay level, politely, until cancelled: a page at a time, with rests."""
        complained = False
        while True:
            began, rest = time.monotonic(), FOLLOW_SECONDS
            try:
                async with self._busy:
                    is_level = await self._begun_anew(lambda: self._advance(pages_max=1))
                if not is_level:
                    rest = (time.monotonic() - began) * REST_FACTOR
                self._store_soon()
                self._raise_store_problem(BsfgError)
                complained = False
            except BsfgError as error:
                rest = RETRY_SECONDS
                if not complained:
                    self._report(self._stream, f"the index of message ids does not follow: {error.message}")
                complained = True
            await asyncio.sleep(rest)

    async def close(self) -> None:
        """Store what is in memory, if that can be done soon, and let go of the file and the connection."""
        with contextlib.suppress(BsfgError, TimeoutError, IndexDamaged, _HistoryChanged):
            async with asyncio.timeout(CLOSE_SECONDS), self._busy:
                await self._advance()
                while self._store_soon() and self._store_problem is None:
                    await self._stored()
        self._reader.close()
        if self._storing is not None:
            await asyncio.wait([self._storing])
        if self._file is not None:
            await self._in_thread(self._file.close)
            self._file = None

    async def _begun_anew(self, action: Callable[[], Awaitable[_Result]]) -> _Result:
        """The action's result; with a new index where the one that we have can't be believed."""
        for _ in range(BEGINNINGS_MAX):
            try:
                return await action()
            except (_HistoryChanged, IndexDamaged) as reason:
                self._report(self._stream, f"the index of message ids begins anew: {reason}")
                await self._throw_away()
        raise SubstrateUnavailable(f"the index of message ids of {self._stream} can't be made")

    async def _known(self, keys: Sequence[bytes]) -> dict[bytes, Entry]:
        await self._advance()
        assert self._file is not None
        found = {key: entry for key in keys if (entry := self._entries.get(key)) is not None}
        missing = [key for key in keys if key not in found]
        file = self._file
        return found | await self._in_thread(lambda: file.find(missing))

    async def _advance(self, pages_max: int | None = None) -> bool:
        """Go on to the end that the stream has now, or by so many pages; whether the end was reached."""
        self._raise_store_problem(IndexDamaged)
        noted = self._own.last
        log = await self._source.describe(self._stream)
        await self._open(log)
        self._target = log.last_sequence
        if log.last_sequence < max(noted, self._position.sequence):
            raise _HistoryChanged(f"the stream ends at sequence {log.last_sequence}, before it")
        is_checked, pages = False, 0
        while self._position.sequence < self._target and (pages_max is None or pages < pages_max):
            await self._bound_memory()
            if self._skip_own():
                is_checked = False
                continue
            if not is_checked:
                await self._check_anchor()
            await self._read(log)
            is_checked, pages = True, pages + 1
        await self._bound_memory()
        if not is_checked:
            await self._check_anchor()
        return self._position.sequence >= self._target

    def _skip_own(self) -> bool:
        """Go over a stretch that we appended, if one begins here that is worth it."""
        here = self._position.sequence + 1
        own = self._own.from_sequence(here)
        if own is None or (own.last - here < OWN_SKIP_MIN and own.last < self._target):
            return False
        self._position = Position(own.last, own.last, 0, own.anchor)
        return True

    async def _read(self, log: LogDescription) -> None:
        found = await self._reader.read(self._position.sequence, PAGE)
        if found.facts and self._reader.created != log.created:
            raise _HistoryChanged("the stream was made again")
        self._take(found.facts)
        reached = max(found.scanned_through, self._position.sequence)
        if not found.facts:
            # Nothing is left up to the end that was known before; the reader's own look may be older than ours.
            reached = max(reached, self._target)
        anchor = self._position[1:]
        if found.facts:
            last = found.facts[-1]
            anchor = (last.sequence, last.time, _anchor(last))
        self._position = Position(reached, *anchor)

    def _take(self, facts: Sequence[Fact]) -> None:
        """The ids of facts that were read; where we appended one ourselves, it must be that one."""
        claimed = {}
        if self._own.last > self._position.sequence:
            claimed = {entry.sequence: (key, entry.content) for key, entry in self._entries.items()}
        for fact in facts:
            key, content = b"", b""
            if b"Nats-Msg-Id: " in fact.headers:
                message_id, others = split_message_id(fact.headers)
                if message_id:
                    key, content = key_of(message_id), content_of(fact.subject, others, fact.payload)
                    self._entries.setdefault(key, Entry(fact.sequence, content))
            if claimed and claimed.get(fact.sequence, (key, content)) != (key, content):
                raise _HistoryChanged(f"the fact at sequence {fact.sequence} is not the one that was stored there")

    async def _check_anchor(self) -> None:
        """The last fact that the index knows is still the one that the stream holds there, if it holds one."""
        reached, sequence, stored_at, expected = self._position
        fact = await self._source.fact_at(self._stream, sequence) if sequence else None
        if fact is None:
            return
        if (stored_at != fact.time) if stored_at else (_anchor(fact) != expected):
            raise _HistoryChanged(f"the fact at sequence {sequence} is another one")
        self._position = Position(reached, sequence, fact.time, expected)

    # -- the file

    async def _open(self, log: LogDescription) -> None:
        history = History(self._stream, log.epoch, log.created)
        if self._file is not None and self._file.history == history:
            return
        if self._file is not None:
            await self._throw_away()
        file = await self._in_thread(lambda: IndexFile.open(self._folder, history))
        if file.position.sequence == 0 and log.messages:
            self._report(self._stream, f"an index of message ids is built from {log.messages} facts")
        self._file, self._position = file, file.position

    async def _throw_away(self) -> None:
        """Forget the index, on disk too."""
        await self._stored()
        self._store_problem = None
        file, self._file = self._file, None
        self.generation += 1
        self._entries.clear()
        self._own.clear()
        self._position = Position()
        paths = index_files(self._folder, self._stream) if file is None else [file.path]
        if file is not None:
            await self._in_thread(file.close)
        for path in paths:
            await self._in_thread(lambda path=path: remove_index(path))  # type: ignore[misc]

    async def _bound_memory(self) -> None:
        """Store what has gathered; wait for it where that is too much."""
        if len(self._entries) < STORE_ENTRIES:
            return
        self._store_soon()
        while len(self._entries) >= ENTRIES_MAX and self._storing is not None:
            await self._stored()
            self._raise_store_problem(Exception)
            self._store_soon()

    def _store_soon(self) -> bool:
        """Begin to store what the index has reached, for what lies beyond may not stay; whether there is anything."""
        if self._storing is not None:
            return True
        file, position = self._file, self._position
        if file is None:
            return False
        ready = {key: entry for key, entry in self._entries.items() if entry.sequence <= position.sequence}
        if not ready and position == file.position:
            return False
        self._storing = asyncio.create_task(self._store(file, ready, position))
        return True

    async def _store(self, file: IndexFile, ready: Mapping[bytes, Entry], position: Position) -> None:
        try:
            await self._in_thread(lambda: file.store(ready.items(), position))
            for key in ready:
                self._entries.pop(key, None)
        except (BsfgError, IndexDamaged) as error:
            self._store_problem = error
        finally:
            self._storing = None

    async def _stored(self) -> None:
        """What is being stored is stored, or there is a problem with it."""
        if self._storing is not None:
            await asyncio.wait([self._storing])

    def _raise_store_problem(self, kind: type[Exception]) -> None:
        problem = self._store_problem
        if isinstance(problem, kind):
            self._store_problem = None
            raise problem

    async def _in_thread(self, action: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, action)


def _anchor(fact: Fact) -> bytes:
    return anchor_of(fact.subject, fact.headers, fact.payload)


class MessageIndexes:
    """The indexes of a zone's local streams, in one folder; a stream has one from its first fact with an id on."""

    def __init__(self, folder: Path, source: ExportedLog, connect: Connect, report: Report) -> None:
        self._folder = folder
        self._source = source
        self._connect = connect
        self._report = report
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="message-index")
        self._indexes: dict[StreamName, StreamIndex] = {}
        self._following: list[asyncio.Task[None]] = []

    def start(self, streams: Iterable[StreamName]) -> None:
        """Follow those streams that have an index."""
        for stream in streams:
            if index_files(self._folder, stream):
                self.of(stream)

    def existing(self, stream: StreamName) -> StreamIndex | None:
        """The stream's index, if it has one."""
        return self._indexes.get(stream)

    def of(self, stream: StreamName) -> StreamIndex:
        """The stream's index; it is begun if there was none, and followed from now on."""
        index = self._indexes.get(stream)
        if index is None:
            index = StreamIndex(stream, self._source, self._connect, self._folder, self._pool, self._report)
            self._indexes[stream] = index
            self._following.append(asyncio.create_task(index.follow(), name=f"index of {stream}"))
        return index

    async def close(self) -> None:
        """Stop following; what is in memory is stored, as far as that can be done soon."""
        await end_tasks(*self._following)
        for index in self._indexes.values():
            await index.close()
        self._indexes.clear()
        self._pool.shutdown(wait=False)


__all__ = ["LEVEL_SECONDS_MAX", "MessageIndexes", "StreamIndex", "index_path"]
