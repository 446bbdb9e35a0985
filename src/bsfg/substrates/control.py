"""The control connection to NATS: one nats-py client, with a deadline on every call and errors of ``bsfg.errors``.

Facts travel over the raw connections of the page reader and the page writer; everything else goes through here.
The client's own reconnect is switched off: it would send, after an outage, what its caller has been told was lost,
and it gives up for good on the first ``-ERR``. A keeper task connects anew, forever, with a capped, jittered wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable, Mapping
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.substrates.jetstream_answers import refusal
from bsfg.substrates.nats_target import NatsTarget, parse_url
from bsfg.substrates.server_version import demand_accepted, takes_batches

CALL_TIMEOUT_SECONDS: Final = 5.0
CONNECT_TIMEOUT_SECONDS: Final = 3
CALLS_IN_FLIGHT_MAX: Final = 64
PING_SECONDS: Final = 5
PINGS_UNANSWERED_MAX: Final = 2
WAIT_FIRST_SECONDS: Final = 0.1
WAIT_CAP_SECONDS: Final = 2.0
CLOSE_TIMEOUT_SECONDS: Final = 2.0

Report = Callable[[str], None]


def _no_report(text: str) -> None:
    """Nobody listens."""


class Control:
    """The connection for control: JetStream's JSON API and single requests. Safe for concurrent use.

    ``report`` is told, in one line each, what goes wrong with the connection itself; no credential is ever in it.
    """

    def __init__(self, target: NatsTarget, *, name: str, report: Report = _no_report) -> None:
        self._target = target
        self._name = name
        self._report = report
        self._client: Client | None = None
        self._lost: asyncio.Future[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._up = asyncio.Event()
        self._calls = asyncio.Semaphore(CALLS_IN_FLIGHT_MAX)
        self._problem = "not connected yet"
        self.connections = 0
        """How many connections there have been; each may be to another server."""

    @classmethod
    async def open(
        cls, target: NatsTarget, *, name: str, report: Report = _no_report, timeout_seconds: float = 10.0
    ) -> Control:
        """A connected control; ``SubstrateUnavailable`` if NATS can't be reached within the time."""
        control = cls(target, name=name, report=report)
        control.start()
        try:
            await control.wait_connected(timeout_seconds)
        except BaseException:
            await control.close()
            raise
        return control

    def start(self) -> None:
        """Begin to connect, in the background and for good; a second call changes nothing."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name=f"nats control {self._name}")

    async def close(self) -> None:
        """Stop connecting and close the connection; calls under way fail as unavailable."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper

    @property
    def connected(self) -> bool:
        """Whether the connection is up now, as far as the socket and the last ping tell."""
        return self._client is not None and bool(self._client.is_connected)

    @property
    def problem(self) -> str | None:
        """Why there is no connection; None while there is one."""
        return None if self.connected else self._problem

    @property
    def server_version(self) -> str | None:
        """The version of the server we are connected to, for example ``2.15.1``; None while there is none."""
        if self._client is None or not self.connected:
            return None
        found = self._client.connected_server_version
        return f"{found.major}.{found.minor}.{found.patch}"

    @property
    def server_id(self) -> str | None:
        """Which server we are connected to, by the id that it gave itself when it started; None while there is none."""
        if self._client is None or not self.connected:
            return None
        return str(self._client._server_info.get("server_id", ""))

    @property
    def has_batches(self) -> bool:
        """Whether the server we are connected to takes atomic batches; False while there is none."""
        return takes_batches(self.server_version or "")

    async def wait_connected(self, timeout_seconds: float) -> None:
        """Return when connected; ``SubstrateUnavailable`` after the time."""
        try:
            await asyncio.wait_for(self._up.wait(), timeout_seconds)
        except TimeoutError:
            raise self._unavailable("connect") from None

    async def api(
        self, verb: str, body: Mapping[str, Any] | None = None, *, timeout_seconds: float = CALL_TIMEOUT_SECONDS
    ) -> dict[str, Any]:
        """One request of JetStream's JSON API, for example ``STREAM.INFO.facts_operational``.

        Raises the error of ``bsfg.errors`` that a refusal means (``NOT_FOUND``, ``StoreFull``, ``Fenced`` …), and
        ``SubstrateUnavailable`` when there is no answer: then a change may or may not have been made.
        """
        payload = b"" if body is None else json.dumps(body).encode()
        message = await self.request(f"$JS.API.{verb}", payload, timeout_seconds=timeout_seconds)
        return answer_of(verb, message.data)

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = CALL_TIMEOUT_SECONDS,
    ) -> Msg:
        """One request and its answer, whatever that says; ``SubstrateUnavailable`` if there is none in time."""
        client, lost = self._client, self._lost
        if client is None or lost is None or not client.is_connected:
            raise self._unavailable(subject)
        try:
            async with asyncio.timeout(timeout_seconds), self._calls:
                sent = dict(headers) if headers else None
                return await _unless(lost, client.request(subject, payload, timeout_seconds, headers=sent))
        except nats.errors.MaxPayloadError:
            raise BsfgError(
                Code.TOO_LARGE, f"NATS request {subject}: {len(payload)} bytes are more than the server takes"
            ) from None
        except nats.errors.NoRespondersError:
            raise SubstrateUnavailable(
                f"NATS request {subject}: nobody answers it",
                hint="is JetStream enabled on that server, and does its stream exist?",
                no_responders=True,
            ) from None
        except TimeoutError:
            raise SubstrateUnavailable(
                f"NATS request {subject}: no answer within {timeout_seconds:g} s"
            ) from None
        except (nats.errors.Error, OSError) as error:
            raise SubstrateUnavailable(f"NATS request {subject}: {error}") from None

    def _unavailable(self, operation: str) -> SubstrateUnavailable:
        return SubstrateUnavailable(
            f"NATS request {operation}: no connection to {', '.join(self._target.urls)}: {self._problem}",
            hint="is nats-server running, and do address and credentials fit?",
        )

    async def _keep(self) -> None:
        wait_seconds, turn = WAIT_FIRST_SECONDS, 0
        while True:
            url = self._target.urls[turn % len(self._target.urls)]
            turn += 1
            if await self._hold_one(url):
                wait_seconds = WAIT_FIRST_SECONDS
            _heed_cancellation()
            self._report(f"NATS {url}: {self._problem}")
            await asyncio.sleep(wait_seconds * random.uniform(0.5, 1.0))
            wait_seconds = min(WAIT_CAP_SECONDS, wait_seconds * 2)

    async def _hold_one(self, url: str) -> bool:
        """Connect and stay until the connection is lost; whether there was one at all."""
        client, lost = Client(), asyncio.get_running_loop().create_future()
        try:
            await self._connect(client, url, lost)
            _heed_cancellation()
            self._client, self._lost = client, lost
            self.connections += 1
            self._up.set()
            # Where the client's own closing fails half way, it calls back to nobody; but its reading always ends.
            assert client._reading_task is not None
            await asyncio.wait({lost, client._reading_task}, return_when=asyncio.FIRST_COMPLETED)
        except Exception as error:  # Whatever hinders one attempt, the next one comes: nobody else would make it.
            self._problem = _one_line(error)
            return False
        finally:
            self._up.clear()
            self._client = self._lost = None
            if not lost.done():
                lost.set_result(None)
            await _close_quietly(client)
        return True

    async def _connect(self, client: Client, url: str, lost: asyncio.Future[None]) -> None:
        async def on_error(error: Exception) -> None:
            self._problem = _one_line(error)

        async def on_closed() -> None:
            if not lost.done():
                lost.set_result(None)

        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
            await client.connect(
                servers=[url],
                name=self._name,
                error_cb=on_error,
                closed_cb=on_closed,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=CONNECT_TIMEOUT_SECONDS,
                ping_interval=PING_SECONDS,
                max_outstanding_pings=PINGS_UNANSWERED_MAX,
                **_credentials(self._target),
            )
        wants_tls = self._target.tls is not None or parse_url(url).wants_tls
        if wants_tls and not client._server_info.get("tls_required"):
            raise BsfgError(Code.UNAVAILABLE, "the server does not ask for TLS, which is configured")
        demand_accepted(str(client._server_info.get("version", "")))
        self._problem = "the connection was lost"


