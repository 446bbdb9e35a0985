"""Messages of an inbound stream read back as its origin's facts, a page at once.

Whatever does not bear the coordinates that this gateway writes is handed on as what it is: a foreign message is a
finding, not an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, cast

from bsfg.errors import SubstrateUnavailable
from bsfg.model.cursor import LinkName
from bsfg.model.fact import Fact
from bsfg.model.facts import Facts
from bsfg.substrates.delivered import delivered
from bsfg.substrates.held_headers import HeaderReading
from bsfg.substrates.inbound_tip import origin_fact
from bsfg.substrates.nats_frames import Frame, Messages
from bsfg.substrates.nats_stream_api import StoredMessage
from bsfg.substrates.pull_consumer import SUBJECTS_CACHED_MAX


class Foreign(NamedTuple):
    """A message that is no fact of the link's history, and why."""

    local_sequence: int
    why: str


@dataclass(frozen=True, slots=True)
class HeldPage:
    """Messages in a row of an inbound stream."""

    facts: Facts
    """As their origin stored them; of ``InboundScan.pages`` but for ``times``: these are the places here, local
    sequences."""
    foreign: list[Foreign] = field(default_factory=list)
    of_earlier_epochs: int = 0
    through: int = 0
    """The local sequence that the page reaches to."""


class Places(NamedTuple):
    """Where the messages of one run lie, as their control lines say."""

    first: int
    last: int
    consumer_sequence: int
    """Of the last of them."""


def places_of(run: Messages) -> Places:
    """Looks at the first control line and the last; ``SubstrateUnavailable`` if they can't be read."""
    try:
        first, last = (delivered(_alone(run, index)) for index in (0, -1))
    except ValueError:
        raise SubstrateUnavailable("reading: an acknowledgement subject we can't read") from None
    return Places(first.sequences[0], last.sequences[0], last.consumer_sequence)


def _alone(run: Messages, index: int) -> Messages:
    one = Messages()
    one.lines, one.headers, one.payloads = [run.lines[index]], run.headers[:1], [run.payloads[index]]
    return one


def joined(runs: list[Messages]) -> list[Messages]:
    """The same messages in as few runs as can be: a chunk of bytes from the server ends a run, too."""
    joined: list[Messages] = []
    for run in runs:
        if joined and bool(joined[-1].headers) == bool(run.headers):
            joined[-1].lines += run.lines
            joined[-1].headers += run.headers
            joined[-1].payloads += run.payloads
        else:
            joined.append(run)
    return joined


class PageReading:
    """How messages are read back as the facts that their origin stored."""

    def __init__(self, link: LinkName, generation: int, epoch: str, earlier_epochs: frozenset[str]) -> None:
        self.link = link
        self._generation = generation
        self._epoch = epoch
        self._earlier_epochs = earlier_epochs
        self._headers = HeaderReading(link, epoch)
        self._subjects: dict[bytes, str] = {}

    def page(self, run: Messages, last: int) -> HeldPage:
        """These messages with the places at which they lie."""
        place = places_of(run)
        if place.last <= last and (found := self._headers.plain(run.headers)):
            nats_subjects, local_sequences = _columns(run, place)
            if subjects := self._known(nats_subjects):
                facts = Facts(found.sequences, subjects, local_sequences, found.blocks, run.payloads)
                return HeldPage(facts, through=place.last)
        return self._page(run, last, has_places=True)

    def copies(self, run: Messages, last: int) -> HeldPage:
        """These messages with the times of their origin."""
        place = places_of(run)
        if place.last <= last and (found := self._headers.timed(run.headers)):
            nats_subjects, _ = _columns(run, place)
            if subjects := self._known(nats_subjects):
                facts = Facts(found.sequences, subjects, found.times, found.blocks, run.payloads)
                return HeldPage(facts, through=place.last)
        return self._page(run, last, has_places=False)

    def _known(self, nats_subjects: list[bytes]) -> list[str]:
        """The subjects at the origin; none where one of them was not seen before."""
        subjects = list(map(self._subjects.get, nats_subjects))
        return [] if None in subjects else cast("list[str]", subjects)

    def _page(self, run: Messages, last: int, *, has_places: bool) -> HeldPage:
        facts: list[Fact] = []
        foreign: list[Foreign] = []
        earlier = through = 0
        for local_sequence, frame in zip(delivered(run).sequences, run, strict=True):
            if local_sequence > last:
                break
            through = local_sequence
            found = self._fact(local_sequence, frame)
            if isinstance(found, Fact):
                facts.append(found._replace(time=local_sequence) if has_places else found)
            elif isinstance(found, Foreign):
                foreign.append(found)
            else:
                earlier += 1
        return HeldPage(Facts.of(facts), foreign, earlier, through)

    def _fact(self, local_sequence: int, frame: Frame) -> Fact | Foreign | None:
        """The fact, whatever its headers; None for one of an earlier epoch of the link."""
        text = frame.subject.decode("utf-8", "backslashreplace")
        message = StoredMessage(local_sequence, text, 0, frame.header, frame.payload)
        try:
            origin, fact = origin_fact(message, self.link, self._generation)
        except ValueError as error:
            return Foreign(local_sequence, str(error))
        if origin.epoch in self._earlier_epochs:
            return None
        if origin.epoch != self._epoch:
            return Foreign(local_sequence, f"its epoch is {origin.epoch}, which the link never had")
        if len(self._subjects) >= SUBJECTS_CACHED_MAX:
            self._subjects.clear()
        self._subjects[frame.subject] = fact.subject
        return fact


def _columns(run: Messages, place: Places) -> tuple[list[bytes], list[int]]:
    """The subject and the local sequence of each message.

    Messages in a row without a hole, all of one subject, are told by the whole and not one by one.
    """
    count, (operation, nats_subject, _) = len(run), run.lines[0].split(b" ", 2)
    beginning = b"\r\n%b %b " % (operation, nats_subject)
    if place.last - place.first == count - 1 and b"\r\n".join([b"", *run.lines]).count(beginning) == count:
        return [nats_subject] * count, list(range(place.first, place.last + 1))
    found = delivered(run)
    return found.subjects, found.sequences
