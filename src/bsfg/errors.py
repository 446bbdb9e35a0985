"""The one tree of errors: every failure that reaches an operator or a peer is a :class:`BsfgError`.

An error carries a stable code, a message that names operation, object and cause, a hint that says what to do, and,
through its code, the HTTP status a peer sees and the exit status a script sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_DENIED: Final = 4
EXIT_TIMED_OUT: Final = 5
EXIT_INTERRUPTED: Final = 130


class Code(Enum):
    """Stable error codes, each with its HTTP status and its exit status (contract, section 4)."""

    INVALID_REQUEST = ("invalid_request", 400, EXIT_USAGE)
    UNKNOWN_FIELD = ("unknown_field", 400, EXIT_USAGE)
    INVALID_STREAM = ("invalid_stream", 400, EXIT_USAGE)
    INVALID_URI = ("invalid_uri", 400, EXIT_USAGE)
    INIT_REJECTED = ("init_rejected", 400, EXIT_FAILED)
    IDENTITY_REJECTED = ("identity_rejected", 403, EXIT_DENIED)
    PEER_UNKNOWN = ("peer_unknown", 403, EXIT_DENIED)
    STREAM_DENIED = ("stream_denied", 403, EXIT_DENIED)
    ARTIFACT_DENIED = ("artifact_denied", 403, EXIT_DENIED)
    ARTIFACT_NOT_FOUND = ("artifact_not_found", 404, EXIT_FAILED)
    NOT_FOUND = ("not_found", 404, EXIT_FAILED)
    HISTORY_MISMATCH = ("history_mismatch", 409, EXIT_FAILED)
    AHEAD_OF_SOURCE = ("ahead_of_source", 409, EXIT_FAILED)
    GAP = ("gap", 409, EXIT_FAILED)
    CONFLICTING_DUPLICATE = ("conflicting_duplicate", 409, EXIT_FAILED)
    QUOTA_EXCEEDED = ("quota_exceeded", 409, EXIT_FAILED)
    LOCAL_FULL = ("local_full", 409, EXIT_FAILED)
    TOO_LARGE = ("too_large", 413, EXIT_FAILED)
    TOO_MANY = ("too_many", 429, EXIT_FAILED)
    UNAVAILABLE = ("unavailable", 503, EXIT_UNREACHABLE)
    PARTITIONED = ("partitioned", 503, EXIT_UNREACHABLE)
    # Local codes: they never travel to a peer.
    CONFIGURATION = ("configuration", 400, EXIT_USAGE)
    CHECK_FAILED = ("check_failed", 409, EXIT_FAILED)
    HALTED = ("halted", 409, EXIT_FAILED)
    FENCED = ("fenced", 409, EXIT_FAILED)
    OUTCOME_UNKNOWN = ("outcome_unknown", 503, EXIT_UNREACHABLE)
    BAD_ANSWER = ("bad_answer", 502, EXIT_FAILED)
    TIMED_OUT = ("timed_out", 504, EXIT_TIMED_OUT)
    INTERNAL = ("internal", 500, EXIT_FAILED)

    def __init__(self, label: str, http_status: int, exit_status: int) -> None:
        self.label = label
        self.http_status = http_status
        self.exit_status = exit_status

    @classmethod
    def from_label(cls, label: str) -> Code:
        """The code with this label; a label from a newer peer that we don't know is ``INTERNAL``."""
        return _BY_LABEL.get(label, cls.INTERNAL)


_BY_LABEL: Final[Mapping[str, Code]] = {code.label: code for code in Code}


class BsfgError(Exception):
    """A failure with a code, a message for people, a hint, and machine-readable details."""

    def __init__(self, code: Code, message: str, *, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        """Between processes of one gateway an error travels whole, whatever its class."""
        return _restored, (type(self), self.message, self.__dict__)

    @property
    def exit_status(self) -> int:
        return self.code.exit_status

    def as_json(self) -> dict[str, Any]:
        """The stable JSON shape of an error: ``{"error": {"code", "message", ["hint"], ...}}``."""
        body: dict[str, Any] = {"code": self.code.label, "message": self.message}
        if self.hint:
            body["hint"] = self.hint
        return {"error": body | self.details}


def _restored(kind: type[BsfgError], message: str, state: dict[str, Any]) -> BsfgError:
    error = kind.__new__(kind, message)
    error.__dict__.update(state)
    return error


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong in one place of a configuration file; line and column start at 1."""

    file: str
    line: int
    column: int
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}"
        return f"{place}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class ConfigurationError(BsfgError):
    """Every problem found in one pass over the configuration files."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(problems)
        super().__init__(
            Code.CONFIGURATION,
            "\n".join(str(problem) for problem in self.problems),
            problems=[
                {
                    "file": problem.file,
                    "line": problem.line,
                    "column": problem.column,
                    "message": problem.message,
                    "hint": problem.hint,
                }
                for problem in self.problems
            ],
        )


class SubstrateUnavailable(BsfgError):
    """The local store can't be reached or does not answer in time; nothing is known to have changed."""

    def __init__(self, message: str, *, hint: str = "", **details: Any) -> None:
        super().__init__(Code.UNAVAILABLE, message, hint=hint, **details)


class OutcomeUnknown(BsfgError):
    """An append was sent and not answered: it may or may not be stored. Read back before anything else (I5)."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(Code.OUTCOME_UNKNOWN, message, **details)


class Fenced(BsfgError):
    """The store refused an append because the stream is not where the writer believed it to be (I11)."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(Code.FENCED, message, **details)


class StoreFull(BsfgError):
    """The store refused an append for want of room: a definite answer, nothing was stored (I28)."""

    def __init__(self, message: str, *, hint: str = "", **details: Any) -> None:
        super().__init__(Code.LOCAL_FULL, message, hint=hint, **details)


class PeerUnreachable(BsfgError):
    """The peer did not answer: no route, refused, silent, or its gateway is not up."""

    def __init__(self, message: str, *, hint: str = "", **details: Any) -> None:
        super().__init__(Code.UNAVAILABLE, message, hint=hint, **details)


class PeerRefused(BsfgError):
    """The peer answered with an error of the contract; ``code`` and ``details`` are the peer's own words."""


class ArtifactCorrupt(BsfgError):
    """The bytes that came are not those that were named; both digests are in the details."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(Code.BAD_ANSWER, message, **details)
