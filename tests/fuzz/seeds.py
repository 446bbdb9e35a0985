"""Where the fuzzer begins: honest bytes of each kind, and the lies that are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import msgspec
from tests.fuzz.targets import EPOCH, STREAM

from bsfg.model.fact import Fact
from bsfg.model.page import Agreement, Page
from bsfg.transport.compression import compress
from bsfg.transport.page_codec import FRAME_HEADER_BYTES, encode, encode_json

FACTS: Final = [
    Fact(
        6,
        f"{STREAM}.batch",
        1_700_000_000_000_000_001,
        b"Nats-Msg-Id: a\r\nLine: 4\r\n",
        b'{"a": "\xc3\xa4"}',
    ),
    Fact(9, str(STREAM), 1_700_000_000_000_000_002, b"", b"\xff\x00"),
]
PAGE: Final = Page(STREAM, EPOCH, Agreement.EXACT, 6, 10, 12, 2, 1_700_000_000_000_000_003, 1, FACTS, 99)
NEXT: Final = replace(PAGE, start_sequence=11, scanned_through=12, facts=[FACTS[0]._replace(sequence=11)])
EMPTY: Final = replace(PAGE, scanned_through=5, head=5, pending=0, next_time=None, facts=[])


def _with(**changes: object) -> Page:
    return replace(PAGE, facts=[FACTS[0], FACTS[1]._replace(**changes)])


LIES: Final = (
    _with(sequence=6),
    _with(sequence=11),
    _with(sequence=2**63),
    _with(subject="facts.other"),
    _with(subject=f"{STREAM}.>"),
    _with(headers=b"Nats-Rollup: all\r\n"),
    _with(headers=b"Bsfg-Origin: a b c 1 t\r\n"),
    _with(headers=b"A: b\r\n\r\nPUB x 1\r\n"),
    _with(time=-1),
    replace(PAGE, epoch="e2"),
    replace(PAGE, scanned_through=13),
    replace(PAGE, start_sequence=7),
    replace(PAGE, facts=FACTS[::-1]),
)
BOMB: Final = compress(b"\x00" * (8 * 1024 * 1024))

PAGES: Final = (PAGE, EMPTY, *LIES)


def _json(page: Page) -> list[bytes]:
    try:
        return [encode_json(page)]
    except (ValueError, OverflowError):
        return []  # A time that nothing can spell is no lie that JSON can tell.


def _bodies() -> list[bytes]:
    return [encode(page)[FRAME_HEADER_BYTES:] for page in PAGES]


SEEDS: Final[dict[str, list[bytes]]] = {
    "binary_page": [
        *(b"\x00" + encode(page) for page in PAGES),
        b"\x00" + encode(PAGE) + encode(NEXT),
        *(b"\x01" + body for body in _bodies()),
        b"\x01" + msgspec.msgpack.encode([*msgspec.msgpack.decode(_bodies()[0]), "later"]),
        b"\x01" + b"\x91" * 5000,
    ],
    "json_page": [body for page in PAGES for body in _json(page)] + [b"[" * 2000, b'{"stream": 1e999}'],
    "compressed_page": [compress(encode(page)) for page in PAGES]
    + [BOMB, compress(b""), compress(encode(PAGE))[:-1]],
    "nats_frames": [
        b"\x07" + b"INFO {}\r\nPING\r\nPONG\r\n+OK\r\n-ERR 'no'\r\n",
        b"\x01" + b"MSG a.b 1 5\r\nhello\r\nMSG a.b 1 reply 0\r\n\r\n",
        b"\x03HMSG a 2 12 17\r\nNATS/1.0\r\n\r\nhello\r\nHMSG a 2 r 28 28\r\nNATS/1.0 404 No Messages\r\n\r\n\r\n",
        b"\xff" + b"MSG a 1 99999999999\r\n",
        b"\x03HMSG a 2 12 17\r\nNATS/1.0\r\n\r\nhello\r\n\n\r\n",
        b"\x01" + b"MSG a.b 1 5\r\nhello\r\nMSG a.b 1 reply.b 1 5\r\nh\n\r\n",
        b"\x05" + b"MSG a.b 1 5\r\nhello\r\nMSG a.b 1 reply 5\r\nhello\r\n",
        b"\x02" + b"HMSG a 1 9 3\r\nNATS/1.0\r\n",
    ],
}
"""By target."""
