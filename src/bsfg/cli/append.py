"""``bsfg append``: facts into a local stream, in order, in bounded calls."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

import click

from bsfg.cli import render
from bsfg.cli.fact_input import InputFact, Pause, envelopes, payload_lines, source_name, whole_input
from bsfg.cli.local_client import LocalClient, route
from bsfg.cli.options import common_options, stream_option
from bsfg.errors import BsfgError

FACTS_A_CALL: Final = 1_000
BYTES_A_CALL: Final = 4 * 1024 * 1024


@click.command("append")
@stream_option
@click.option("--subject", metavar="TAIL", help="What follows the stream's name in the subject.")
@click.option("--message-id", metavar="ID", help="The same id and content again is the fact that is there.")
@click.option("--ndjson", is_flag=True, help="Each line's bytes are one payload; blank lines are skipped.")
@click.option("--envelope", is_flag=True, help="Each line is {subject, message_id, headers, data or data_base64}.")
@click.argument("file", type=click.File("rb"), default="-")
@common_options
def command(
    home: Path,
    output: str,
    stream: str,
    subject: str | None,
    message_id: str | None,
    ndjson: bool,
    envelope: bool,
    file: BufferedReader,
) -> None:
    """Append the whole input (FILE, or - for standard input) as one fact; print what was appended, as JSON.

    With --ndjson and --envelope every line is a fact. A line that is none ends the command: the lines before it are
    appended and reported, nothing behind it is sent.
    """
    _check_options(subject, message_id, ndjson, envelope)
    if envelope:
        facts = envelopes(file)
    elif ndjson:
        facts = payload_lines(file, subject)
    else:
        facts = iter([whole_input(file, subject, message_id)])
    appender = Appender(LocalClient(home), stream, source_name(file))
    appender.append_all(facts)
    render.json_line(appender.total.as_json())


def _check_options(subject: str | None, message_id: str | None, ndjson: bool, envelope: bool) -> None:
    if ndjson and envelope:
        raise click.UsageError("--ndjson and --envelope exclude each other")
    if envelope and (subject or message_id):
        raise click.UsageError("with --envelope each line has its own subject and message_id")
    if ndjson and message_id:
        raise click.UsageError("with --ndjson one --message-id would stand for every line; use --envelope")


@dataclass(slots=True)
class Total:
    """The answers of all calls as one."""

    appended: int = 0
    duplicates: int = 0
    first_sequence: int | None = None
    last_sequence: int | None = None

    def add(self, answer: dict[str, Any]) -> None:
        self.appended += answer.get("appended", 0)
        self.duplicates += answer.get("duplicates", 0)
        if self.first_sequence is None:
            self.first_sequence = answer.get("first_sequence")
        last = answer.get("last_sequence")
        self.last_sequence = self.last_sequence if last is None else last

    def as_json(self) -> dict[str, Any]:
        return {
            "appended": self.appended,
            "first_sequence": self.first_sequence,
            "last_sequence": self.last_sequence,
            "duplicates": self.duplicates,
        }


@dataclass(slots=True)
class Appender:
    """Sends facts in order, one call at a time, and knows how far it came."""

    client: LocalClient
    stream: str
    source: str
    total: Total = field(default_factory=Total)
    _batch: list[InputFact] = field(default_factory=list)
    _batch_bytes: int = 0

    def append_all(self, facts: Iterable[InputFact | Pause]) -> None:
        """Every fact is appended on return; an error carries, as ``appended_before``, what was before it."""
        try:
            self._take_all(facts)
        except BsfgError as error:
            self._report(error)
            raise

    def _take_all(self, facts: Iterable[InputFact | Pause]) -> None:
        try:
            for fact in facts:
                if isinstance(fact, Pause):
                    self._send()
                else:
                    self._add(fact)
        finally:
            # What stands before a bad line is good; a call that failed has emptied the batch.
            self._send()

    def _add(self, fact: InputFact) -> None:
        full = len(self._batch) >= FACTS_A_CALL or self._batch_bytes + len(fact.encoded) > BYTES_A_CALL
        if self._batch and full:
            self._send()
        self._batch.append(fact)
        self._batch_bytes += len(fact.encoded)

    def _send(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if not batch:
            return
        body = b'{"facts":[' + b",".join(fact.encoded for fact in batch) + b"]}"
        try:
            answer = self.client.post(route("append"), body, stream=self.stream)
        except BsfgError as error:
            lines = sorted({batch[0].line, batch[-1].line})
            error.message = f"{self.source}:{'-'.join(map(str, lines))}: {error.message}"
            raise
        self.total.add(answer)

    def _report(self, error: BsfgError) -> None:
        total = self.total
        error.message += f"; appended before it: {total.appended} facts, last sequence {total.last_sequence}"
        error.details["appended_before"] = total.as_json()
