"""Alert rules, inhibition and dashboard load in the real programs, and use only metrics that the gateway has."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from tests.support.patience import patience

from bsfg.daemon.telemetry import COUNTERS, GAUGES, Telemetry

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = ROOT / "deploy"
RULES: Final = DEPLOY / "prometheus" / "bsfg.rules.yml"
RULE_TESTS: Final = DEPLOY / "prometheus" / "bsfg.rules.test.yml"
ALERTMANAGER: Final = DEPLOY / "alertmanager" / "bsfg.alertmanager.yml"
DASHBOARD: Final = DEPLOY / "grafana" / "bsfg.dashboard.json"
GUIDE: Final = (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
METRIC: Final = re.compile(r"\bbsfg_[a-z_]+")
SERIES_SUFFIX: Final = re.compile(r"_(total|bucket|count|sum)$")
LINKS: Final = 15


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def alerts() -> list[dict[str, Any]]:
    content = YAML(typ="safe").load(RULES)
    return [rule for group in content["groups"] for rule in group["rules"]]


def declared() -> set[str]:
    counted = {family.name for family in Telemetry().registry.collect()}
    return {*counted, *GAUGES, *COUNTERS}


def used_in(expression: str) -> set[str]:
    return {SERIES_SUFFIX.sub("", name) if name not in declared() else name for name in METRIC.findall(expression)}


def test_prometheus_takes_the_rules() -> None:
    assert f"{len(alerts())} rules found" in run("promtool", "check", "rules", "--lint-fatal", RULES)


def test_each_rule_does_what_its_test_says() -> None:
    assert "SUCCESS" in run("promtool", "test", "rules", RULE_TESTS)


def test_every_alert_is_seen_at_work_by_a_rule_test() -> None:
    text = RULE_TESTS.read_text(encoding="utf-8")
    assert not [rule["alert"] for rule in alerts() if rule["alert"] not in text]


def test_alerts_use_only_metrics_that_the_gateway_has() -> None:
    used = {name for rule in alerts() for name in used_in(rule["expr"])}
    assert used and used <= declared()


def test_every_alert_has_its_chapter_in_the_guide_and_no_other_has() -> None:
    chapters = re.findall(r"^### (Bsfg\w+)$", GUIDE, re.MULTILINE)
    assert chapters == [rule["alert"] for rule in alerts()]
    for rule in alerts():
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{rule['alert'].lower()}"


def test_each_rule_on_lag_or_backlog_has_its_twin_on_the_observed_age() -> None:
    expressions = {rule["alert"]: rule["expr"] for rule in alerts()}
    twins = {
        "BsfgReplicationLag": "BsfgReplicationLagUnknown",
        "BsfgNoProgress": "BsfgNoWord",
        "BsfgBacklog": "BsfgBacklogUnknown",
    }
    about = re.compile(r"bsfg_(replication_lag|backlog)_(facts|seconds)\b")
    assert {name for name, expression in expressions.items() if about.search(expression)} == set(twins)
    for twin in twins.values():
        assert "observed_age_seconds" in expressions[twin]


def dashboard_queries() -> Iterator[str]:
    content = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for panel in content["panels"]:
        for target in panel["targets"]:
            yield target["expr"]


def test_every_query_of_the_dashboard_parses(tmp_path: Path) -> None:
    queries = [
        query.replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$peer", ".*")
        for query in dashboard_queries()
    ]
    rules = [{"record": f"panel:query{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "queries.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(queries)} rules found" in run("promtool", "check", "rules", path)


def test_the_dashboard_shows_only_metrics_that_the_gateway_has() -> None:
    content = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    variables = [variable.get("definition", "") for variable in content["templating"]["list"]]
    used = {name for query in [*dashboard_queries(), *variables] for name in used_in(query)}
    assert used and used <= declared()


def test_no_panel_of_the_dashboard_draws_what_is_unknown_as_zero() -> None:
    content = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for panel in content["panels"]:
        assert panel["fieldConfig"]["defaults"]["noValue"] == "unknown"
        assert panel["fieldConfig"]["defaults"].get("custom", {}).get("spanNulls", False) is False


def test_alertmanager_takes_the_example() -> None:
    assert "SUCCESS" in run("amtool", "check-config", ALERTMANAGER)


@contextmanager
def alertmanager(folder: Path) -> Iterator[str]:
    """A real Alertmanager with the example, on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            "prometheus-alertmanager",
            f"--config.file={ALERTMANAGER}",
            f"--storage.path={folder}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        base = f"http://127.0.0.1:{port}/api/v2"
        deadline = time.monotonic() + 20 * patience()
        while True:
            try:
                urllib.request.urlopen(f"{base}/status", timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None and time.monotonic() < deadline, "Alertmanager did not start"
                time.sleep(0.1)
        yield base
    finally:
        process.terminate()
        process.wait(10)


def post(base: str, labels: list[dict[str, str]]) -> None:
    body = json.dumps([{"labels": each} for each in labels]).encode()
    request = urllib.request.Request(f"{base}/alerts", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=5).close()


def active(base: str, count: int, wanted: set[str]) -> set[str]:
    """Names of the alerts that would be sent, once all are known and judged as wanted, or after ten seconds."""
    deadline = time.monotonic() + 10 * patience()
    while True:
        with urllib.request.urlopen(f"{base}/alerts", timeout=5) as response:
            found = json.load(response)
        names = {alert["labels"]["alertname"] for alert in found if alert["status"]["state"] != "suppressed"}
        if (len(found) == count and names == wanted) or time.monotonic() > deadline:
            assert len(found) == count
            return names
        time.sleep(0.1)


def consequences(cause: str, **labels: str) -> list[dict[str, str]]:
    """What a peer that is away brings about: its links grow old, its backlogs grow."""
    where = {"instance": "plant-a", "peer": "enterprise"}
    streams = [{**where, "stream": f"facts.s{number}"} for number in range(LINKS)]
    of_links = ("BsfgReplicationLagUnknown", "BsfgNoWord", "BsfgBacklog")
    return [
        {"alertname": cause, **where, **labels},
        *({"alertname": name, **stream} for name in of_links for stream in streams),
    ]


def test_a_partition_raises_one_alert_and_not_thirty(tmp_path: Path) -> None:
    for cause in ("BsfgPeerPartitioned", "BsfgPeerUnreachable"):
        raised = consequences(cause)
        assert len(raised) > 30
        with alertmanager(tmp_path / cause) as base:
            post(base, raised)
            assert active(base, len(raised), {cause}) == {cause}


def test_inhibition_silences_neither_another_peer_nor_what_loses_facts(tmp_path: Path) -> None:
    cause = {"alertname": "BsfgPeerUnreachable", "instance": "plant-a", "peer": "enterprise"}
    silenced = {"alertname": "BsfgNoWord", "instance": "plant-a", "peer": "enterprise", "stream": "facts.a"}
    others = [
        {"alertname": "BsfgReplicationLag", "instance": "plant-a", "peer": "plant-b", "stream": "facts.a"},
        {"alertname": "BsfgBacklog", "instance": "plant-c", "peer": "enterprise", "stream": "facts.a"},
        {"alertname": "BsfgRetentionHeadroom", "instance": "plant-a", "peer": "enterprise", "stream": "facts.a"},
        {"alertname": "BsfgLinkHalted", "instance": "plant-a", "peer": "enterprise", "stream": "facts.a"},
        {"alertname": "BsfgGap", "instance": "plant-a", "peer": "enterprise", "stream": "facts.a"},
    ]
    with alertmanager(tmp_path) as base:
        post(base, [cause, silenced, *others])
        wanted = {each["alertname"] for each in (cause, *others)}
        # That the one is silenced shows that the others have been judged, too.
        assert active(base, len(others) + 2, wanted) == wanted
