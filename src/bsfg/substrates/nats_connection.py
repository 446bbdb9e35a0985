"""One connection to a NATS server for the data path: frames in, buffers out, and no reconnect inside.

Whatever breaks the connection closes it for good and fails every waiter with ``SubstrateUnavailable``; its owner makes
a new one and reads back where it is. A client library that hides reconnects would hide what was lost in them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import ssl
from collections.abc import Callable
from typing import Any, Final

from bsfg.errors import BsfgError, SubstrateUnavailable
from bsfg.substrates.nats_frames import (
    Frame,
    FrameError,
    FrameParser,
    Messages,
    Operation,
    encode_publish,
    status_of,
)
from bsfg.substrates.nats_target import Address, NatsTarget, authentication, parse_url
from bsfg.substrates.server_version import demand_accepted

__all__ = ["NatsConnection", "NatsTarget"]

CONNECT_SECONDS: Final = 3.0
REQUEST_SECONDS: Final = 5.0
DRAIN_SECONDS: Final = 5.0
KEEPALIVE_SECONDS: Final = 30.0
PONG_SECONDS: Final = 10.0
READ_BYTES: Final = 1024 * 1024
WRITE_BUFFER_BYTES: Final = 256 * 1024
WAITERS_MAX: Final = 10_000
NO_RESPONDERS: Final = 503
_INBOX_RANDOM_BYTES: Final = 12

MessageHandler = Callable[[Messages], None]


class NatsConnection(asyncio.Protocol):
    """A connected, authenticated client; made by :meth:`connect`, of no use once ``closed`` is done."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.server_info: dict[str, Any] = {}
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when the connection is of no more use; its result says why, and it never has an exception."""
        self._transport: asyncio.Transport | None = None
        self._parser = FrameParser()
        self._handlers: dict[int, MessageHandler] = {}
        self._next_sid = 1
        self._inbox = f"_INBOX.{secrets.token_hex(_INBOX_RANDOM_BYTES)}."
        self._questions: dict[bytes, asyncio.Future[Frame]] = {}
        self._next_question = 1
        self._waiters: set[asyncio.Future[Any]] = set()
        self._writable = asyncio.Event()
        self._writable.set()
        self._greeted = self.waiter()
        self._pongs: list[asyncio.Future[Any]] = []
        self._keepalive: asyncio.TimerHandle | None = None

    # -- opening and closing

    @classmethod
    async def connect(
        cls, target: NatsTarget, *, name: str, timeout_seconds: float = CONNECT_SECONDS
    ) -> NatsConnection:
        """The first of the target's servers that takes us, each given ``timeout_seconds``.

        Raises ``SubstrateUnavailable`` naming what each server said, ``configuration`` for credentials or addresses
        that can't be read.
        """
        failures: list[str] = []
        for url in target.urls:
            address = parse_url(url)
            place = f"{address.host}:{address.port}"
            try:
                async with asyncio.timeout(timeout_seconds):
                    return await cls._open(address, target, name)
            except TimeoutError:
                failures.append(f"{place}: no answer within {timeout_seconds:g} s")
            except SubstrateUnavailable as error:
                failures.append(error.message)
            except (OSError, ssl.SSLError) as error:
                failures.append(f"{place}: {_reason(error)}")
        raise SubstrateUnavailable(
            "connecting to NATS failed: " + ("; ".join(failures) or "no address is configured"),
            hint="is nats-server up, and do substrate's address, credentials and TLS in zone.yaml fit it?",
        )

    @classmethod
    async def _open(cls, address: Address, target: NatsTarget, name: str) -> NatsConnection:
        connection = cls(f"{address.host}:{address.port}")
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: connection, address.host, address.port)
        try:
            await connection._greeted
            demand_accepted(str(connection.server_info.get("version", "")))
            secured = await connection._secure(address, target)
            await connection._introduce(target, name, secured)
        except BaseException:
            connection.abort("the handshake did not finish")
            raise
        connection._schedule_keepalive()
        return connection

    async def _secure(self, address: Address, target: NatsTarget) -> bool:
        """Go over to TLS if we or the server want it; never go on without it if we do."""
        required = bool(self.server_info.get("tls_required"))
        if not (required or address.wants_tls or target.tls is not None):
            return False
        if not (required or self.server_info.get("tls_available")):
            raise SubstrateUnavailable(f"{self.server}: TLS is configured, but the server does not offer it")
        if not self._parser.is_empty:
            raise SubstrateUnavailable(f"{self.server}: the server sent bytes before the TLS handshake")
        context = target.tls or ssl.create_default_context()
        assert self._transport is not None
        upgraded = await asyncio.get_running_loop().start_tls(
            self._transport, self, context, server_hostname=address.host
        )
        if upgraded is None or self.closed.done():
            raise self._unavailable()
        self._adopt(upgraded)
        return True

    def _introduce(self, target: NatsTarget, name: str, secured: bool) -> asyncio.Future[Any]:
        """Say who we are; the future is done when the server has taken it."""
        options = {
            "verbose": False,
            "pedantic": False,
            "tls_required": secured,
            "name": name,
            "lang": "bsfg",
            "version": "1",
            "protocol": 1,
            "echo": False,
            "headers": True,
            "no_responders": True,
        } | authentication(target, self.server_info.get("nonce"))
        self._handlers[0] = self._answered
        # In one write: a server that refuses us closes, and a write after that would hide what it said.
        hello = b"CONNECT %b\r\nSUB %b* 0\r\n" % (json.dumps(options).encode(), self._inbox.encode())
        return self._ping(hello)

    @property
    def is_closed(self) -> bool:
        return self.closed.done()

    def close(self) -> None:
        """Close after what was written has been sent; every waiter fails."""
        if self._transport is not None and not self.is_closed:
            self._transport.close()
        self._fail("closed by us")

    def abort(self, reason: str) -> None:
        """Close at once, dropping what was not sent yet; every waiter fails."""
        self._fail(reason)

    # -- asking and listening

    def ask(self, nats_subject: str, payload: bytes = b"", *, headers: bytes = b"") -> asyncio.Future[Frame]:
        """Send a request now and return the future of its answer; the caller bounds the wait and cancels it."""
        answer: asyncio.Future[Frame] = self.waiter()
        token = b"%d" % self._next_question
        self._next_question += 1
        self._questions[token] = answer
        answer.add_done_callback(lambda _: self._questions.pop(token, None))
        reply = self._inbox.encode() + token
        try:
            self.write(encode_publish(nats_subject.encode(), reply, headers, payload))
        except BsfgError:
            answer.cancel()
            raise
        return answer

    async def request(
        self,
        nats_subject: str,
        payload: bytes = b"",
        *,
        headers: bytes = b"",
        timeout_seconds: float = REQUEST_SECONDS,
    ) -> Frame:
        """The answer to one request.

        Raises ``SubstrateUnavailable`` when nobody listens on the subject, nobody answers in time, or the connection
        breaks.
        """
        return await self.answer(
            self.ask(nats_subject, payload, headers=headers), nats_subject, timeout_seconds
        )

    async def answer(
        self, asked: asyncio.Future[Frame], nats_subject: str, timeout_seconds: float = REQUEST_SECONDS
    ) -> Frame:
        """The answer to what :meth:`ask` sent, with the same errors as :meth:`request`."""
        try:
            async with asyncio.timeout(timeout_seconds):
                frame = await asked
        except TimeoutError:
            raise SubstrateUnavailable(
                f"{self.server}: no answer to {nats_subject} within {timeout_seconds:g} s"
            ) from None
        if (status := status_of(frame)) is not None and status[0] == NO_RESPONDERS:
            raise SubstrateUnavailable(
                f"{self.server}: nobody listens on {nats_subject}", hint="is JetStream enabled and ready?"
            )
        return frame

    def subscribe(self, nats_subject: str, handler: MessageHandler) -> int:
        """Hand the messages of a subject to the handler, once for each chunk that was received; returns its id."""
        sid = self._next_sid
        self._next_sid += 1
        self._handlers[sid] = handler
        self.write(b"SUB %b %d\r\n" % (nats_subject.encode(), sid))
        return sid

    def unsubscribe(self, sid: int) -> None:
        """No message reaches the subscription's handler any more; does nothing on a closed connection."""
        if self._handlers.pop(sid, None) is not None and not self.is_closed:
            self.write(b"UNSUB %d\r\n" % sid)

    def new_inbox(self) -> str:
        """A fresh subject prefix that nobody else uses, ending with a dot; below it the owner subscribes."""
        return f"_INBOX.{secrets.token_hex(_INBOX_RANDOM_BYTES)}."

    def write(self, buffer: bytes) -> None:
        """Queue whole protocol frames for sending; ``SubstrateUnavailable`` on a closed connection."""
        if self.is_closed or self._transport is None:
            raise self._unavailable()
        self._transport.write(buffer)

    async def drain(self, timeout_seconds: float = DRAIN_SECONDS) -> None:
        """Wait until the send buffer has room again; a server that takes nothing in time ends the connection."""
        if not self._writable.is_set():
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._writable.wait()
            except TimeoutError:
                self._fail(f"the server took nothing for {timeout_seconds:g} s")
        if self.is_closed:
            raise self._unavailable()

    def waiter(self) -> asyncio.Future[Any]:
        """A future that fails with ``SubstrateUnavailable`` when the connection ends before it is done."""
        if self.is_closed or len(self._waiters) >= WAITERS_MAX:
            raise self._unavailable()
        future = asyncio.get_running_loop().create_future()
        self._waiters.add(future)
        future.add_done_callback(self._forget)
        return future

    # -- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._adopt(transport)

    def data_received(self, chunk: bytes) -> None:
        if self.is_closed:
            return
        try:
            runs, operations = self._parser.feed(chunk)
            for sid, messages in runs:
                handler = self._handlers.get(sid)
                if handler is not None:
                    handler(messages)
            for operation in operations:
                self._operate(operation)
        except BsfgError as error:
            self._fail(error.message)
        except FrameError as error:
            self._fail(f"the server broke the protocol: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(_reason(error) if error else "the server closed the connection")

    def eof_received(self) -> None:
        """The transport closes itself after this."""

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # -- inside

    def _adopt(self, transport: asyncio.Transport) -> None:
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        if hasattr(transport, "max_size"):
            # What comes at once is taken apart at once; asyncio by itself reads a quarter of this.
            transport.max_size = READ_BYTES
        self._transport = transport

    def _operate(self, operation: Operation) -> None:
        if operation.name == b"PING":
            self.write(b"PONG\r\n")
        elif operation.name == b"PONG":
            if self._pongs and not (pong := self._pongs.pop(0)).done():
                pong.set_result(None)
        elif operation.name == b"INFO":
            self._informed(operation.argument)
        elif operation.name == b"-ERR":
            complaint = operation.argument.decode("ascii", "backslashreplace")
            self._fail(f"the server refused us: {complaint}")

    def _informed(self, argument: bytes) -> None:
        try:
            server_info = json.loads(argument)
        except ValueError:
            raise FrameError("an INFO line that is not JSON") from None
        if not isinstance(server_info, dict):
            raise FrameError("an INFO line that is not a JSON object")
        self.server_info |= server_info
        if not self._greeted.done():
            self._greeted.set_result(None)

    def _answered(self, messages: Messages) -> None:
        for frame in messages:
            answer = self._questions.get(frame.subject[len(self._inbox) :])
            if answer is not None and not answer.done():
                answer.set_result(frame)

    def _ping(self, hello: bytes = b"") -> asyncio.Future[Any]:
        pong = self.waiter()
        self._pongs.append(pong)
        self.write(hello + b"PING\r\n")
        return pong

    def _schedule_keepalive(self) -> None:
        if not self.is_closed:
            self._keepalive = asyncio.get_running_loop().call_later(KEEPALIVE_SECONDS, self._keep_alive)

    def _keep_alive(self) -> None:
        pong = self._ping()
        pong.add_done_callback(lambda _: self._pong_came())
        self._keepalive = asyncio.get_running_loop().call_later(
            PONG_SECONDS, self._fail, f"the server was silent for {PONG_SECONDS:g} s"
        )

    def _pong_came(self) -> None:
        if self._keepalive is not None:
            self._keepalive.cancel()
        self._schedule_keepalive()

    def _forget(self, future: asyncio.Future[Any]) -> None:
        self._waiters.discard(future)
        if not future.cancelled():
            # Looked at, so that the loop does not complain of a failure that nobody waited for.
            future.exception()

    def _fail(self, reason: str) -> None:
        if self.is_closed:
            return
        self.closed.set_result(reason)
        if self._keepalive is not None:
            self._keepalive.cancel()
        if self._transport is not None and not self._transport.is_closing():
            with contextlib.suppress(OSError):
                self._transport.abort()
        self._handlers.clear()
        self._writable.set()
        for future in list(self._waiters):
            if not future.done():
                future.set_exception(self._unavailable())

    def _unavailable(self) -> SubstrateUnavailable:
        reason = self.closed.result() if self.is_closed else "it is not connected, or too much waits on it"
        return SubstrateUnavailable(f"{self.server}: {reason}", hint="is nats-server up?")


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
