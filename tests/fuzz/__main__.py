"""``make fuzz``: every target for its share of the time, guided by which lines of ours its bytes reach.

Each target runs in a process of its own, because libFuzzer ends the one that it runs in. Exit status 1 as soon as a
rule was broken; the bytes that did it are kept and named. A seed repeats the choices, as far as the time allows.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fuzz.seeds import SEEDS
from tests.fuzz.targets import TARGETS

BYTES_MAX: Final = 8192
"""Of one input; what is longer is made of the same parts."""
MEMORY_MEBIBYTES_MAX: Final = 1024
INPUT_SECONDS_MAX: Final = 10
GRACE_SECONDS: Final = 60.0
_EXECUTED: Final = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
_COVERED: Final = re.compile(r"cov: (\d+)")
_KEPT: Final = re.compile(r"Test unit written to (\S+)")


@dataclass(frozen=True)
class Finding:
    """What came of one target; ``kept`` is the file with the bytes that broke a rule."""

    executions: int
    covered: int
    status: int
    kept: str | None
    said: list[str]

    @property
    def is_good(self) -> bool:
        return self.status == 0 and self.kept is None


def fuzz(name: str, seconds: int, seed: int, folder: Path) -> Finding:
    """Run one target for so long, from its seeds and whatever ``folder`` holds from before."""
    corpus = folder / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, raw in enumerate(SEEDS[name]):
        (corpus / f"seed-{number:02d}").write_bytes(raw)
    command = [
        sys.executable, "-m", "tests.fuzz.guided", name, f"-max_total_time={seconds}", f"-seed={seed}",
        f"-max_len={BYTES_MAX}", f"-rss_limit_mb={MEMORY_MEBIBYTES_MAX}", f"-timeout={INPUT_SECONDS_MAX}",
        f"-artifact_prefix={folder}/{name}-", "-print_final_stats=1", str(corpus),
    ]  # fmt: skip
    finished = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=seconds + GRACE_SECONDS,
    )
    said = finished.stdout + finished.stderr
    kept = _KEPT.search(said)
    return Finding(
        executions=max((int(found) for found in _EXECUTED.findall(said)), default=0),
        covered=max((int(found) for found in _COVERED.findall(said)), default=0),
        status=finished.returncode,
        kept=kept[1] if kept else None,
        said=said.splitlines(),
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--budget", type=int, default=300, help="seconds, for all targets together")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000 + 1)
    parser.add_argument("--only", choices=sorted(TARGETS), help="this target alone")
    parser.add_argument("--corpus", type=Path, help="a folder that keeps what was found from run to run")
    arguments = parser.parse_args()
    names = [arguments.only] if arguments.only else list(TARGETS)
    folder = arguments.corpus or Path(tempfile.mkdtemp(prefix="bsfg-fuzz-"))
    seconds = max(1, arguments.budget // len(names))
    print(f"seed {arguments.seed}, {seconds} s for each of {', '.join(names)}")
    bad = 0
    for name in names:
        finding = fuzz(name, seconds, arguments.seed, folder)
        print(f"{name:16} {finding.executions:12,} executions, {finding.covered:6,} places reached")
        if not finding.is_good:
            bad += 1
            print("\n".join(finding.said[-40:]))
            print(f"{name}: broken by the bytes in {finding.kept or 'no file'}, exit status {finding.status}")
    print(f"{len(names)} targets, {bad} broken")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
