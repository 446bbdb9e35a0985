"""Who may see the page: a one-time token from ``bsfg page`` becomes a session of limited life.

Both are random, kept only as hashes and only in memory: a restart ends every session.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Final

from bsfg.ports import Clock

TOKEN_SECONDS: Final = 300.0
SESSION_SECONDS: Final = 12 * 3600.0
TOKENS_MAX: Final = 16
SESSIONS_MAX: Final = 32
_RANDOM_BYTES: Final = 32


@dataclass
class Session:
    """One browser that is logged in. ``notice`` is what its next page says once."""

    id: str
    """A short public name for audit and log."""
    form_token: str
    ends: float
    """Monotonic seconds."""
    notice: str | None = None
    is_notice_bad: bool = False

    def say(self, notice: str, *, bad: bool = False) -> None:
        self.notice, self.is_notice_bad = notice, bad

    def take_notice(self) -> tuple[str | None, bool]:
        notice, self.notice = self.notice, None
        return notice, self.is_notice_bad

    def is_form(self, token: str) -> bool:
        """Whether a form came from a page that this session was given."""
        return hmac.compare_digest(self.form_token.encode(), token.encode("utf-8", "replace"))


@dataclass
class Sessions:
    """The tokens that wait and the sessions that live; the oldest gives way when there are too many."""

    clock: Clock
    _tokens: dict[str, float] = field(default_factory=dict)
    _sessions: dict[str, Session] = field(default_factory=dict)

    def issue(self) -> str:
        """A new token: good once, for five minutes."""
        self._forget_old()
        while len(self._tokens) >= TOKENS_MAX:
            self._tokens.pop(next(iter(self._tokens)))
        token = secrets.token_urlsafe(_RANDOM_BYTES)
        self._tokens[_hash(token)] = self.clock.monotonic() + TOKEN_SECONDS
        return token

    def redeem(self, token: str) -> tuple[str, Session] | None:
        """The cookie's value and the session for a token, which is then worth nothing; None for any other text."""
        self._forget_old()
        if self._tokens.pop(_hash(token), None) is None:
            return None
        while len(self._sessions) >= SESSIONS_MAX:
            self._sessions.pop(next(iter(self._sessions)))
        cookie = secrets.token_urlsafe(_RANDOM_BYTES)
        ends = self.clock.monotonic() + SESSION_SECONDS
        session = Session(secrets.token_hex(4), secrets.token_urlsafe(_RANDOM_BYTES), ends)
        self._sessions[_hash(cookie)] = session
        return cookie, session

    def find(self, cookie: str | None) -> Session | None:
        """The living session of a cookie."""
        self._forget_old()
        return self._sessions.get(_hash(cookie)) if cookie else None

    def end(self, cookie: str | None) -> None:
        if cookie:
            self._sessions.pop(_hash(cookie), None)

    def _forget_old(self) -> None:
        now = self.clock.monotonic()
        for token in [token for token, ends in self._tokens.items() if ends <= now]:
            del self._tokens[token]
        for cookie in [cookie for cookie, session in self._sessions.items() if session.ends <= now]:
            del self._sessions[cookie]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
