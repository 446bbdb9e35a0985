"""Bytes of a configuration file, read once, with everything that can be wrong with a file named."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from bsfg.config.source import Source
from bsfg.config.yaml_text import place_at, read_tree
from bsfg.model.names import printable

FILE_BYTES_MAX: Final = 1024 * 1024
_BOM: Final = b"\xef\xbb\xbf"


def read_source(path: Path, name: str, *, required: bool) -> tuple[Source, str | None]:
    """The file as a source, and the sha-256 of its bytes; None, and an empty source, where it is not there."""
    source = Source(name)
    content = _read_bytes(path, source, required=required)
    if content is None:
        return source, None
    text = _decode(content, source)
    if text is not None:
        read_tree(text, source)
    return source, hashlib.sha256(content).hexdigest()


def _read_bytes(path: Path, source: Source, *, required: bool) -> bytes | None:
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if required or path.is_symlink():
            source.give_up(
                (1, 1), f"there is no file {path}", "name the zone's home with --home or BSFG_HOME"
            )
        return None
    except (OSError, ValueError) as error:
        source.give_up(
            (1, 1), f"can't open {path}: {_cause(error)}", "the file must be readable for this user"
        )
        return None
    try:
        return _read_descriptor(descriptor, source)
    except OSError as error:
        source.give_up((1, 1), f"can't read {path}: {_cause(error)}")
        return None
    finally:
        os.close(descriptor)


def _read_descriptor(descriptor: int, source: Source) -> bytes | None:
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        source.give_up((1, 1), f"is {kind}, not a file")
        return None
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        content = file.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        source.give_up((1, 1), f"is larger than {FILE_BYTES_MAX} bytes")
        return None
    return content


def _cause(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _decode(content: bytes, source: Source) -> str | None:
    if content.startswith(_BOM):
        source.give_up((1, 1), "begins with a byte order mark", "save the file as UTF-8 without a BOM")
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        byte = printable(f"0x{content[error.start]:02x}")
        source.give_up(
            place_at(before, len(before)), f"byte {byte} is not UTF-8", "save the file as UTF-8 without a BOM"
        )
        return None
