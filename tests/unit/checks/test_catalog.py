"""The catalog is the runbook in its order, and docs/checks.md is the catalog in words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from bsfg.checks.catalog import CATALOG, SECTIONS
from bsfg.checks.check import Check
from bsfg.checks.model import Severity

ROOT: Final = Path(__file__).resolve().parents[3]
DOCUMENT: Final = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
HALTING_STEPS: Final = {"1", "2", "3.1", "3.2", "3.3", "4.1", "5.2", "6.1", "6.3"}
"""The steps of the runbook with a "Halt if", and its inputs (contract, section 7)."""
STEPS: Final = (
    "1", "2", "3.1", "3.2", "3.3", "4.1", "4.2", "4.3", "5.1", "5.2", "5.3",
    "6.1", "6.2", "6.3", "6.4", "6.5", "6.6", "7.1", "7.2", "7.3", "7.4",
    "8.1", "8.2", "8.3", "8.4", "8.5", "8.6", "8.7", "9",
)  # fmt: skip


def numbers(check: Check) -> tuple[int, ...]:
    return tuple(map(int, check.section.split(".")))


def test_the_catalog_is_in_the_runbooks_order() -> None:
    assert [numbers(check) for check in CATALOG] == sorted(map(numbers, CATALOG))
    assert {check.section.partition(".")[0] for check in CATALOG} <= set(SECTIONS)


@pytest.mark.parametrize("step", STEPS)
def test_every_step_has_a_check(step: str) -> None:
    assert [check for check in CATALOG if check.section == step]


def test_ids_are_unique_and_can_be_typed() -> None:
    ids = [check.id for check in CATALOG]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.-]*", each) for each in ids)


@pytest.mark.parametrize("check", CATALOG, ids=lambda check: check.id)
def test_a_check_stands_only_on_earlier_ones(check: Check) -> None:
    ids = [each.id for each in CATALOG]
    assert set(check.requires) <= set(ids[: ids.index(check.id)])
    assert check.hint and check.title and not check.title.endswith(".")


def test_only_steps_with_a_halt_if_halt() -> None:
    assert {check.section for check in CATALOG if check.severity is Severity.HALT} == HALTING_STEPS


def test_the_document_describes_each_check_in_the_catalogs_order() -> None:
    assert re.findall(r"^### `(.+)`$", DOCUMENT, re.MULTILINE) == [check.id for check in CATALOG]


@pytest.mark.parametrize("check", CATALOG, ids=lambda check: check.id)
def test_the_document_has_title_severity_failure_and_fix(check: Check) -> None:
    part = re.split(r"^##", DOCUMENT.partition(f"### `{check.id}`\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    word = "halt" if check.severity is Severity.HALT else "warning"
    assert f"\n{check.section}, {word}: {check.title}.\n" in part
    assert "\n- Failure: " in part and "\n- Fix: " in part
