"""What a page must satisfy before anything uses it, however it travelled (design, decision 9; I13 to I15).

A page comes from another zone and is hostile until it has passed here: it must answer the request that was sent,
its facts must lie in order behind what was already scanned, and each must be one that a zone can have stored.
"""

from __future__ import annotations

from operator import lt
from typing import Final, NoReturn

from bsfg.errors import BsfgError, Code
from bsfg.model.fact import PAYLOAD_BYTES_MAX, is_allowed_block
from bsfg.model.facts import Facts
from bsfg.model.names import StreamName, printable, tail_of
from bsfg.model.page import Agreement, FetchRequest, Page
from bsfg.transport.wire import EPOCH_PATTERN, SEQUENCE_MAX

TIME_MAX: Final = 2**63 - 1


def validate_page(page: Page, request: FetchRequest) -> Page:
    """The page itself, if it answers the request; ``bad_answer`` says what is wrong with it."""
    _check_header(page, request)
    _check_facts(Facts.of(page.facts), request.stream, _floor(page, request), page.scanned_through)
    return page


def bad_answer(reason: str, **details: int) -> BsfgError:
    """The error for an answer that breaks the contract; ``sequence`` among the details names a single fact."""
    return BsfgError(
        Code.BAD_ANSWER,
        f"the peer's answer breaks the contract: {reason}",
        hint="nothing of it was used; compare the versions of both gateways",
        reason=reason,
        **details,
    )


def _floor(page: Page, request: FetchRequest) -> int:
    """Every fact lies behind this sequence."""
    return page.start_sequence - 1 if request.after is None else request.after.scanned_through


def _check_header(page: Page, request: FetchRequest) -> None:
    if page.stream != request.stream:
        _refuse(f"it is of stream {printable(page.stream)} and not of {request.stream}")
    if not EPOCH_PATTERN.fullmatch(page.epoch):
        _refuse(f"epoch {printable(page.epoch)} is malformed")
    if request.after is not None and page.epoch != request.after.epoch:
        _refuse("its epoch is not the one that was asked for")
    if page.agreement is Agreement.EXACT and (request.after is None or request.after.sequence is None):
        _refuse("it claims exact agreement where there was no fact to agree on")
    if len(page.facts) > request.limits.facts:
        _refuse(f"{len(page.facts)} facts where at most {request.limits.facts} were asked for")
    _check_numbers(page, request)


def _check_numbers(page: Page, request: FetchRequest) -> None:
    floor = _floor(page, request)
    if page.start_sequence != floor + 1 or not 1 <= page.start_sequence <= SEQUENCE_MAX:
        _refuse(f"start_sequence {page.start_sequence} does not follow what was scanned")
    if not floor <= page.scanned_through <= page.head <= SEQUENCE_MAX:
        _refuse(f"scanned_through {page.scanned_through} is not between {floor} and head {page.head}")
    if not 0 <= page.pending <= SEQUENCE_MAX:
        _refuse("pending is out of range")
    if page.pending_bytes is not None and not 0 <= page.pending_bytes <= SEQUENCE_MAX:
        _refuse("pending_bytes is out of range")
    if not 0 <= page.sender_time <= TIME_MAX:
        _refuse("sender_time is out of range")
    if page.next_time is not None and not 0 <= page.next_time <= TIME_MAX:
        _refuse("next_time is out of range")


def _check_facts(facts: Facts, stream: StreamName, floor: int, scanned_through: int) -> None:
    """Each rule over a whole column; only where one is broken the first fact that breaks it is looked for."""
    if not facts:
        return
    sequences = facts.sequences
    if sequences[0] <= floor or not all(map(lt, sequences, sequences[1:])):
        _refuse_order(sequences, floor)
    if sequences[-1] > scanned_through:
        _refuse(f"fact {sequences[-1]} lies behind scanned_through {scanned_through}")
    for subject in set(facts.subjects):
        if tail_of(subject, stream) is None:
            _refuse_fact(
                sequences[facts.subjects.index(subject)],
                f"has subject {printable(subject)}, which is not of {stream}",
            )
    if min(facts.times) < 0 or max(facts.times) > TIME_MAX:
        odd = (number for number, time in zip(sequences, facts.times, strict=True) if not 0 <= time <= TIME_MAX)
        _refuse_fact(next(odd), "has a time out of range")
    if any(facts.headers):
        for number, block in zip(sequences, facts.headers, strict=True):
            if block and not is_allowed_block(block):
                _refuse_fact(number, "has headers that are malformed, reserved or too large")
    longest = max(map(len, facts.payloads))
    if longest > PAYLOAD_BYTES_MAX:
        large = next(fact for fact in facts if len(fact.payload) > PAYLOAD_BYTES_MAX)
        _refuse_fact(large.sequence, f"has a payload of {len(large.payload)} bytes")


def _refuse_order(sequences: list[int], floor: int) -> NoReturn:
    pairs = zip([floor, *sequences], sequences, strict=False)
    previous, sequence = next(pair for pair in pairs if pair[1] <= pair[0])
    _refuse(f"fact {sequence} follows {previous}")


def _refuse_fact(sequence: int, reason: str) -> NoReturn:
    _refuse(f"fact {sequence} {reason}", sequence=sequence)


def _refuse(reason: str, **details: int) -> NoReturn:
    raise bad_answer(reason, **details)