def answer_of(operation: str, payload: bytes) -> dict[str, Any]:
    """The JSON object of an answer from JetStream; a refusal becomes the error that it means."""
    try:
        answer = json.loads(payload)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise BsfgError(Code.BAD_ANSWER, f"JetStream {operation}: the answer is not a JSON object")
    error = answer.get("error")
    if isinstance(error, dict):
        raise refusal(operation, error)
    return answer


def _credentials(target: NatsTarget) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if target.seed_file is not None:
        options["nkeys_seed"] = str(target.seed_file)
    if target.credentials_file is not None:
        options["user_credentials"] = str(target.credentials_file)
    if target.tls is not None:
        options["tls"] = target.tls
    return options


async def _unless(lost: asyncio.Future[None], call: Any) -> Msg:
    """The call's result, or ``ConnectionClosedError`` as soon as the connection is lost."""
    task = asyncio.ensure_future(call)
    try:
        await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise nats.errors.ConnectionClosedError
        answer: Msg = task.result()
        return answer
    finally:
        task.cancel()


async def _close_quietly(client: Client) -> None:
    with contextlib.suppress(Exception):
        async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
            await client.close()
    for task in (client._reading_task, client._flusher_task):
        if task is not None and task.done() and not task.cancelled():
            task.exception()  # Looked at, or asyncio would print it as one that nobody wanted.


def _heed_cancellation() -> None:
    """nats-py waits by ``asyncio.wait_for``, which loses a cancellation that comes together with an answer."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
