"""What a zone's view of its caller looks like on the wire, and what of a peer's is believed (contract, section 4).

Everything in it is the peer's word: each value is held against its type and a bound before anything is kept, fields
that we don't know are dropped, and one that breaks the contract makes the whole view a ``bad_answer``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import HaltReason, LinkState
from bsfg.model.moment import parse_time
from bsfg.model.names import parse_stream, parse_zone
from bsfg.transport.page_check import bad_answer
from bsfg.transport.wire import EPOCH_PATTERN, SEQUENCE_MAX

VIEW_BYTES_MAX: Final = 1024 * 1024
ROWS_MAX: Final = 1_000
TEXT_LENGTH_MAX: Final = 200
DAYS_MAX: Final = 1_000_000
REPLICAS_MAX: Final = 1_000
SECONDS_MAX: Final = 10.0**12
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TLS_VERSION: Final = re.compile(r"[A-Za-z0-9. ]{1,20}", re.ASCII)
_ARTIFACT_TYPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_DURABILITY: Final = re.compile(r"[a-z_]{1,20}", re.ASCII)

Take = Callable[[Any], Any]


def parse_view(body: Any) -> dict[str, Any]:
    """The view with exactly the contract's fields, each checked; ``bad_answer`` naming the first that is not right."""
    return _object(body, _VIEW)


def _object(value: Any, fields: Mapping[str, Take]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad_answer("it is not a JSON object where one belongs")
    taken = {}
    for name, take in fields.items():
        try:
            taken[name] = take(value.get(name))
        except (ValueError, BsfgError) as error:
            if isinstance(error, BsfgError) and error.code is Code.BAD_ANSWER:
                raise
            raise bad_answer(f"its {name} is not what the contract says") from error
    return taken


def _matching(pattern: re.Pattern[str]) -> Take:
    def take(value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError
        return value

    return take


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > TEXT_LENGTH_MAX or not value.isprintable():
        raise ValueError
    return value


def _zone(value: Any) -> str:
    return parse_zone(_text(value))


def _stream(value: Any) -> str:
    return parse_stream(_text(value))


def _time(value: Any) -> str:
    text = _text(value)
    parse_time(text)
    return text


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _whole(low: int, high: int) -> Take:
    def take(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError
        return value

    return take


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= SECONDS_MAX:
        raise ValueError
    return float(value)


def _word(kind: type[LinkState] | type[HaltReason]) -> Take:
    words = {str(member) for member in kind}

    def take(value: Any) -> str:
        if value not in words:
            raise ValueError
        return str(value)

    return take


def _optional(take: Take) -> Take:
    return lambda value: None if value is None else take(value)


def _list(take: Take) -> Take:
    def take_all(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > ROWS_MAX:
            raise ValueError
        return [take(item) for item in value]

    return take_all


def _rows(fields: Mapping[str, Take]) -> Take:
    return _list(lambda row: _object(row, fields))


_SEQUENCE: Final = _whole(0, SEQUENCE_MAX)
_EPOCH: Final = _matching(EPOCH_PATTERN)
_STREAM_ROW: Final[Mapping[str, Take]] = {
    "stream": _stream,
    "epoch": _optional(_EPOCH),
    "head": _optional(_SEQUENCE),
    "confirmed": _optional(_SEQUENCE),
    "confirmed_at": _optional(_time),
    "replicas": _optional(_whole(0, REPLICAS_MAX)),
    "durability": _optional(_matching(_DURABILITY)),
}
_LINK_ROW: Final[Mapping[str, Take]] = {
    "stream": _stream,
    "state": _word(LinkState),
    "reason": _optional(_word(HaltReason)),
    "epoch": _optional(_EPOCH),
    "sequence": _optional(_SEQUENCE),
    "scanned_through": _optional(_SEQUENCE),
    "lag_facts": _optional(_SEQUENCE),
    "lag_seconds": _optional(_seconds),
}
_VIEW: Final[Mapping[str, Take]] = {
    "zone": _zone,
    "identity": _text,
    "tls_version": _matching(_TLS_VERSION),
    "time": _time,
    "anchors": _list(_matching(_SHA256)),
    "certificate_days_left": _whole(-DAYS_MAX, DAYS_MAX),
    "replicas_configured": _whole(1, REPLICAS_MAX),
    "streams": _rows(_STREAM_ROW),
    "artifacts": _list(_matching(_ARTIFACT_TYPE)),
    "last_contact": _optional(_time),
    "reaches_you": _optional(_flag),
    "links": _rows(_LINK_ROW),
    "metrics_up": _optional(_flag),
    "last_scraped": _optional(_time),
}
FIELDS: Final = tuple(_VIEW)
STREAM_FIELDS: Final = tuple(_STREAM_ROW)
LINK_FIELDS: Final = tuple(_LINK_ROW)
