"""Journal, refusals, gauges: one line an event, bounded, and nothing said that is not known."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bsfg.config.values import LogConfig, LogFormat
from bsfg.daemon.audit import AuditLog
from bsfg.daemon.gauges import GaugeReadings, families
from bsfg.daemon.journal import open_journal
from bsfg.daemon.listener_observer import ListenerObserver
from bsfg.daemon.refusals import SINGLY_PER_MINUTE
from bsfg.daemon.system import SystemClock
from bsfg.daemon.telemetry import LOG_EVENTS, Telemetry
from bsfg.errors import Code
from bsfg.model.names import parse_zone

HOSTILE = 'x\r\n{"level": "info"}\u2028\x1b[31m' + "y" * 10_000
ROW = {
    "peer": "enterprise",
    "stream": "facts.operational",
    "state": "catching_up",
    "sequence": 7,
    "head": 9,
    "lag_facts": 2,
    "lag_seconds": 1.5,
    "head_age_seconds": 0.5,
    "reason": None,
    "gaps": [],
}
READINGS = GaugeReadings([ROW], [], {parse_zone("enterprise"): True}, 60.0, 86_400.0, None, {}, True)


@pytest.mark.parametrize("style", [LogFormat.JSON, LogFormat.TEXT])
def test_an_event_is_one_line_whatever_a_peer_put_into_it(
    style: LogFormat, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "log" / "bsfg.log"
    journal = open_journal(LogConfig(style, file), "plant-a")
    journal.warning("request_denied", peer=HOSTILE, message=HOSTILE)
    for text in (file.read_text(), capsys.readouterr().err):
        assert len(text.splitlines()) == 1
        assert "\x1b" not in text and len(text) < 10_000


def test_a_json_line_has_the_fields_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    open_journal(LogConfig(), "plant-a").info(
        "cursor_advanced", peer="enterprise", stream="s", message="cursor advanced to 9"
    )
    line = json.loads(capsys.readouterr().err)
    assert list(line)[:3] == ["ts", "level", "event"]
    assert line | {"ts": ""} == {
        "ts": "",
        "level": "info",
        "event": "cursor_advanced",
        "zone": "plant-a",
        "peer": "enterprise",
        "stream": "s",
        "message": "cursor advanced to 9",
    }


def test_what_a_library_logs_is_a_line_of_ours_without_its_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    open_journal(LogConfig(), "plant-a")
    try:
        raise ValueError("inside")
    except ValueError:
        logging.getLogger("asyncio").exception("something\nwent wrong")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    line = json.loads(lines[0])
    assert (line["event"], line["level"], line["source"]) == ("library_notice", "error", "asyncio")
    assert "went wrong: ValueError('inside')" in line["message"]


def test_every_log_event_in_the_source_is_declared() -> None:
    import re

    source = Path(__file__).parents[3] / "src" / "bsfg"
    used = set()
    for path in [*(source / "daemon").glob("*.py"), *(source / "bootstrap").glob("*.py")]:
        used |= set(re.findall(r'journal\.(?:info|warning|error)\(\s*"(\w+)"', path.read_text()))
    assert used and used <= set(LOG_EVENTS)


def test_a_flood_of_refusals_is_counted_and_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry, path = Telemetry(), tmp_path / "audit.jsonl"
    audit = AuditLog(path, SystemClock())
    observer = ListenerObserver(open_journal(LogConfig(), "plant-a"), audit, telemetry)
    for port in range(500):
        observer.handshake_failed(f"10.0.0.1:{port}", "unknown_ca", "who is that")
    observer.handshake_failed("10.0.0.2:1", "unknown_ca", "who is that")
    observer.denied(parse_zone("enterprise"), Code.STREAM_DENIED, "facts.secret")
    assert len(capsys.readouterr().err.splitlines()) == SINGLY_PER_MINUTE + 2
    audit.close()
    assert len(path.read_bytes().splitlines()) == SINGLY_PER_MINUTE + 2
    assert b'bsfg_tls_handshake_errors_total{reason="unknown_ca"} 501.0' in telemetry.exposition()
    assert b'bsfg_denied_total{kind="stream_denied"} 1.0' in telemetry.exposition()


def samples(readings: GaugeReadings) -> dict[str, float]:
    telemetry = Telemetry()
    telemetry.watch(lambda: families(readings))
    found = {}
    for family in text_string_to_metric_families(telemetry.exposition().decode()):
        for sample in family.samples:
            found[sample.name + "".join(f",{value}" for value in sample.labels.values())] = sample.value
    return found


def test_what_is_known_is_shown() -> None:
    found = samples(READINGS)
    assert found["bsfg_replication_lag_facts,enterprise,facts.operational"] == 2
    assert found["bsfg_link_state,enterprise,catching_up,facts.operational"] == 1
    assert found["bsfg_link_state,enterprise,level,facts.operational"] == 0
    assert found["bsfg_peer_reachable,enterprise"] == 1
    assert found["bsfg_config_reload_success"] == 1


def test_what_is_unknown_is_absent_and_never_zero_but_the_age_goes_on() -> None:
    silent = ROW | {
        "head": None,
        "lag_facts": None,
        "lag_seconds": None,
        "sequence": None,
        "head_age_seconds": None,
    }
    found = samples(replace(READINGS, cursors=[silent], reachable={parse_zone("enterprise"): None}))
    assert not [name for name in found if name.startswith("bsfg_replication_lag_facts")]
    assert not [name for name in found if name.startswith("bsfg_replication_lag_seconds")]
    assert not [
        name
        for name in found
        if name.startswith(("bsfg_peer_head", "bsfg_cursor", "bsfg_peer_reachable", "bsfg_crl"))
    ]
    assert found["bsfg_replication_lag_observed_age_seconds,enterprise,facts.operational"] == 60.0
