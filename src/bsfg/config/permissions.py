"""Whether a file that must be secret is: keys, seeds, tokens and credentials (I38)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from bsfg.errors import BsfgError, Code


def check_private(path: Path) -> None:
    """Raise ``CONFIGURATION`` unless this is a file that its owner alone can use, and the owner is this user or root.

    Links are followed; what counts is the file that they lead to. Root may use a private file of any user, since it
    is how an operator inspects the home of the gateway's own user.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        cause = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise BsfgError(
            Code.CONFIGURATION,
            f"can't look at the secret file {path}: {cause}",
            hint="it must exist and be readable for the user of the gateway",
            path=str(path),
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise BsfgError(Code.CONFIGURATION, f"the secret file {path} is not a regular file", path=str(path))
    problem = privacy_problem(path, stat.S_IMODE(status.st_mode), status.st_uid, os.geteuid())
    if problem is not None:
        raise problem


def privacy_problem(path: Path, mode: int, owner: int, user: int) -> BsfgError | None:
    """What is wrong with a secret file of this mode and owner for this user; None if nothing is."""
    if owner not in (user, 0) and user != 0:
        return BsfgError(
            Code.CONFIGURATION,
            f"the secret file {path} belongs to user {owner}, not to user {user}",
            hint=f"chown {user} {path} && chmod 600 {path}",
            path=str(path),
        )
    if mode & 0o077:
        return BsfgError(
            Code.CONFIGURATION,
            f"the secret file {path} is open to other users (mode {mode:04o})",
            hint=f"chmod 600 {path}",
            path=str(path),
        )
    return None
