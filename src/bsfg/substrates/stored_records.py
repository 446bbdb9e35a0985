"""The JSON of what BSFG keeps of links and confirms, in buckets and in files, each with the version of its form."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from bsfg.model.cursor import Begun, Cursor, Init, LinkRecord
from bsfg.ports import Confirmed

VERSION: Final = 1


class _StoredLink(msgspec.Struct):
    version: Literal[1]
    record: LinkRecord


class _StoredConfirm(msgspec.Struct):
    version: Literal[1]
    confirmed: Confirmed


class _StoredBegun(msgspec.Struct):
    version: Literal[1]
    init: Init | None


def encode_link(record: LinkRecord) -> bytes:
    return msgspec.json.encode(_StoredLink(VERSION, record))


def decode_link(value: bytes) -> LinkRecord:
    """The record; ValueError says why the value is none that we can believe."""
    record = msgspec.json.decode(value, type=_StoredLink).record
    _check_cursor(record.cursor)
    if record.generation < 1 or record.local_sequence < 0:
        raise ValueError("a generation below 1 or a negative sequence")
    return record


def encode_begun(begun: Begun) -> bytes:
    return msgspec.json.encode(_StoredBegun(VERSION, begun.init))


def decode_begun(value: bytes) -> Begun:
    """Where a link began; ValueError says why the value is none that we can believe."""
    init = msgspec.json.decode(value, type=_StoredBegun).init
    if init is not None and init.start_sequence < 1:
        raise ValueError("a start below 1")
    return Begun(init)


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
