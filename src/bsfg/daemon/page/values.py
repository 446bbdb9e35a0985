"""How the page writes values: ``unknown`` where nobody knows, units that people read, times in UTC."""

from __future__ import annotations

import re
from typing import Any, Final

from bsfg.model import units

UNKNOWN: Final = "unknown"
_FRACTION: Final = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?Z", re.ASCII)


def text(value: Any) -> str:
    return UNKNOWN if value is None else str(value)


def number(value: Any) -> str:
    """A count with its thousands apart, by a thin space that every locale reads."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return text(value)
    return f"{value:,.0f}".replace(",", "\u202f")


def seconds(value: Any) -> str:
    """A duration in its two largest units."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return text(value)
    if value < 1:
        return "0 s" if value == 0 else f"{value * 1000:.0f} ms"
    if value < 10:
        return f"{value:.1f} s"
    return units.duration(int(value))


def age(value: Any) -> str:
    """A duration that only tells how fresh something is: whole seconds, so that it does not flicker."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return text(value)
    return "under 10 s" if value < 10 else seconds(float(int(value)))


def size(value: Any) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return text(value)
    return units.size(value)


def moment(value: Any) -> str:
    """An RFC 3339 time to the second, always in UTC and said so: operators of two zones compare them."""
    found = _FRACTION.fullmatch(text(value))
    return f"{found[1]} {found[2]} UTC" if found else text(value)


def percent(value: Any) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return text(value)
    return f"{value * 100:.0f} %"


FILTERS: Final = {
    "text": text,
    "number": number,
    "seconds": seconds,
    "age": age,
    "size": size,
    "moment": moment,
    "percent": percent,
}
