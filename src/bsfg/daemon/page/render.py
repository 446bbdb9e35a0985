"""Makes HTML of what the gateway says of itself: whole pages, and the parts that change while one is open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from bsfg.daemon.page import handoffs
from bsfg.daemon.page.picture import COLOURS, draw
from bsfg.daemon.page.sessions import Session
from bsfg.daemon.page.sources import PageSources
from bsfg.daemon.page.values import FILTERS
from bsfg.daemon.partitions import REASON_CHARACTERS_MAX

PARTS: Final = (
    "summary",
    "picture",
    "peers",
    "links",
    "exports",
    "artifacts",
    "partitions",
    "timeline",
    "bringups",
    "handoffs",
)
"""The sections that change while a page is open, each a template of its own, in their order on the page."""
TITLES: Final = {
    "picture": "Federation",
    "peers": "Peers",
    "links": "Links: what this zone reads",
    "exports": "Exports: what peers have not confirmed",
    "artifacts": "Artifacts",
    "partitions": "Partitions",
    "timeline": "What happened",
    "bringups": "Bring-up",
    "handoffs": "Handoff reports",
}
DAY_SECONDS: Final = 86_400
CERTIFICATE_WARNING_DAYS: Final = 30
FILL_WARNING: Final = 0.8


class Renderer:
    """The templates; everything in them is escaped, wherever it came from."""

    def __init__(self, sources: PageSources) -> None:
        self._sources = sources
        self._templates = Environment(
            loader=PackageLoader("bsfg.daemon.page"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(FILTERS)

    async def parts(self) -> dict[str, str]:
        """The HTML of every section that this gateway has, by name."""
        view = await self._view()
        names = [name for name in PARTS if self._has(name)]
        return {name: self._fill(f"parts/{name}.html", view) for name in names}

    async def page(self, session: Session, parts: Mapping[str, str], zone: str) -> str:
        notice, is_bad = session.take_notice()
        values = {
            "zone": zone,
            "parts": parts,
            "titles": TITLES,
            "form_token": session.form_token,
            "notice": notice,
            "is_notice_bad": is_bad,
        }
        return self._fill("page.html", values)

    def action(self, session: Session, action: str, subject: str) -> str:
        """The form of one of the three actions, which asks for a reason."""
        values = {
            "action": action,
            "subject": subject,
            "form_token": session.form_token,
            "reason_characters_max": REASON_CHARACTERS_MAX,
        }
        return self._fill("action.html", values)

    def notice(self, title: str, message: str) -> str:
        return self._fill("notice.html", {"title": title, "message": message})

    def welcome(self) -> str:
        return self._fill("welcome.html", {})

    async def _view(self) -> dict[str, Any]:
        status, sources = await self._sources.status(), self._sources
        links = [row | {"colour": COLOURS.get(row["state"], "unknown")} for row in status["links"]]
        denials = {peer["id"]: sources.timeline.last_denial(peer["id"]) for peer in status["peers"]}
        return {
            "status": status | {"links": links},
            "summary": _summary(status),
            "picture": draw(status),
            "denials": denials,
            "cut_off": {row["peer"] for row in status["partitions"]},
            "entries": sources.timeline.entries(),
            "handoffs": handoffs.listed(sources.handoff_directory),
            "artifacts": await sources.artifacts.rows() if sources.artifacts else [],
            "artifact_counts": sources.artifacts.counts() if sources.artifacts else {},
            "bringups": await sources.bringups() if sources.bringups else [],
        }

    def _has(self, part: str) -> bool:
        offered = {"artifacts": self._sources.artifacts, "bringups": self._sources.bringups}
        return offered.get(part, True) is not None

    def _fill(self, template: str, values: Mapping[str, Any]) -> str:
        return self._templates.get_template(template).render(**values)


def _summary(status: Mapping[str, Any]) -> dict[str, Any]:
    """The first line of the page: what somebody on call must know in ten seconds."""
    links, days = status["links"], status["certificate_days_left"]
    waiting = [row for row in links if row["state"] == "halted"]
    lags = [row["lag_facts"] for row in links]
    fill = status["disk_fill_ratio"]
    return {
        "verdict": _verdict(status),
        "halted": len(waiting),
        "level": sum(row["state"] == "level" for row in links),
        "links": len(links),
        "unreachable": sum(peer["reachable"] is False for peer in status["peers"]),
        "reachable": sum(peer["reachable"] is True for peer in status["peers"]),
        "peers": len(status["peers"]),
        "lag_facts": None if not lags or None in lags else sum(lags),
        "certificate_days": days,
        "is_certificate_ending": days < CERTIFICATE_WARNING_DAYS,
        "disk": fill,
        "is_disk_filling": fill is not None and fill > FILL_WARNING,
    }


def _verdict(status: Mapping[str, Any]) -> tuple[str, str]:
    """Colour and words: the worst that anybody has to know."""
    if any(row["state"] == "halted" for row in status["links"]):
        return "bad", "a link waits for an operator"
    if status["health"] != "ok":
        return "bad", "degraded"
    if status["partitions"]:
        return "cut", "partitioned by an operator"
    if any(peer["reachable"] is False for peer in status["peers"]):
        return "bad", "a peer does not answer"
    if any(row["state"] != "level" for row in status["links"]):
        return "busy", "catching up"
    return "good", "all links level"
