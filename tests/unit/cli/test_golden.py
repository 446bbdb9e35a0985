"""What people see, word for word, in 80 columns: ``tests/golden`` is reviewed whenever it changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from tests.unit.cli.canned import LINK, PEER_CHECK, SILENT_LINK, CannedOperations
from tests.unit.cli.conftest import bsfg_program

from bsfg.errors import ConfigurationError, Problem

GOLDEN: Final = Path(__file__).parents[2] / "golden"

QUERY: Final = ("cursor", "query", "--peer", "enterprise", "--stream", "facts.operational")
ALL_PASSED: Final = PEER_CHECK | {
    "ok": True,
    "checks": [check | {"outcome": "passed", "found": ""} for check in PEER_CHECK["checks"]],  # type: ignore[attr-defined]
}
PREVIEW: Final = {
    "peer": "enterprise",
    "stream": "facts.operational",
    "modes": [
        {
            "mode": "bounded_backfill_24h",
            "is_configured": True,
            "start_sequence": 475,
            "first_fact_time": "2025-01-15T10:00:00.000000001Z",
            "facts": 12_345,
            "bytes": 6_320_640,
        },
        {
            "mode": "start_now",
            "is_configured": False,
            "start_sequence": 12_820,
            "first_fact_time": None,
            "facts": 0,
            "bytes": 0,
        },
    ],
    "dry_run": True,
}
UNKNOWN_CONFIGURATION: Final = ConfigurationError(
    [
        Problem("config/peers.yaml", 7, 5, "unknown key 'authorised'", "did you mean 'authorized'?"),
        Problem("config/peers.yaml", 3, 17, "authorized is text, not true or false"),
        Problem("config/cursors.yaml", 12, 1, "duplicate key '\x1b[2Jpeer'"),
    ]
)


def nothing(operations: CannedOperations) -> None:
    """The canned answers as they are."""


def answers(**changed: Any) -> Callable[[CannedOperations], None]:
    return lambda operations: operations.answers.update(changed)


@pytest.mark.parametrize(
    ("name", "arguments", "prepare", "status"),
    [
        ("status.txt", ("status",), nothing, 0),
        ("cursor_query.txt", QUERY, nothing, 0),
        ("cursor_query.json", (*QUERY, "--output", "json"), nothing, 0),
        ("cursor_query_before_first_fact.txt", QUERY, answers(cursor=SILENT_LINK), 0),
        ("cursor_list.txt", ("cursor", "list"), nothing, 0),
        ("peer_check_failed.txt", ("peer", "check", "enterprise"), nothing, 1),
        ("peer_check_passed.txt", ("peer", "check", "enterprise"), answers(peer_check=ALL_PASSED), 0),
        ("peer_list.txt", ("peer", "list"), nothing, 0),
        ("stream_list.txt", ("stream", "list"), nothing, 0),
        ("stream_info.txt", ("stream", "info", "facts.orders"), nothing, 0),
        ("fetch.txt", ("fetch", *QUERY[2:]), nothing, 0),
        ("fetch_dry_run.txt", ("fetch", *QUERY[2:], "--dry-run"), answers(fetch=PREVIEW), 0),
        ("partition.txt", ("admin", "partition", "--peer", "enterprise", "--reason", "drill"), nothing, 0),
        ("config_reload_errors.txt", ("config", "reload"), answers(reload=UNKNOWN_CONFIGURATION), 2),
        (
            "config_reload_errors.json",
            ("config", "reload", "--output", "json"),
            answers(reload=UNKNOWN_CONFIGURATION),
            2,
        ),
    ],
)
async def test_output(
    home: Path,
    operations: CannedOperations,
    name: str,
    arguments: tuple[str, ...],
    prepare: Callable[[CannedOperations], None],
    status: int,
) -> None:
    prepare(operations)
    finished = await bsfg_program(*arguments, "--home", home)
    text = finished.text + finished.complaint
    assert text == (GOLDEN / name).read_text(encoding="utf-8")
    assert finished.status == status
    assert (finished.complaint != "") == ("errors" in name)
    if name.endswith(".txt"):
        assert max(map(len, text.splitlines())) <= 80


def test_the_golden_cursor_has_exactly_the_contracts_fields() -> None:
    fields = (
        "peer stream state reason epoch generation sequence digest scanned_through local_sequence head "
        "head_age_seconds lag_facts lag_seconds init gaps"
    )
    assert list(LINK) == fields.split()


async def test_config_check_names_each_problem_with_its_place(home: Path) -> None:
    config = home / "config"
    config.mkdir(parents=True)
    (config / "zone.yaml").write_text("zone: plant-a\nidentity: plant-a-bsfg\nidentiy: x\n")
    (config / "peers.yaml").write_text(
        "peers:\n"
        "  - id: enterprise\n"
        "    identity: enterprise-bsfg\n"
        "    endpoint: 10.1.1.10:9443\n"
        "    authorized: no\n"
        "    streams: []\n"
    )
    finished = await bsfg_program("config", "check", "--home", home)
    assert (finished.status, finished.text) == (2, "")
    assert finished.complaint == (GOLDEN / "config_check_errors.txt").read_text(encoding="utf-8")
    structured = await bsfg_program("config", "check", "--home", home, "--output", "json")
    places = [(problem["file"], problem["line"], problem["column"]) for problem in structured.error["problems"]]
    assert (structured.status, structured.error["code"]) == (2, "configuration")
    assert places == [("config/peers.yaml", 5, 17), ("config/zone.yaml", 3, 1)]
