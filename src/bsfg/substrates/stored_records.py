"""The JSON of what BSFG keeps in key-value buckets: link records and confirms, each with the version of its form."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from bsfg.model.cursor import Cursor, LinkRecord
from bsfg.ports import Confirmed

VERSION: Final = 1


class _StoredLink(msgspec.Struct):
    version: Literal[1]
    record: LinkRecord


class _StoredConfirm(msgspec.Struct):
    version: Literal[1]
    confirmed: Confirmed


def encode_link(record: LinkRecord) -> bytes:
    return msgspec.json.encode(_StoredLink(VERSION, record))


def decode_link(value: bytes) -> LinkRecord:
    """The record; ValueError says why the value is none that we can believe."""
    record = msgspec.json.decode(value, type=_StoredLink).record
    _check_cursor(record.cursor)
    if record.generation < 1 or record.local_sequence < 0:
        raise ValueError("a generation below 1 or a negative sequence")
    return record


def encode_confirm(confirmed: Confirmed) -> bytes:
    return msgspec.json.encode(_StoredConfirm(VERSION, confirmed))


def decode_confirm(value: bytes) -> Confirmed:
    """The confirm; ValueError says why the value is none that we can believe."""
    confirmed = msgspec.json.decode(value, type=_StoredConfirm).confirmed
    if confirmed.sequence < 0:
        raise ValueError("a negative sequence")
    return confirmed


def _check_cursor(cursor: Cursor) -> None:
    if (cursor.sequence is None) != (cursor.digest is None):
        raise ValueError("a cursor with only one of sequence and digest")
    if cursor.scanned_through < (cursor.sequence or 0):
        raise ValueError("a cursor that scanned less than its own fact")
