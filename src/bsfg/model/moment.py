"""Moments as integer nanoseconds since 1970 UTC, and their RFC 3339 form. No clock is read here."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

NANOSECONDS: Final = 1_000_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RFC3339: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)",
    re.ASCII,
)


def format_time(nanoseconds: int) -> str:
    """RFC 3339 in UTC with nanoseconds, for example ``2025-01-15T10:00:00.000000001Z``."""
    seconds, fraction = divmod(nanoseconds, NANOSECONDS)
    moment = _EPOCH + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


def parse_time(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time; a time without a zone, or no time at all, is a ValueError."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError("not an RFC 3339 time with a zone, like 2025-01-15T10:00:00Z")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    offset = timedelta()
    if zone not in ("Z", "z"):
        hours, minutes = int(zone[1:3]), int(zone[4:6])
        if hours > 23 or minutes > 59:
            raise ValueError("the zone's offset is out of range")
        offset = timedelta(hours=hours, minutes=minutes) * (-1 if zone[0] == "-" else 1)
    moment = datetime(
        int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=timezone(offset)
    )
    since = moment - _EPOCH
    seconds = since.days * 86_400 + since.seconds
    return seconds * NANOSECONDS + int((fraction or "0").ljust(9, "0"))
