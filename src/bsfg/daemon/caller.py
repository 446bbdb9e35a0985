"""Who asked for what is being done: for audit records and for those who read them."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

_CALLER: Final[ContextVar[str]] = ContextVar("caller", default="the gateway")


def caller() -> str:
    """The one whose request is being answered: a user of this machine, a token or a page session."""
    return _CALLER.get()


def note_caller(who: str) -> None:
    """The request that this task answers from here on is theirs."""
    _CALLER.set(who)
