"""Another value of a frozen dataclass without slots: what ``dataclasses.replace`` does, by copying its fields at once.

A link has 34 fields and a poll changes it three times; calling the constructor for each took more than all of the
core's decisions. To the type checker it is ``dataclasses.replace``, so that unknown fields and wrong types are errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dataclasses import replace as changed
else:
    _Value = TypeVar("_Value")

    def changed(value: _Value, **changes: Any) -> _Value:
        """The value with these fields changed; the one that was given stays as it is."""
        new = object.__new__(type(value))
        fields = new.__dict__
        fields.update(value.__dict__)
        fields.update(changes)
        return new


__all__ = ["changed"]
