"""The program ``bsfg`` as an operator of the lab would call it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from bsfg.errors import BsfgError, Code

DEADLINE_SECONDS: Final = 60.0
_MODULE: Final = "bsfg.cli.main"


def command_line(*arguments: str) -> list[str]:
    """How this very installation's program is started."""
    return [sys.executable, "-m", _MODULE, *arguments]


def shown_program() -> str:
    """How a person calls it."""
    beside = Path(sys.executable).with_name("bsfg")
    return str(beside) if beside.exists() else " ".join(command_line())


def ask(home: Path, *arguments: str, stdin: bytes = b"", deadline_seconds: float = DEADLINE_SECONDS) -> Any:
    """Run a command of a zone and return its JSON; raises the error that the command printed."""
    command = command_line(*arguments, "--home", str(home), "--output", "json")
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, timeout=deadline_seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise BsfgError(
            Code.TIMED_OUT, f"bsfg {' '.join(arguments)} did not end within {deadline_seconds:.0f} s"
        ) from None
    answer = _decoded(done.stdout)
    if answer is None:
        raise _error(done.stderr, arguments, done.returncode)
    return answer


def _decoded(output: bytes) -> Any:
    try:
        return json.loads(output)
    except ValueError:
        return None


def _error(output: bytes, arguments: tuple[str, ...], status: int) -> BsfgError:
    body = _decoded(output.strip().rpartition(b"\n")[2])
    error = body.get("error") if isinstance(body, dict) else None
    words = itertools.takewhile(lambda argument: not argument.startswith("-"), arguments)
    name = " ".join(["bsfg", *words])
    if not isinstance(error, dict):
        said = output.decode("utf-8", "backslashreplace").strip()[-400:]
        return BsfgError(Code.INTERNAL, f"{name} ended with status {status}: {said or 'no output'}")
    code = Code.from_label(str(error.get("code")))
    return BsfgError(code, f"{name}: {error.get('message', '')}", hint=str(error.get("hint", "")))
