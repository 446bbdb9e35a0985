"""NKey seeds in files that only their owner reads (contract, section 3; I38)."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

import nkeys

from bsfg.errors import BsfgError, Code
from bsfg.substrates.private_files import private_folder, sync_folder, write_draft

SEED_BYTES_MAX: Final = 256
_OTHERS: Final = 0o077


def ensure_seed(path: Path) -> str:
    """The public key of the user seed in this file, which is made if it does not exist.

    A new seed is durable on return, its file is 0600 from its first byte and is never seen half written. Raises
    ``configuration`` for an existing file that others can read or that holds no user seed, ``unavailable`` where the
    file can't be made or read.
    """
    try:
        if not path.exists():
            _create(path)
        return _public_key(path, _read_private(path))
    except OSError as error:
        raise BsfgError(
            Code.UNAVAILABLE,
            f"cannot read or make the NKey seed {path}: {error.strerror}",
            hint="the gateway's user must own the folder, and the disk must have room",
        ) from error


def _create(path: Path) -> None:
    private_folder(path.parent)
    draft = write_draft(path, nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
    try:
        # A link, unlike a rename, keeps the seed of whoever came first.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def _read_private(path: Path) -> bytes:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_mode & _OTHERS:
            raise BsfgError(
                Code.CONFIGURATION,
                f"the NKey seed {path} is not a file that only its owner can read "
                f"(mode {stat.S_IMODE(status.st_mode):04o})",
                hint=f"chmod 600 {path}; if others may have read it, delete it and start again for a new one",
            )
        return file.read(SEED_BYTES_MAX)


def _public_key(path: Path, seed: bytes) -> str:
    try:
        pair = nkeys.from_seed(bytearray(seed.strip()))
        public_key = bytes(pair.public_key).decode("ascii")
    except (nkeys.NkeysError, ValueError):
        public_key = ""
    if not public_key.startswith("U"):
        raise BsfgError(
            Code.CONFIGURATION,
            f"{path} does not hold the NKey seed of a user",
            hint="restore it from a backup, or delete it and start again for a new one",
        )
    return public_key
