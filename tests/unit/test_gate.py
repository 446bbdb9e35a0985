"""The run of all tests: what is tried again, what is not, and that a second attempt is never hidden."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from tests import gate
from tests.support import distribution

# Fails at its first attempt of each process that runs it, and passes at the next.
FLAKY: Final = """
from pathlib import Path

def test_{name}():
    mark = Path(__file__).with_suffix(".mark")
    is_second = mark.exists()
    mark.touch()
    assert is_second
"""
BROKEN: Final = "def test_{name}():\n    assert False\n"
GOOD: Final = """
from pathlib import Path

def test_{name}():
    with Path(__file__).with_suffix(".log").open("a") as log:
        log.write("x")
"""
NAMED: Final = "passed at its second attempt alone, which is a defect to be mended"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where inner runs of pytest have a configuration of their own, and no plugins but those named."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def write(folder: Path, kind: str, *names: str) -> None:
    for name in names:
        (folder / f"test_{name}.py").write_text(kind.replace("{name}", name))


def test_what_passes_alone_passes_and_is_named_in_the_last_lines(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(folder, FLAKY, "a", "b", "c")
    write(folder, GOOD, "good")
    assert gate.run([("-p", "xdist.plugin", "--numprocesses", "2")], folder) == 0
    ids = [f"test_{name}.py::test_{name}" for name in "abc"]
    assert sorted(capfd.readouterr().out.splitlines()[-3:]) == [f"{NAMED}: {test}" for test in ids]
    assert (folder / "test_good.log").read_text() == "x", "what passed is not run again"


def test_nothing_is_named_where_nothing_failed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(folder, GOOD, "good")
    assert gate.run([(), ()], folder) == 0
    assert NAMED not in capfd.readouterr().out
    assert (folder / "test_good.log").read_text() == "xx", "each part runs"


def test_what_fails_twice_fails_the_run_and_no_further_part_begins(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(folder, FLAKY, "a")
    write(folder, BROKEN, "broken")
    write(folder, GOOD, "good")
    assert gate.run([(), ("test_good.py",)], folder) == 1
    assert NAMED not in capfd.readouterr().out
    assert (folder / "test_good.log").read_text() == "x"


@pytest.mark.parametrize(
    "parts", [[()], [("test_a.py", "test_b.py"), ("test_c.py", "test_d.py")]], ids=["one", "two"]
)
def test_more_than_three_failures_are_not_tried_again(
    folder: Path, capfd: pytest.CaptureFixture[str], parts: list[tuple[str, ...]]
) -> None:
    write(folder, FLAKY, "a", "b", "c", "d")
    assert gate.run(parts, folder) == 1
    said = capfd.readouterr().out
    assert said.count("once more") == len(parts) - 1
    assert NAMED not in said


@pytest.mark.parametrize(
    ("name", "text", "status"),
    [
        ("test_broken.py", "import no_such_module\n", 2),
        ("conftest.py", "import no_such_module\n", 4),
        ("conftest.py", "def pytest_runtest_protocol(item):\n    raise RuntimeError('internal')\n", 3),
        ("conftest.py", "def pytest_runtest_call(item):\n    raise KeyboardInterrupt\n", 2),
        ("conftest.py", "def pytest_sessionfinish(session):\n    session.exitstatus = 10\n", 10),
        ("conftest.py", "import os\n\ndef pytest_collection_modifyitems():\n    os._exit(1)\n", 1),
    ],
    ids=["not collected", "not configured", "internal error", "interrupted", "unexplained skip", "gone"],
)
def test_another_end_of_pytest_is_not_tried_again(
    folder: Path, capfd: pytest.CaptureFixture[str], name: str, text: str, status: int
) -> None:
    write(folder, FLAKY, "a")
    (folder / name).write_text(text)
    assert gate.run([()], folder) == status
    assert "once more" not in capfd.readouterr().out


def test_every_file_that_has_its_place_in_the_order_exists() -> None:
    root = Path(__file__).resolve().parents[2]
    assert [
        file for file in (*distribution.FIRST, *distribution.TOGETHER) if not (root / file).is_file()
    ] == []


def test_files_are_given_out_whole_the_longest_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers, five files: each file's tests run in one process, and the long one begins first."""
    (folder / "conftest.py").write_text(
        "from tests.support import distribution\n\n"
        "def pytest_collection_modifyitems(items):\n    distribution.longest_first(items)\n\n"
        "def pytest_xdist_make_scheduler(config, log):\n    return distribution.scheduler(config, log)\n\n"
        "distribution.FIRST = ('test_e.py',)\n"
        "distribution.TOGETHER = {'test_a.py': 'both', 'test_c.py': 'both'}\n"
    )
    text = """
import os, time
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range(3))
def test_{name}(number):
    with (Path(__file__).parent / "order").open("a") as order:
        order.write(f"{os.getpid()} {name} {time.monotonic()}\\n")
"""
    write(folder, text, "a", "b", "c", "d", "e")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    assert gate.run([("-p", "xdist.plugin", "--numprocesses", "2")], folder) == 0
    rows = [line.split() for line in (folder / "order").read_text().splitlines()]
    processes = {name: {process for process, file, _ in rows if file == name} for name in "abcde"}
    assert {len(found) for found in processes.values()} == {1}
    assert processes["a"] == processes["c"]
    begun = {name: min(float(at) for _, file, at in rows if file == name) for name in "abcde"}
    first = min(begun, key=lambda name: begun[name])
    beside = {name for name in "abcde" if processes[name] != processes["e"]}
    assert first == "e" or (
        first in beside and begun["e"] == min(at for name, at in begun.items() if name not in beside)
    )
