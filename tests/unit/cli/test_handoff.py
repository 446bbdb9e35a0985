"""``bsfg handoff`` as it is typed: exit statuses, a line a problem, stable JSON."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from tests.support.run_records import build_homes, run_record

from bsfg.cli.main import main
from bsfg.config.home import Home
from bsfg.daemon.handoffs import write_handoff
from bsfg.errors import EXIT_DONE, EXIT_FAILED, EXIT_USAGE


@pytest.fixture
def homes(tmp_path: Path) -> dict[str, Home]:
    return build_homes(tmp_path)


@pytest.fixture
def handoffs(homes: dict[str, Home]) -> dict[str, Path]:
    pairs = (("enterprise", "plant-a"), ("plant-a", "enterprise"))
    return {
        zone: write_handoff(homes[zone], run_record(zone, peer), time.time_ns()).path for zone, peer in pairs
    }


def test_verify_says_that_it_holds(
    homes: dict[str, Home], handoffs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    home = str(homes["plant-a"].path)
    assert main(["handoff", "verify", str(handoffs["enterprise"]), "--home", home]) == EXIT_DONE
    assert "accepted" in capsys.readouterr().out
    assert (
        main(["handoff", "verify", str(handoffs["enterprise"]), "--home", home, "--output", "json"])
        == EXIT_DONE
    )
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["accepted"], answer["problems"]) == (True, True, [])


def test_verify_says_each_problem_in_its_own_line_and_exits_1(
    homes: dict[str, Home], handoffs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, home = handoffs["enterprise"], str(homes["plant-a"].path)
    (folder / "handoff.md").write_text("x")
    (folder / "new\nfile").write_text("x")
    (folder / "handoff.html").unlink()
    assert main(["handoff", "verify", str(folder), "--home", home]) == EXIT_FAILED
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.endswith("3 found")
    assert [line.strip() for line in lines] == [
        "handoff.html is missing",
        "handoff.md was changed: its sha-256 is not the manifest's",
        "new\\nfile was added: the manifest does not have it",
    ]
    assert main(["handoff", "verify", str(folder), "--home", home, "--output", "json"]) == EXIT_FAILED
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 3


def test_verify_of_what_is_no_handoff(
    homes: dict[str, Home], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = str(homes["plant-a"].path)
    assert main(["handoff", "verify", str(tmp_path / "none"), "--home", home]) == EXIT_FAILED
    assert "is not a folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["handoff", "verify", str(tmp_path / "empty"), "--home", home]) == EXIT_FAILED
    assert "handoff.json is missing" in capsys.readouterr().out


def test_merge_list_and_show(
    homes: dict[str, Home], handoffs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    home = str(homes["enterprise"].path)
    sources = [str(handoffs["enterprise"] / "handoff.json"), str(handoffs["plant-a"])]
    assert main(["handoff", "merge", *sources, "--home", home, "--output", "json"]) == EXIT_DONE
    merged = json.loads(capsys.readouterr().out)
    assert merged["accepted"] is True
    assert main(["handoff", "verify", merged["path"], "--home", home]) == EXIT_DONE
    capsys.readouterr()
    assert main(["handoff", "list", "--home", home, "--output", "json"]) == EXIT_DONE
    rows = json.loads(capsys.readouterr().out)["handoffs"]
    assert [row["sides"] for row in rows] == [["enterprise"], ["enterprise", "plant-a"]]
    assert main(["handoff", "list", "--home", home]) == EXIT_DONE
    assert merged["path"] in capsys.readouterr().out
    assert main(["handoff", "show", merged["path"], "--home", home]) == EXIT_DONE
    shown = capsys.readouterr().out
    assert "Duplicate replay drill performed" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_merge_of_one_side_twice_is_a_usage_error(
    homes: dict[str, Home], handoffs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    home, folder = str(homes["enterprise"].path), str(handoffs["enterprise"])
    assert main(["handoff", "merge", folder, folder, "--home", home]) == EXIT_USAGE
    assert "not the two sides of one relationship" in capsys.readouterr().err


def test_verify_without_openssl_says_so(
    homes: dict[str, Home],
    handoffs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("openssl") is None
    command = ["handoff", "verify", str(handoffs["enterprise"]), "--home", str(homes["plant-a"].path)]
    assert main(command) == EXIT_FAILED
    assert "there is no openssl on this machine" in capsys.readouterr().out
