"""One lab at a time: a module's tests share one, and put back what they change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.lab_zones import Lab, running_lab
from tests.support.radosgw import RadosGateway, radosgw_or_skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two running zones without facts."""
    with running_lab(tmp_path_factory.mktemp("lab") / "lab") as running:
        yield running


@pytest.fixture(scope="module")
def full_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two running zones with facts, some of which name artifacts."""
    with running_lab(tmp_path_factory.mktemp("lab") / "lab", empty=False) as running:
        yield running


@pytest.fixture(scope="session")
def radosgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RadosGateway]:
    """A real S3 server for the run."""
    with radosgw_or_skip(tmp_path_factory.mktemp("radosgw")) as server:
        yield server
