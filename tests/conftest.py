"""What holds for every test: a skip that nobody wrote down fails the run, as a test not run proves nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import hypothesis
import pytest
from tests.support import distribution, own_ports

ALLOWED_SKIPS: Final = Path(__file__).with_name("allowed_skips.txt")
ALLOWED: Final = pytest.StashKey[dict[str, str]]()
EXIT_UNEXPLAINED_SKIP: Final = 10
"""Unlike a failed test, this is not tried again (tests/gate.py)."""


def read_allowed_skips(text: str) -> dict[str, str]:
    """Test ids with the reason for skipping each; an entry without a reason is an error of usage."""
    allowed: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        test_id, _, reason = (part.strip() for part in line.partition("  #"))
        if not test_id or not reason:
            raise pytest.UsageError(f"{ALLOWED_SKIPS.name}:{number}: a skip needs '<test id>  # <reason>'")
        allowed[test_id] = reason
    return allowed


def pytest_configure(config: pytest.Config) -> None:
    own_ports.claim()
    # How long an example takes is the machine's affair.
    hypothesis.settings.register_profile(
        "machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("machine")
    config.stash[ALLOWED] = read_allowed_skips(ALLOWED_SKIPS.read_text(encoding="utf-8"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    distribution.longest_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return distribution.scheduler(config, log)


def unexplained_skips(config: pytest.Config) -> list[str]:
    """Ids of the tests and files that were skipped, or failed as expected, without standing in the list."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return []
    skipped = [report.nodeid for kind in ("skipped", "xfailed") for report in reporter.stats.get(kind, ())]
    return sorted({test_id for test_id in skipped if test_id not in config.stash[ALLOWED]})


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist leaves this to the process that gathers all reports."""
    if not hasattr(session.config, "workerinput") and unexplained_skips(session.config):
        session.exitstatus = EXIT_UNEXPLAINED_SKIP


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    names = unexplained_skips(config)
    if names:
        terminalreporter.section("skipped without being named in tests/allowed_skips.txt", red=True)
        for name in names:
            terminalreporter.line(name)
