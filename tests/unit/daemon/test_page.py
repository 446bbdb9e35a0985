"""The operator page as a hostile browser, an impatient one and a forgotten one see it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from bsfg.daemon.local_api import build_tcp_application
from bsfg.daemon.local_listeners import serve_tcp
from bsfg.daemon.page.bringups import BringupRuns
from bsfg.daemon.page.live import STREAMS_MAX
from bsfg.daemon.page.picture import LINES_MAX, draw
from bsfg.daemon.page.routes import ACTIONS, COOKIE, Page
from bsfg.daemon.page.sessions import SESSION_SECONDS, SESSIONS_MAX, TOKEN_SECONDS, TOKENS_MAX, Sessions
from bsfg.daemon.page.sources import Artifacts, PageSources
from bsfg.daemon.page.values import FILTERS
from bsfg.daemon.telemetry import LOG_EVENTS
from bsfg.daemon.timeline import ENTRIES_MAX, KINDS, Timeline
from bsfg.errors import BsfgError, Code

HOSTILE: Final = "\"><script>alert('x')</script>\u202e\r\n"
URI: Final = "s3://enterprise-bsfg-artifacts/batch-files/1.json"


@dataclass
class Hand:
    """A clock that is moved by hand."""

    seconds: float = 1_000.0

    def now(self) -> int:
        return int(self.seconds * 1e9)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def link(**known: Any) -> dict[str, Any]:
    unknown = dict.fromkeys(
        ("reason", "sequence", "head", "head_age_seconds", "lag_facts", "lag_seconds", "lag_bytes"), None
    )
    more: dict[str, Any] = {"rate_facts_per_second": None, "eta_seconds": None, "error": None, "gaps": []}
    row = {"peer": "enterprise", "stream": "facts.operational", "state": "backing_off"}
    return {**row, **unknown, **more, **known}


def export(**known: Any) -> dict[str, Any]:
    row = {"peer": "enterprise", "stream": "facts.orders", "confirmed": None, "head": 7, "backlog_facts": 7}
    return {**row, "backlog_oldest_seconds": None, "headroom_seconds": None, **known}


def peer(**known: Any) -> dict[str, Any]:
    row = {"id": "enterprise", "identity": "enterprise-bsfg", "endpoint": "10.1.1.10:9443", "authorized": True}
    return {**row, "reachable": None, "reason": None, "last_contact": None, "clock_skew_seconds": None, **known}


@dataclass
class Gateway:
    """What stands behind the page, and what it was asked to do."""

    links: list[dict[str, Any]] = field(default_factory=lambda: [link()])
    peers: list[dict[str, Any]] = field(default_factory=lambda: [peer()])
    exports: list[dict[str, Any]] = field(default_factory=lambda: [export()])
    partitions: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    done: list[tuple[Any, ...]] = field(default_factory=list)
    audited: list[tuple[str, str]] = field(default_factory=list)
    timeline: Timeline = field(default_factory=Timeline)

    async def status(self) -> dict[str, Any]:
        return {
            "zone": "plant-a",
            "identity": "plant-a-bsfg",
            "health": "degraded" if self.problems else "ok",
            "version": "1",
            "started_at": "2026-01-02T03:04:05Z",
            "certificate_days_left": 29,
            "disk_fill_ratio": None,
            "problems": self.problems,
            "warnings": [],
            "links": self.links,
            "peers": self.peers,
            "exports": self.exports,
            "partitions": self.partitions,
        }

    async def partition(self, zone: str, reason: str, seconds: float | None) -> dict[str, Any]:
        if zone != "enterprise":
            raise BsfgError(Code.CONFIGURATION, f"no peer {zone} in config/peers.yaml")
        self.done.append(("partition", zone, reason, seconds))
        return {}

    async def reconcile(self, zone: str) -> dict[str, Any]:
        self.done.append(("reconcile", zone))
        return {"was_partitioned": True}

    async def retry(self, uri: str) -> None:
        self.done.append(("retry", uri))

    async def artifact_rows(self) -> list[dict[str, Any]]:
        return [{"uri": URI, "peer": "enterprise", "state": "missing", "error": HOSTILE}]

    def sources(self, folder: Path, *, artifacts: bool) -> PageSources:
        return PageSources(
            self.status,
            lambda: {"times": [], "peers": {}},
            self.timeline,
            self.partition,
            self.reconcile,
            lambda action, outcome, **details: self.audited.append((action, outcome)),
            folder / "handoff",
            Artifacts(self.artifact_rows, lambda: {"missing": 1}, self.retry) if artifacts else None,
        )


@dataclass
class Site:
    """A page that is served, and a browser's cookie jar."""

    gateway: Gateway
    clock: Hand
    page: Page
    base: str
    browser: aiohttp.ClientSession

    def token(self) -> str:
        return self.page._sessions.issue()

    async def login(self) -> None:
        async with self.browser.get(f"{self.base}/page/login", params={"token": self.token()}) as answer:
            assert answer.status == 200

    async def get(self, path: str = "/page", **options: Any) -> tuple[int, str]:
        async with self.browser.get(self.base + path, allow_redirects=False, **options) as answer:
            return answer.status, await answer.text()

    async def form_token(self) -> str:
        found = re.search(r'name="form_token" value="([^"]+)"', (await self.get())[1])
        assert found
        return found[1]

    async def act(self, action: str, fields: dict[str, str], **headers: str) -> int:
        async with self.browser.post(
            f"{self.base}/page/act/{action}", data=fields, headers=headers, allow_redirects=False
        ) as answer:
            return answer.status


