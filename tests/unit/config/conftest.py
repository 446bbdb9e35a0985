"""A home with real files, written by each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

WriteHome = Callable[..., Path]


@pytest.fixture
def write_home(tmp_path: Path) -> WriteHome:
    """Writes ``config/<name>.yaml`` for each keyword that is not None, as text or bytes, and returns the home."""

    def write(**files: str | bytes | None) -> Path:
        (tmp_path / "config").mkdir(exist_ok=True)
        for name, content in files.items():
            if content is not None:
                path = tmp_path / "config" / f"{name}.yaml"
                path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return write
