"""Durations and sizes in the units that people read, for the terminal and the operator page alike."""

from __future__ import annotations

from typing import Final

_UNITS: Final = (("d", 86_400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1))
_SIZES: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def duration(seconds: int) -> str:
    """Whole seconds in their two largest units: ``3 h 25 m``."""
    for unit, length, next_unit, next_length in _UNITS:
        if seconds >= length:
            rest = seconds % length // next_length
            return f"{seconds // length} {unit}" + (f" {rest} {next_unit}" if rest else "")
    return f"{seconds} s"


def size(count: float) -> str:
    """A number of bytes: ``2.0 KiB``."""
    amount, unit = float(count), _SIZES[0]
    for unit in _SIZES:
        if amount < 1024 or unit == _SIZES[-1]:
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