@asynccontextmanager
async def served(folder: Path, *, artifacts: bool = False) -> AsyncIterator[Site]:
    gateway, clock = Gateway(), Hand()
    page = Page(gateway.sources(folder, artifacts=artifacts), "plant-a", clock)
    application = build_tcp_application(
        gateway, metrics=lambda: b"", is_ready=lambda: True, token=None, page=page.routes()  # type: ignore[arg-type]
    )
    server = await serve_tcp(application, "127.0.0.1", 0)
    jar = aiohttp.CookieJar(unsafe=True)
    try:
        async with aiohttp.ClientSession(cookie_jar=jar) as browser:
            yield Site(gateway, clock, page, f"http://127.0.0.1:{server.port}", browser)
    finally:
        await server.close()


async def test_without_a_session_nothing_is_shown_and_nothing_done(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        for path in ("/page", "/page/events", "/page/act/partition", "/page/handoff/x/handoff.html"):
            status, text = await site.get(path)
            assert status == 401 and "enterprise" not in text
        assert await site.act("partition", {"subject": "enterprise", "reason": "r"}) == 401
        assert site.gateway.done == []
        await site.login()
        assert (await site.get())[0] == 200


async def test_a_token_is_good_once_and_for_five_minutes(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        token = site.token()
        assert (await site.get("/page/login", params={"token": token}))[0] == 200
        site.browser.cookie_jar.clear()
        assert (await site.get("/page/login", params={"token": token}))[0] == 403
        late = site.token()
        site.clock.seconds += TOKEN_SECONDS + 1
        assert (await site.get("/page/login", params={"token": late}))[0] == 403
        for wrong in ("", "x", "é" * 100):
            assert (await site.get("/page/login", params={"token": wrong}))[0] == 403
        assert ("page.login", "denied") in site.gateway.audited


async def test_the_cookie_is_for_this_site_alone_and_no_script_reads_it(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as site,
        site.browser.get(f"{site.base}/page/login", params={"token": site.token()}) as answer,
    ):
        cookie = answer.cookies[f"{COOKIE}plant-a"]
        assert cookie["httponly"] and cookie["samesite"] == "Strict" and cookie["path"] == "/page"
        assert int(cookie["max-age"]) == SESSION_SECONDS


async def test_a_session_ends_and_its_events_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bsfg.daemon.page.live.TICK_SECONDS", 0.01)
    async with served(tmp_path) as site:
        await site.login()
        async with site.browser.get(f"{site.base}/page/events") as stream:
            assert b"retry" in await stream.content.readline()
            site.clock.seconds += SESSION_SECONDS + 1
            assert b"event: ended" in await stream.content.read()
        assert (await site.get())[0] == 401


async def test_logging_out_ends_the_session(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        await site.login()
        token = await site.form_token()
        async with site.browser.post(f"{site.base}/page/logout", data={"form_token": token}) as answer:
            assert answer.status == 200
        assert (await site.get())[0] == 401


async def test_a_page_of_another_name_is_not_answered(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        await site.login()
        assert (await site.get(headers={"Host": "localhost"}))[0] == 200
        for host in ("evil.example", "127.0.0.1.evil.example", ""):
            assert (await site.get(headers={"Host": host}))[0] == 403


@pytest.mark.parametrize(
    ("change", "headers"),
    [
        ({"form_token": "guessed"}, {}),
        ({"form_token": ""}, {}),
        ({}, {"Origin": "http://evil.example"}),
        ({}, {"Origin": "null"}),
        ({}, {"Sec-Fetch-Site": "cross-site"}),
        ({}, {"Sec-Fetch-Site": "same-site"}),
    ],
)
async def test_a_form_of_another_site_does_nothing(
    change: dict[str, str], headers: dict[str, str], tmp_path: Path
) -> None:
    async with served(tmp_path) as site:
        await site.login()
        fields = {"form_token": await site.form_token(), "subject": "enterprise", "reason": "drill"}
        assert await site.act("partition", fields | change, **headers) == 403
        assert site.gateway.done == [] and ("page.form", "denied") in site.gateway.audited
        assert await site.act("partition", fields, Origin=site.base) == 303
        assert site.gateway.done == [("partition", "enterprise", "drill", 900.0)]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("reason", ["", "   ", "r" * 501])
async def test_every_action_needs_a_reason(action: str, reason: str, tmp_path: Path) -> None:
    async with served(tmp_path, artifacts=True) as site:
        await site.login()
        fields = {"form_token": await site.form_token(), "subject": "enterprise", "reason": reason}
        assert await site.act(action, fields) == 303
        assert site.gateway.done == []
        assert "it needs a reason" in (await site.get())[1]
        assert (f"page.{action}", "denied") in site.gateway.audited
        assert await site.act(action, fields | {"reason": "good"}) == 303
        assert len(site.gateway.done) == 1 and (f"page.{action}", "allowed") in site.gateway.audited


async def test_what_the_gateway_refuses_is_said_and_audited(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        await site.login()
        token = await site.form_token()
        for fields in (
            {"subject": HOSTILE, "reason": "r"},
            {"subject": "enterprise", "reason": "r", "seconds": "-5"},
            {"subject": "enterprise", "reason": "r", "seconds": "9" * 40},
        ):
            assert await site.act("partition", fields | {"form_token": token}) == 303
            text = (await site.get())[1]
            assert 'class="notice bad"' in text and "<script>alert" not in text
        assert site.gateway.done == []
        for path in ("/page/act/delete", "/page/act/retry", "/page/act/partition%2f.."):
            assert (await site.get(path))[0] == 404


async def test_what_others_wrote_is_text_and_nothing_else(tmp_path: Path) -> None:
    async with served(tmp_path, artifacts=True) as site:
        await site.login()
        gateway = site.gateway
        gateway.links = [link(error=HOSTILE, state="halted", reason="diverged")]
        gateway.problems, gateway.peers = [HOSTILE], [peer(reachable=False, reason=HOSTILE)]
        gateway.partitions = [{"peer": "enterprise", "reason": HOSTILE, "by": HOSTILE, "began": HOSTILE, "until": None}]
        gateway.timeline(None, "", {"event": "link_halted", "ts": HOSTILE, "peer": HOSTILE, "message": HOSTILE})
        status, text = await site.get()
        assert status == 200 and "&lt;script&gt;alert" in text
        assert "<script>alert" not in text and "onerror" not in text
        assert (await site.get("/page/act/partition", params={"subject": HOSTILE}))[1].count("<script>alert") == 0


async def test_the_policy_allows_no_inline_script_and_no_style(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        await site.login()
        async with site.browser.get(f"{site.base}/page") as answer:
            policy, text = answer.headers["Content-Security-Policy"], await answer.text()
            assert "unsafe" not in policy and "default-src 'none'" in policy and "http" not in policy
            assert answer.headers["X-Frame-Options"] == "DENY"
        assert not re.search(r"<script(?![^>]*\bsrc=)", text)
        assert not re.search(r"\s(style|on\w+)=", text) and "<style" not in text
        assert not re.search(r'(src|href|action)="(?!/page|#)', text)


async def test_unknown_is_said_and_never_zero(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        await site.login()
        text = (await site.get())[1]
        row = text[text.index('id="part-links"') : text.index('id="title-exports"')]
        assert row.count("unknown") >= 5 and not re.search(r">\s*0", row)
        assert '<div class="unknown"><dt>Lag in facts</dt><dd>unknown</dd>' in text


async def test_a_part_that_the_gateway_does_not_have_is_left_out(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        await site.login()
        assert "part-artifacts" not in (await site.get())[1]
    async with served(tmp_path, artifacts=True) as site:
        await site.login()
        text = (await site.get())[1]
        assert "part-artifacts" in text and URI in text and "Try again" in text


async def test_too_many_open_pages_are_refused_and_a_closed_one_makes_room(tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        await site.login()
        streams = [await site.browser.get(f"{site.base}/page/events") for _ in range(STREAMS_MAX)]
        assert {stream.status for stream in streams} == {200}
        assert (await site.get("/page/events"))[0] == 429
        streams[0].close()
        for _ in range(100):
            async with site.browser.get(f"{site.base}/page/events") as again:
                if again.status == 200:
                    break
            await asyncio.sleep(0.05)
        assert again.status == 200
        for stream in streams:
            stream.close()


@pytest.mark.parametrize("name", ["..%2fpage.css", "page.css%00", "routes.py", "%2e%2e%2froutes.py"])
async def test_only_the_pages_own_files_are_served(name: str, tmp_path: Path) -> None:
    async with served(tmp_path) as site:
        assert (await site.get("/page/static/page.css"))[0] == 200
        assert (await site.get(f"/page/static/{name}"))[0] in (400, 404)


async def test_a_report_that_is_a_link_to_something_else_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "handoff" / "2026-01-02T030405Z-enterprise"
    folder.mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (folder / "handoff.html").symlink_to(tmp_path / "secret")
    (folder / "handoff.json").write_text('{"accepted": ' + "[" * 100_000)
    async with served(tmp_path) as site:
        await site.login()
        assert (await site.get())[0] == 200
        assert (await site.get(f"/page/handoff/{folder.name}/handoff.html"))[0] == 404
        (folder / "handoff.html").unlink()
        (folder / "handoff.html").write_text("report")
        assert await site.get(f"/page/handoff/{folder.name}/handoff.html") == (200, "report")


def test_tokens_and_sessions_are_bounded() -> None:
    sessions = Sessions(Hand())
    tokens = [sessions.issue() for _ in range(TOKENS_MAX + 5)]
    assert sum(sessions.redeem(token) is not None for token in tokens) == TOKENS_MAX
    cookies = []
    for _ in range(SESSIONS_MAX + 5):
        found = sessions.redeem(sessions.issue())
        assert found
        cookies.append(found[0])
    assert sum(sessions.find(cookie) is not None for cookie in cookies) == SESSIONS_MAX


def test_nothing_that_lets_somebody_in_is_kept_as_it_is() -> None:
    sessions = Sessions(Hand())
    token = sessions.issue()
    found = sessions.redeem(sessions.issue())
    assert found and token not in str(sessions._tokens) and found[0] not in str(sessions._sessions)


def test_a_hundred_peers_are_drawn_by_their_worst_line() -> None:
    names = [f"p{number}" for number in range(100)]
    status = {
        "zone": "z",
        "peers": [peer(id=name, reachable=True) for name in names],
        "links": [link(peer=name, stream=f"facts.s{n}", state="level") for name in names for n in range(5)],
        "exports": [],
        "partitions": [],
    }
    status["links"][7]["state"] = "halted"
    picture = draw(status)
    assert len(status["links"]) > LINES_MAX
    assert [len(box.lines) for box in picture.peers] == [1] * 100
    assert [box.name for box in picture.peers if box.lines[0].colour == "bad"] == ["p1"]


def test_the_time_line_is_bounded_and_knows_only_events_of_the_log() -> None:
    assert set(KINDS) <= set(LOG_EVENTS)
    timeline = Timeline()
    for number in range(ENTRIES_MAX + 50):
        timeline(None, "", {"event": "cursor_advanced", "ts": "t", "message": "x" * 10_000, "peer": str(number)})
    timeline(None, "", {"event": "notify_available", "ts": "t", "message": "m"})
    entries = timeline.entries()
    assert len(entries) == ENTRIES_MAX and entries[0].peer == str(ENTRIES_MAX + 49)
    assert max(len(entry.message) for entry in entries) == 500


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_no_filter_makes_a_number_of_what_is_unknown(name: str) -> None:
    assert FILTERS[name](None) == "unknown"
    assert "unknown" not in FILTERS[name](0)


def record(**known: Any) -> str:
    results = [
        {"id": "gateway.healthy", "outcome": "passed", "severity": "halt"},
        {"id": "preconditions.commissioned", "outcome": "attested", "severity": "halt"},
    ]
    times = {"began": 10**18, "ended": 10**18}
    return json.dumps({"format": 1, "peer": "enterprise", **times, "results": results, **known})


async def test_bring_up_runs_are_listed_and_what_can_not_be_read_is_unknown(tmp_path: Path) -> None:
    failed = {"id": "trust.own-expiry", "outcome": "failed", "severity": "halt"}
    contents = {
        "20260102T030405Z-enterprise-00aa": record(),
        "20260102T030406Z-enterprise-00bb": record(results=[failed], ended=None),
        "20260102T030407Z-enterprise-00cc": "[" * 100_000,
        "20260102T030408Z-enterprise-00dd": record(began="x"),
        "lock": record(),
    }
    for name, content in contents.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(content)
    runs = BringupRuns(tmp_path)
    rows = await runs.rows()
    assert [(row["peer"], row["outcome"], row["halted_at"]) for row in rows] == [
        ("enterprise", "unknown", None),
        ("enterprise", "unknown", None),
        ("enterprise", "halted", "trust.own-expiry"),
        ("enterprise", "passed", None),
    ]
    assert (rows[3]["passed"], rows[3]["attested"]) == (1, 1)
    (tmp_path / "20260102T030405Z-enterprise-00aa" / "record.json").write_text(record(results=[failed] * 2))
    assert (await runs.rows())[3]["failed"] == 2
    assert await BringupRuns(tmp_path / "none").rows() == []
