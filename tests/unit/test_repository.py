"""Rules of the repository itself: what no linter says and a reader relies on."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
SOURCE: Final = ROOT / "src" / "bsfg"
SOURCE_FILES: Final = sorted(SOURCE.rglob("*.py"))
PURE_ROOMS: Final = ("model", "core")
IMPURE_MODULES: Final = {"asyncio", "ssl", "socket", "time", "random", "logging"}
REGISTRY_HOST: Final = re.compile(r"https?://[^\s'\"]*(pypi|pythonhosted|simple/|artifactory|nexus)", re.IGNORECASE)
TEXT_SUFFIXES: Final = {".py", ".md", ".toml", ".lock", ".txt", ".yaml", ".yml", ".service", ".sh", ".html", ""}
VERIFICATION_SWITCHES: Final = ("CERT_NONE", "CERT_OPTIONAL", "verify=False", "ssl=False", "_create_unverified")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def repository_files() -> list[Path]:
    """The text files that belong to the repository, as far as they are known to git or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        rooms = ("src", "tests", "docs", "deploy", "tools", "bench", "examples")
        paths = [*ROOT.glob("*.*"), *(path for room in rooms for path in (ROOT / room).rglob("*"))]
    return sorted(path for path in paths if path.is_file() and path.suffix in TEXT_SUFFIXES)


def imported_modules(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", SOURCE_FILES, ids=relative)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{relative(path)} has no docstring"


@pytest.mark.parametrize(
    "path", [path for path in SOURCE_FILES if path.relative_to(SOURCE).parts[0] in PURE_ROOMS], ids=relative
)
def test_model_and_core_import_the_pure_standard_library_alone(path: Path) -> None:
    modules = imported_modules(ast.parse(path.read_text(encoding="utf-8")))
    roots = {name.partition(".")[0] for name in modules}
    assert not roots & IMPURE_MODULES
    assert roots <= sys.stdlib_module_names | {"bsfg"}


@pytest.mark.parametrize("path", SOURCE_FILES, ids=relative)
def test_nothing_can_switch_certificate_verification_off(path: Path) -> None:
    code = ast.unparse(ast.parse(path.read_text(encoding="utf-8")))
    assert not [switch for switch in VERIFICATION_SWITCHES if switch in code]


def test_no_file_names_a_package_registry() -> None:
    own_name = Path(__file__).resolve()
    found = [
        relative(path)
        for path in repository_files()
        if path != own_name and REGISTRY_HOST.search(path.read_text(encoding="utf-8"))
    ]
    assert not found


@pytest.mark.parametrize(
    "name", ["requirements-build.lock", "requirements.lock", "requirements-dev.lock", "requirements-fuzz.lock"]
)
def test_every_locked_package_has_one_version_and_its_hashes(name: str) -> None:
    entries = re.split(r"\n(?=\S)", (ROOT / name).read_text(encoding="utf-8").strip())
    assert entries
    assert not [entry.splitlines()[0] for entry in entries if not re.match(r"[a-z0-9-]+==\S+ ", entry)]
    assert not [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry]


def test_the_lock_holds_every_dependency_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE))
    wanted = {
        re.split(r"[<>=\[; ]", line)[0].lower().replace("_", "-").replace(".", "-")
        for line in project["project"]["dependencies"]
    }
    assert wanted <= locked


def test_the_locks_agree() -> None:
    versions = [
        dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))
        for name in ("requirements.lock", "requirements-dev.lock")
    ]
    runtime, development = versions
    assert runtime.items() <= development.items()


def run_inner_tests(folder: Path, allowed: str) -> subprocess.CompletedProcess[str]:
    """A pytest of its own, with this repository's conftest, over one test that passes and one that is skipped."""
    conftest = (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")
    (folder / "conftest.py").write_text(conftest, encoding="utf-8")
    (folder / "allowed_skips.txt").write_text(allowed, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (folder / "test_inner.py").write_text(
        "import pytest\n\ndef test_runs():\n    pass\n\ndef test_skips():\n    pytest.skip('no such device')\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("allowed", "status"),
    [
        ("", 10),
        ("test_inner.py::test_runs  # another test\n", 10),
        ("# a comment\ntest_inner.py::test_skips  # there is no such device here\n", 0),
    ],
)
def test_a_skip_fails_the_run_unless_it_is_named_with_a_reason(tmp_path: Path, allowed: str, status: int) -> None:
    finished = run_inner_tests(tmp_path, allowed)
    assert finished.returncode == status, finished.stdout
    assert ("without being named" in finished.stdout) == (status != 0)


def test_an_allowed_skip_without_a_reason_is_an_error(tmp_path: Path) -> None:
    finished = run_inner_tests(tmp_path, "test_inner.py::test_skips\n")
    assert finished.returncode == pytest.ExitCode.USAGE_ERROR
    assert "a skip needs" in finished.stdout + finished.stderr


def test_the_systemd_unit_keeps_the_server_of_a_killed_gateway() -> None:
    unit = (ROOT / "deploy" / "systemd" / "bsfg-controller.service").read_text(encoding="utf-8").splitlines()
    wanted = {"Type=notify", "KillMode=process", "OOMPolicy=continue", "User=bsfg", "RestartPreventExitStatus=2"}
    assert wanted <= set(unit)
    assert any(line.startswith("WatchdogSec=") for line in unit)
    assert any(line.startswith("LimitNOFILE=") for line in unit)
