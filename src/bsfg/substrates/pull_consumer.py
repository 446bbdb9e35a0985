"""An ephemeral JetStream pull consumer without acknowledgements: created, pulled, checked and given back.

Such a consumer never delivers a message twice, so a message lost between two servers of a cluster would be lost for
good without a sign. Its consumer sequences are the sign: they are consecutive, whatever was deleted in the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Any, Final, NamedTuple

import msgspec

from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.model.fact import allowed_headers
from bsfg.model.facts import NO_FACTS, Facts
from bsfg.model.names import StreamName, printable
from bsfg.substrates.delivered import Delivered, delivered
from bsfg.substrates.nats_connection import NO_RESPONDERS, NatsConnection
from bsfg.substrates.nats_frames import Messages, encode_publish, status_of
from bsfg.substrates.nats_stream_api import CONSUMER_NOT_FOUND, ApiError, decode, refuse

INACTIVE_SECONDS: Final = 30
PULL_SECONDS: Final = 5.0
"""How long a pull may take beyond the wait that was asked for."""
SUBJECTS_CACHED_MAX: Final = 4_096
_NANOSECONDS: Final = 1_000_000_000
_NO_MESSAGES: Final = 404
_TIMED_OUT: Final = 408
_CONFLICT: Final = 409
_HEARTBEAT: Final = 100
_OVERLAPPING: Final = "Requests Pending"
OVER_BYTES: Final = "Message Size Exceeds MaxBytes"


class ConsumerLost(Exception):
    """This consumer can't go on, but a new one from the same position can."""


class Pulled(NamedTuple):
    """What one pull brought; ``pending`` counts the messages behind it."""

    facts: Facts
    pending: int
    is_end: bool = False
    """Whether the server said that nothing more was there."""


class _Delivered(msgspec.Struct):
    consumer_seq: int


class _ConsumerInfo(msgspec.Struct):
    error: ApiError | None = None
    delivered: _Delivered | None = None


