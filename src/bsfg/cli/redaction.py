"""Takes secrets out of text: those that this home holds, by their very bytes, and whatever looks like one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

REMOVED: Final = "[removed]"
SECRET_BYTES_MIN: Final = 8
"""What is shorter would be found everywhere; keys, seeds and tokens are longer."""
SECRET_FILE_BYTES_MAX: Final = 1024 * 1024
_PUBLIC_SUFFIXES: Final = (".crt", ".pem", ".yaml")
_SHAPES: Final = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"\bS[UAOCNX][A-Z2-7]{56}\b"),
    re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"),
    re.compile(r"(?<=://)[^/\s@\"']+:[^/\s@\"']+(?=@)"),
    re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(r"(?<=[?&]token=)[A-Za-z0-9_%-]+"),
    re.compile(r"(?i)(?<=password)\W{1,4}\S+|(?<=secret_access_key)\W{1,4}\S+"),
)


class Redaction:
    """Replaces every secret of a home in a text."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # The longest first: a line of a key must not be taken out of the middle of the whole.
        self._secrets = sorted({text for text in secrets if len(text) >= SECRET_BYTES_MIN}, key=len, reverse=True)

    @classmethod
    def of_home(cls, home: Path, further: Iterable[Path] = ()) -> Redaction:
        """What is below ``config/`` and ``certs/`` and no certificate and no YAML is secret, in each of its lines.

        So are ``further``, the files that the configuration names.
        """
        folders = (home / "config", home / "certs")
        found = [path for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.is_file()]
        files = {path for path in found if path.suffix not in _PUBLIC_SUFFIXES} | set(further)
        # A .pem may hold a key beside its certificate.
        files |= {path for path in found if path.suffix == ".pem" and "PRIVATE KEY" in _text(path)}
        return cls(line for path in files for line in (_text(path), *_text(path).splitlines()))

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, REMOVED)
        for shape in _SHAPES:
            text = shape.sub(REMOVED, text)
        return text


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(SECRET_FILE_BYTES_MAX).decode("utf-8", "replace").strip()
    except OSError:
        return ""
