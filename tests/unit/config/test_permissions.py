"""A secret that others can read is refused, with the command that mends it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bsfg.config.permissions import check_private, privacy_problem
from bsfg.errors import BsfgError, Code


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "server.key"
    path.write_text("secret")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_private_file_passes(secret: Path, mode: int) -> None:
    secret.chmod(mode)
    check_private(secret)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o622, 0o644, 0o666, 0o777])
def test_a_file_that_others_can_use_is_refused(secret: Path, mode: int) -> None:
    secret.chmod(mode)
    with pytest.raises(BsfgError) as caught:
        check_private(secret)
    assert caught.value.code is Code.CONFIGURATION
    assert f"{secret} is open to other users (mode {mode:04o})" in caught.value.message
    assert caught.value.hint == f"chmod 600 {secret}"


def test_a_link_counts_as_what_it_leads_to(secret: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(secret)
    check_private(link)
    secret.chmod(0o644)
    with pytest.raises(BsfgError, match="open to other users"):
        check_private(link)


@pytest.mark.parametrize(
    ("owner", "user", "is_refused"),
    [
        (1000, 1000, False),
        (0, 1000, False),
        (0, 0, False),
        (1000, 0, False),
        (1001, 1000, True),
        (1000, 1001, True),
    ],
)
def test_the_owner_is_this_user_or_root(owner: int, user: int, is_refused: bool) -> None:
    problem = privacy_problem(Path("k"), 0o600, owner, user)
    assert (problem is not None) == is_refused
    if problem is not None:
        assert problem.hint == f"chown {user} k && chmod 600 k"


def test_the_owner_of_the_file_is_what_is_looked_at(secret: Path) -> None:
    status = secret.stat()
    assert privacy_problem(secret, 0o600, status.st_uid, os.geteuid()) is None


def test_what_is_not_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BsfgError, match="not a regular file"):
        check_private(tmp_path)
    with pytest.raises(BsfgError, match=r"can't look at the secret file .*: No such file"):
        check_private(tmp_path / "nowhere")