class PullConsumer:
    """One consumer from one start; only one pull at a time."""

    def __init__(
        self, connection: NatsConnection, jetstream_stream: str, stream: StreamName, name: str
    ) -> None:
        self.connection = connection
        self._jetstream_stream = jetstream_stream
        self._stream = stream
        self.name = name
        self._inbox = connection.new_inbox().encode()
        self._pulls = 0
        self._reply = b""
        self._wanted = 0
        self._runs: list[Messages] = []
        self._came = 0
        self._status: tuple[int, str] | None = None
        self._done: asyncio.Future[Any] | None = None
        self._consumer_sequence = 0
        self._subjects = _Subjects(stream, jetstream_stream)
        self._sid = connection.subscribe(f"{self._inbox.decode()}*", self._received)

    @classmethod
    async def create(
        cls, connection: NatsConnection, jetstream_stream: str, stream: StreamName, start_sequence: int
    ) -> PullConsumer:
        """A consumer whose first message is the first with this sequence or a later one (errors of the stream API)."""
        name = f"bsfg-{secrets.token_hex(8)}"
        config = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": start_sequence,
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": INACTIVE_SECONDS * _NANOSECONDS,
            "num_replicas": 1,
            "mem_storage": True,
        }
        question = {"stream_name": jetstream_stream, "config": config, "action": "create"}
        nats_subject = f"$JS.API.CONSUMER.CREATE.{jetstream_stream}.{name}"
        action = f"creating a consumer on stream {jetstream_stream}"
        answer = await connection.request(nats_subject, msgspec.json.encode(question))
        refuse(decode(answer, _ConsumerInfo, action).error, action)
        return cls(connection, jetstream_stream, stream, name)

    async def pull(
        self, batch: int, bytes_max: int, wait_seconds: float, *, at_least_one: bool = True
    ) -> Pulled:
        """The next messages, all that are there up to the limits; if none is, the first that comes within the wait.

        With ``at_least_one`` a message larger than ``bytes_max`` is brought alone. Raises :class:`ConsumerLost`, or
        ``SubstrateUnavailable`` when the store does not answer.
        """
        runs, status = await self._exchange({"batch": batch, "max_bytes": bytes_max}, wait_seconds)
        if status is not None and status[1] == OVER_BYTES and not runs and at_least_one:
            runs, status = await self._exchange({"batch": 1}, 0.0)
        is_end = self._judge(status)
        return Pulled(*self._facts(runs), is_end)

    async def check_nothing_lost(self) -> None:
        """:class:`ConsumerLost` unless the consumer has delivered exactly the messages that came here."""
        action = f"describing a consumer on stream {self._jetstream_stream}"
        nats_subject = f"$JS.API.CONSUMER.INFO.{self._jetstream_stream}.{self.name}"
        found = decode(await self.connection.request(nats_subject), _ConsumerInfo, action)
        if found.error is not None and found.error.err_code == CONSUMER_NOT_FOUND:
            raise ConsumerLost("the consumer is gone")
        refuse(found.error, action)
        if found.delivered is None or found.delivered.consumer_seq != self._consumer_sequence:
            raise ConsumerLost("a message was lost on its way from the server")

    def delete(self) -> None:
        """Give the consumer back without waiting; one that is not given back ends by itself when it is not used."""
        if self.connection.is_closed:
            return
        with contextlib.suppress(SubstrateUnavailable):
            self.connection.unsubscribe(self._sid)
            nats_subject = f"$JS.API.CONSUMER.DELETE.{self._jetstream_stream}.{self.name}"
            self.connection.write(encode_publish(nats_subject.encode(), self._inbox + b"d", b"", b""))

    async def _exchange(
        self, request: dict[str, Any], wait_seconds: float
    ) -> tuple[list[Messages], tuple[int, str] | None]:
        """One pull request and everything that it brought, with the status that ended it, if one did."""
        self._pulls += 1
        self._reply = b"%b%d" % (self._inbox, self._pulls)
        self._runs, self._came, self._status, self._wanted = [], 0, None, request["batch"]
        request = request | {"no_wait": True}
        if wait_seconds > 0:
            # Without waiting or as soon as there is anything: the server takes the two together as just that.
            request["expires"] = int(wait_seconds * _NANOSECONDS)
        nats_subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._jetstream_stream}.{self.name}".encode()
        self._done = self.connection.waiter()
        self.connection.write(encode_publish(nats_subject, self._reply, b"", msgspec.json.encode(request)))
        try:
            async with asyncio.timeout(wait_seconds + PULL_SECONDS):
                await self._done
        except TimeoutError:
            raise SubstrateUnavailable(
                f"reading {self._stream}: NATS did not answer within {wait_seconds + PULL_SECONDS:g} s"
            ) from None
        return self._runs, self._status

    def _received(self, messages: Messages) -> None:
        """Messages carry an acknowledgement subject, statuses don't; one that names an earlier pull comes too late."""
        if messages[0].reply:
            self._runs.append(messages)
            self._came += len(messages)
        else:
            for frame in messages:
                if frame.subject == self._reply:
                    self._take_status(status_of(frame))
        ended = self._status is not None or self._came >= self._wanted
        if ended and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _take_status(self, status: tuple[int, str] | None) -> None:
        if status is not None and status[0] != _HEARTBEAT and self._came < self._wanted:
            self._status = status

    def _judge(self, status: tuple[int, str] | None) -> bool:
        """Whether the pull came to the end of the stream; ConsumerLost for a status that no pull can go on from."""
        if status is None:
            return False
        code, description = status
        if code in (_NO_MESSAGES, _TIMED_OUT) and description != _OVERLAPPING:
            return True
        if code == _CONFLICT and description == OVER_BYTES:
            return False
        if code == NO_RESPONDERS:
            raise ConsumerLost("the consumer is gone")
        raise ConsumerLost(f"the consumer said {code} {description}")

    def _facts(self, runs: list[Messages]) -> tuple[Facts, int]:
        """The facts of one pull. Nothing was lost if the consumer counted as many as came: looked at once a page."""
        if not runs:
            return NO_FACTS, 0
        places = self._places(runs)
        parts = [_columns(run, place, self._subjects) for run, place in zip(runs, places, strict=True)]
        return Facts.joined(parts), places[-1].pending

    def _places(self, runs: list[Messages]) -> list[Delivered]:
        """Where the messages of one pull stand; ConsumerLost if any of them did not come."""
        try:
            places = [delivered(run) for run in runs]
        except ValueError:
            raise SubstrateUnavailable(
                f"reading {self._stream}: an acknowledgement subject we can't read"
            ) from None
        self._consumer_sequence += self._came
        if places[-1].consumer_sequence != self._consumer_sequence:
            raise ConsumerLost("a message was lost on its way from the server")
        return places


def _columns(run: Messages, place: Delivered, subjects: _Subjects) -> Facts:
    """The facts of one run."""
    return Facts(
        place.sequences,
        subjects.named(place),
        place.times,
        list(map(allowed_headers, run.headers)) if run.headers else [b""] * len(run.lines),
        run.payloads,
    )


class _Subjects(dict[bytes, str]):
    """Subjects as text by their bytes; what is not of the stream is refused, and the cache is bounded."""

    def __init__(self, stream: StreamName, jetstream_stream: str) -> None:
        super().__init__()
        self._stream = stream
        self._jetstream_stream = jetstream_stream

    def named(self, place: Delivered) -> list[str]:
        """The subjects of a run's messages."""
        if place.is_of_one_subject:
            return [self[place.subjects[0]]] * len(place.subjects)
        return list(map(self.__getitem__, place.subjects))

    def __missing__(self, raw: bytes) -> str:
        """Bytes that are not UTF-8 are spelled out, so that one such fact stops no stream."""
        fact_subject = raw.decode("utf-8", "backslashreplace")
        if fact_subject != self._stream and not fact_subject.startswith(self._stream + "."):
            raise BsfgError(
                Code.INTERNAL,
                f"reading {self._stream}: stream {self._jetstream_stream} holds a message of the foreign subject "
                f"{printable(fact_subject)}",
                hint="a stream that BSFG exports may have no other subjects",
            )
        if len(self) >= SUBJECTS_CACHED_MAX:
            self.clear()
        self[raw] = fact_subject
        return fact_subject
