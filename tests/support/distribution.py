"""Which tests a worker of pytest-xdist takes together, and which come first, so that none is alone at the end.

A file's tests stay together, as they share what they set up.
"""

from __future__ import annotations

from typing import Any, Final

import pytest

TOGETHER: Final = {
    "tests/contract/test_artifact_store.py": "an S3 server",
    "tests/contract/test_s3_artifacts.py": "an S3 server",
}
"""Files that share what takes a session to set up."""
FIRST: Final = (
    "tests/simulation/test_first_seeds.py",
    "tests/contract/test_artifact_store.py",
    "tests/simulation/test_second_seeds.py",
    "tests/unit/config/test_any_text.py",
    "tests/acceptance/test_histories.py",
    "tests/acceptance/test_exactness.py",
    "tests/acceptance/test_external_nats.py",
    "tests/acceptance/test_bringup_failures.py",
    "tests/acceptance/test_demo.py",
    "tests/acceptance/test_bad_surroundings.py",
    "tests/acceptance/test_workers.py",
    "tests/acceptance/test_page.py",
    "tests/acceptance/test_revocation.py",
    "tests/acceptance/test_autonomy.py",
    "tests/acceptance/test_lab.py",
    "tests/acceptance/test_audit.py",
    "tests/acceptance/test_bringup.py",
    "tests/faults/test_failpoints.py",
)
"""The files that take longest, the longest first; all others come behind them as pytest finds them."""


def file_of(test_id: str) -> str:
    return test_id.partition("::")[0]


def longest_first(items: list[pytest.Item]) -> None:
    """Bring a collection into the order that its files are given out in."""
    places = {file: place for place, file in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(file_of(item.nodeid), len(FIRST)))


def scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives out whole files in the order of the collection."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = file_of(nodeid)
            return TOGETHER.get(file, file)

    config.option.loadscopereorder = False
    return Files(config, log)
