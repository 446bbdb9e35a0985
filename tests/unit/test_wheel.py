"""A wheel holds, beside modules, the operator page's files and the licence of what is vendored."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "src" / "bsfg" / "daemon" / "page"


def test_a_wheel_has_every_file_of_the_operator_page(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    wanted = {
        path.relative_to(ROOT / "src").as_posix()
        for folder in ("templates", "static")
        for path in (PAGE / folder).rglob("*")
        if path.is_file()
    }
    assert "bsfg/daemon/page/static/uPlot-LICENSE.txt" in wanted
    assert wanted <= packed
