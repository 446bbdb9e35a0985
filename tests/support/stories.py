"""One fault, and what metric, alert, page and status say of it.

The alert is what Prometheus makes of the values that were really scraped: promtool evaluates the shipped rules on them.
"""

from __future__ import annotations

import http.cookiejar
import json
import re
import subprocess
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from tests.support.lab_zones import Lab, Zone, eventually

RULES: Final = Path(__file__).resolve().parents[2] / "deploy" / "prometheus" / "bsfg.rules.yml"
TAG: Final = re.compile(r"<[^>]+>")


@dataclass(frozen=True)
class Story:
    """One fault, and what each of the four must say of it within so many seconds."""

    name: str
    fault: Callable[[Lab], AbstractContextManager[None]]
    seconds: float
    metric: str
    labels: dict[str, str]
    holds: Callable[[float], bool]
    alert: str
    minutes: int
    """After how long at these values the alert fires."""
    page: str
    status: str


class Pages:
    """The operator page as a browser without scripts sees it."""

    def __init__(self, zone: Zone) -> None:
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(jar)
        self._base = f"http://{zone.place.local}/page"
        self._opener.open(zone.ask("page")["url"], timeout=10).close()

    def text(self) -> str:
        with self._opener.open(self._base, timeout=10) as answer:
            return " ".join(TAG.sub(" ", answer.read().decode()).replace("&#39;", "'").split())


def firing(zone: Zone, story: Story, folder: Path) -> bool:
    """Whether the shipped rules fire when the values that the zone shows now stay so for as long as the story says."""
    series = [
        {"series": _series(sample.name, sample.labels), "values": f"{sample.value}x{4 * (story.minutes + 1)}"}
        for family in text_string_to_metric_families(zone.local("/metrics")[1])
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    ]
    alert = _series("ALERTS", {"alertname": story.alert, "alertstate": "firing", **story.labels})
    wanted = [{"labels": "{}", "value": 1}]
    check = {
        "expr": f"count({alert}) >= bool 1",
        "eval_time": f"{story.minutes * 60 + 15}s",
        "exp_samples": wanted,
    }
    test = {"interval": "15s", "input_series": series, "promql_expr_test": [check]}
    path = folder / "scraped.test.yml"
    content = {"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": [test]}
    path.write_text(json.dumps(content))
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, timeout=60)
    return done.returncode == 0


def _series(name: str, labels: dict[str, str]) -> str:
    return name + "{" + ",".join(f"{key}={json.dumps(value)}" for key, value in labels.items()) + "}"


def told(story: Story, lab: Lab, pages: Pages, folder: Path) -> None:
    """In plant-a all four say it within their time, and the alert does not fire before."""
    plant = lab.plant
    assert not firing(plant, story, folder), "it must not fire before"
    with story.fault(lab):
        eventually(f"{story.metric} tells of it", story.seconds, lambda: _holds(plant, story), promised=True)
        assert firing(plant, story, folder)
        eventually("the page tells of it", 5, lambda: story.page in pages.text())
        eventually("the status tells of it", 5, lambda: story.status in plant.bsfg("status").output)


def _holds(zone: Zone, story: Story) -> bool:
    return any(
        sample.name == story.metric and story.labels.items() <= sample.labels.items() and story.holds(sample.value)
        for family in text_string_to_metric_families(zone.local("/metrics")[1])
        for sample in family.samples
    )
