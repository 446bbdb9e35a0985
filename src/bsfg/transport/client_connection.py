"""One peer's connections for asking: mutual TLS under the trust in force, every step bounded in time and bytes.

A change of trust or of the peer's standing closes what is open at once and asks again under the new one, so that a
reload acts on held polls too (I34). Requests are safe to repeat: a fetch changes nothing, a confirm twice is once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar

import aiohttp
from yarl import URL

from bsfg.errors import BsfgError, PeerUnreachable
from bsfg.model.identity import IdentityRule
from bsfg.model.names import ZoneId
from bsfg.ports import Clock
from bsfg.transport.access import Access, AccessSnapshot
from bsfg.transport.client_errors import EXCHANGE_ERRORS, failure
from bsfg.transport.frame_reader import FrameReader, Framing
from bsfg.transport.page_check import bad_answer
from bsfg.transport.plain_connection import Deadlines, PlainAnswer
from bsfg.transport.plain_connections import CONNECTIONS_MAX, IDLE_SECONDS, PlainConnections
from bsfg.transport.question import (
    ERROR_BYTES_MAX,
    IDENTITY,
    Answer,
    Question,
    bytes_max_of,
    check_head,
    encoding_of,
    headers_of,
    read_answer,
    request_bytes,
)
from bsfg.transport.resolver import NameResolver
from bsfg.transport.trust import TrustStore, server_name

READ_BUFFER_BYTES: Final = 1024 * 1024
TRUST_CHANGES_MAX: Final = 5
HEADERS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class PeerEndpoint:
    """Whom we dial, and where."""

    peer: ZoneId
    rule: IdentityRule
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """How long each step of one exchange may take."""

    connect_seconds: float = 3.0
    """Name, TCP and TLS together."""
    silence_seconds: float = 4.0
    """Beyond the wait that was asked for."""
    answer_seconds: float = 30.0
    """From the first byte of the answer, at the latest, to its last."""


_Part = TypeVar("_Part")


class Await(Protocol):
    """Awaits a part of an answer for as long as the peer is trusted; see :meth:`PeerConnection.answering`."""

    async def __call__(self, coming: Coroutine[Any, Any, _Part | None], /) -> _Part | None: ...


NextPart = Callable[[aiohttp.StreamReader, str], Coroutine[Any, Any, bytes | None]]
"""The next part of a body in this encoding."""


@dataclass(frozen=True, slots=True)
class _Pool:
    trust: TrustStore
    session: aiohttp.ClientSession
    plain: PlainConnections

    async def close(self) -> None:
        self.plain.close()
        await self.session.close()


class _WhileHolding:
    """What is awaited in the block is broken off, and the block left, once what was to hold does so no more.

    Only changes within the block are noticed: whoever enters it has seen that it holds. A class, as it is entered at
    each poll.
    """

    __slots__ = ("_access", "_cancelling", "_holds", "_is_broken_off", "_task")

    def __init__(self, access: Access, holds: Callable[[], bool]) -> None:
        self._access = access
        self._holds = holds
        self._is_broken_off = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        self._access.watch(self._look)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._access.unwatch(self._look)
        if not self._is_broken_off:
            return False
        is_ours = self._task.uncancel() <= self._cancelling
        return is_ours and kind is asyncio.CancelledError

    def _look(self) -> None:
        if not self._is_broken_off and not self._holds():
            self._is_broken_off = True
            self._task.cancel()


class PeerConnection:
    """Asks one peer. Safe for concurrent use; ``close`` it in the end."""

    def __init__(
        self,
        endpoint: PeerEndpoint,
        access: Access,
        clock: Clock,
        limits: ClientLimits | None = None,
        resolver: NameResolver | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._access = access
        self._clock = clock
        self._resolver = resolver or NameResolver(clock)
        self._limits = limits or ClientLimits()
        self._server_name = server_name(endpoint.rule)
        self._pool: _Pool | None = None
        self._urls: dict[str, URL] = {}
        """By path; there are few."""

    async def ask(self, question: Question) -> Answer:
        """The peer's answer. Raises as :class:`bsfg.ports.PeerClient` says, and ``peer_unknown`` or ``partitioned``
        of our own when this peer is not to be dialled now."""
        for _ in range(TRUST_CHANGES_MAX):
            snapshot = self._access.current
            snapshot.demand(self._endpoint.peer, None, self._clock.now())
            pool = await self._pool_under(snapshot)
            answer = await self._ask_while_trusted(pool, snapshot, question)
            if answer is not None:
                return answer
        raise PeerUnreachable(
            f"peer {self._endpoint.peer} was not asked: the configuration keeps changing", reason="reloading"
        )

    async def parts(
        self,
        question: Question,
        framing: Framing,
        next_part: NextPart,
        read: Callable[[bytes | memoryview], _Part],
    ) -> AsyncGenerator[Answer | _Part, None]:
        """What is read in the parts of one long answer as they come, framed as they say or cut by ``next_part``.

        What is no success is one ``Answer``, whole. The answer is read no faster than parts are taken, and a part is
        not kept beside what was read in it. It ends with ``PeerUnreachable`` where trust or the peer's standing change
        meanwhile.
        """
        snapshot = self._access.current
        snapshot.demand(self._endpoint.peer, None, self._clock.now())
        pool = await self._pool_under(snapshot)
        began = self._clock.monotonic()
        try:
            async with self._plain_frames(pool, question, framing) as answer:
                if isinstance(answer, FrameReader):
                    bytes_max_of(answer.head.status, answer.head.content_type, IDENTITY, question)
                    while (part := await self._read_part(pool, answer.frame(), read)) is not None:
                        yield part
                elif answer is not None:
                    yield _whole(answer, question)
                if answer is not None:
                    return
            async with self._request(pool, question, total_seconds=None) as response:
                if response.status != 200:
                    yield await read_answer(response, question)
                    return
                check_head(response, question)
                cut = partial(next_part, response.content, encoding_of(response))
                while (part := await self._read_part(pool, cut(), read)) is not None:
                    yield part
            pool.plain.is_proved = True
        except EXCHANGE_ERRORS as error:
            raise self._failure(error, began) from error

    async def _read_part(
        self,
        pool: _Pool,
        coming: Coroutine[Any, Any, bytes | memoryview | None],
        read: Callable[[bytes | memoryview], _Part],
    ) -> _Part | None:
        frame: bytes | memoryview | None = await self._part_while_trusted(pool, coming)
        return None if frame is None else read(frame)

    def _plain_frames(
        self, pool: _Pool, question: Question, framing: Framing
    ) -> AbstractAsyncContextManager[PlainAnswer | FrameReader | None]:
        if question.encoding != IDENTITY:
            return nullcontext()
        request = request_bytes(question, str(self._endpoint))
        return pool.plain.frames(request, framing, ERROR_BYTES_MAX, self._deadlines(question))

    async def _part_while_trusted(
        self, pool: _Pool, coming: Coroutine[Any, Any, _Part | None]
    ) -> _Part | None:
        part = None
        if self._holds(pool, self._access.current):
            with self._while_holding(pool):
                async with asyncio.timeout(self._limits.answer_seconds):
                    part = await coming
        else:
            coming.close()
        if not self._holds(pool, self._access.current):
            raise PeerUnreachable(
                f"the answer of peer {self._endpoint.peer} was given up: the configuration has changed",
                reason="reloading",
            )
        return part

    @asynccontextmanager
    async def answering(self, question: Question) -> AsyncIterator[tuple[aiohttp.ClientResponse, Await]]:
        """The head of an answer of any length, and how to await what follows it.

        What is awaited so ends with ``PeerUnreachable`` where trust or the peer's standing change meanwhile, or where
        it takes longer than ``answer_seconds``.
        """
        snapshot = self._access.current
        snapshot.demand(self._endpoint.peer, None, self._clock.now())
        pool = await self._pool_under(snapshot)
        began = self._clock.monotonic()
        try:
            async with self._request(pool, question, total_seconds=None) as response:
                yield response, partial(self._part_while_trusted, pool)
        except EXCHANGE_ERRORS as error:
            raise self._failure(error, began) from error

    async def close(self) -> None:
        """Nothing of it stays open."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def _pool_under(self, snapshot: AccessSnapshot) -> _Pool:
        before = self._pool
        if before is not None and before.trust is snapshot.trust:
            return before
        context = snapshot.trust.client_context(self._endpoint.peer)
        connector = aiohttp.TCPConnector(
            ssl=context,
            limit=CONNECTIONS_MAX,
            keepalive_timeout=IDLE_SECONDS,
            resolver=self._resolver,
            use_dns_cache=False,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": IDENTITY},
            skip_auto_headers=("User-Agent",),
            trust_env=False,
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
            max_headers=HEADERS_MAX,
        )
        endpoint = self._endpoint
        plain = PlainConnections(endpoint.host, endpoint.port, context, self._server_name, self._resolver)
        pool = self._pool = _Pool(snapshot.trust, session, plain)
        if before is not None:
            await before.close()
        return pool

    async def _ask_while_trusted(
        self, pool: _Pool, snapshot: AccessSnapshot, question: Question
    ) -> Answer | None:
        """The answer; None if trust or the peer's standing changed before it was whole."""
        if not self._holds_still(pool, snapshot):
            return None
        answer = None
        with self._while_holding(pool):
            try:
                answer = await self._exchange(pool, question)
            except BsfgError:
                if self._holds_still(pool, snapshot):
                    raise
        return answer if self._holds_still(pool, snapshot) else None

    def _while_holding(self, pool: _Pool) -> _WhileHolding:
        return _WhileHolding(self._access, lambda: self._holds(pool, self._access.current))

    def _holds_still(self, pool: _Pool, allowed: AccessSnapshot) -> bool:
        """Whether the pool holds, which the given snapshot said: in one snapshot partitions end and none begins."""
        return self._access.current is allowed or self._holds(pool, self._access.current)

    def _holds(self, pool: _Pool, snapshot: AccessSnapshot) -> bool:
        try:
            snapshot.demand(self._endpoint.peer, None, self._clock.now())
        except BsfgError:
            return False
        return snapshot.trust is pool.trust

    async def _exchange(self, pool: _Pool, question: Question) -> Answer:
        deadlines = self._deadlines(question)
        total = deadlines.connect + deadlines.silence + deadlines.answer
        began = self._clock.monotonic()
        try:
            if question.wait_seconds > 0 and (held := await self._ask_plain(pool.plain, question)):
                return held
            async with self._request(pool, question, total_seconds=total) as response:
                answer = await read_answer(response, question)
        except EXCHANGE_ERRORS as error:
            raise self._failure(error, began) from error
        pool.plain.is_proved = True
        return answer

    async def _ask_plain(self, connections: PlainConnections, question: Question) -> Answer | None:
        """The answer to a question that the peer may hold; None where it has to go the ordinary way."""
        request, bytes_max = request_bytes(question, str(self._endpoint)), max(question.accepts.values())
        came = await connections.ask(request, bytes_max, self._deadlines(question))
        return None if came is None else _whole(came, question)

    def _deadlines(self, question: Question) -> Deadlines:
        limits = self._limits
        return Deadlines(
            limits.connect_seconds, question.wait_seconds + limits.silence_seconds, limits.answer_seconds
        )

    def _failure(self, error: BaseException, began: float) -> BsfgError:
        """What went wrong, and how old the address is that we had of the peer's name."""
        waited = self._clock.monotonic() - began
        told = failure(error, self._endpoint.peer, str(self._endpoint), waited)
        age = self._resolver.age_seconds(self._endpoint.host)
        if age is not None:
            told.details["address_age_seconds"] = round(age, 1)
        return told

    def _request(
        self, pool: _Pool, question: Question, *, total_seconds: float | None
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return pool.session.request(
            question.method,
            self._url(question),
            data=question.body,
            headers=headers_of(question),
            allow_redirects=False,
            server_hostname=self._server_name,
            timeout=aiohttp.ClientTimeout(
                total=total_seconds,
                connect=self._limits.connect_seconds,
                sock_connect=self._limits.connect_seconds,
                sock_read=question.wait_seconds + self._limits.silence_seconds,
            ),
        )


    def _url(self, question: Question) -> URL:
        base = self._urls.get(question.path)
        if base is None:
            endpoint = self._endpoint
            base = URL.build(scheme="https", host=endpoint.host, port=endpoint.port, path=question.path)
            self._urls[question.path] = base
        return base.with_query(question.query) if question.query else base


def _whole(came: PlainAnswer, question: Question) -> Answer:
    head, encoding = came.head, came.head.encoding or IDENTITY
    bytes_max = bytes_max_of(head.status, head.content_type, encoding, question)
    if len(came.body) > bytes_max:
        raise bad_answer(f"it has {len(came.body)} bytes, more than {bytes_max}")
    return Answer(head.status, head.content_type, head.retry_after or None, came.body, encoding)
