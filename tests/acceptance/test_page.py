"""The operator page in a real browser: log in, see two zones, watch a partition appear and heal, read a report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect
from tests.support.browser import DESKTOP, PHONE, chromium, keep_picture
from tests.support.lab_zones import ENTERPRISE, OPERATIONAL, Lab, Zone, eventually
from tests.support.patience import PATIENCE_MIN

SECONDS = 1_000
TICK = 1_200
"""Longer than the time between two live changes."""
PATIENT = int(SECONDS * PATIENCE_MIN)
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=5 * PATIENT)
    with chromium() as running:
        yield running


@dataclass
class Visit:
    """One browser window, logged in, and everything that went wrong in it."""

    context: BrowserContext
    page: Page
    faults: list[str] = field(default_factory=list)

    def part(self, name: str) -> str:
        return self.page.locator(f"#part-{name}").inner_text()


def note_failure(visit: Visit, request: Request) -> None:
    """Leaving a page ends what it was still loading; everything else that fails is a fault."""
    if request.failure != "net::ERR_ABORTED":
        visit.faults.append(f"{request.url}: {request.failure}")


def visited(browser: Browser, zone: Zone, *, dark: bool = False, phone: bool = False) -> Visit:
    context = browser.new_context(
        viewport=PHONE if phone else DESKTOP,
        color_scheme="dark" if dark else "light",
        locale="de-DE",
        timezone_id="Pacific/Kiritimati",
    )
    visit = Visit(context, context.new_page())
    visit.page.on("console", lambda line: visit.faults.append(line.text) if line.type == "error" else None)
    visit.page.on("pageerror", lambda error: visit.faults.append(str(error)))
    visit.page.on("requestfailed", lambda request: note_failure(visit, request))
    visit.page.goto(zone.ask("page")["url"])
    visit.page.wait_for_url("**/page")
    expect(visit.page.locator("#live")).to_have_attribute("data-state", "on", timeout=10 * PATIENT)
    return visit


@pytest.fixture
def plant(lab: Lab) -> Iterator[Zone]:
    lab.enterprise.append(OPERATIONAL, *(b"{}" for _ in range(20)))
    lab.level()
    yield lab.plant
    lab.plant.bsfg("admin", "reconcile", "--peer", ENTERPRISE)


def test_two_zones_are_seen_and_a_partition_appears_and_heals_live(
    browser: Browser, lab: Lab, plant: Zone
) -> None:
    visit, other = visited(browser, plant), visited(browser, lab.enterprise)
    page = visit.page
    expect(page.locator("#part-summary .verdict")).to_contain_text("all links level", timeout=20 * PATIENT)
    expect(page.locator("#part-picture svg")).to_contain_text("plant-a")
    expect(page.locator("#part-picture svg")).to_contain_text(ENTERPRISE)
    expect(other.page.locator("#part-picture svg")).to_contain_text("plant-a")
    assert OPERATIONAL in visit.part("links") and "level" in visit.part("links")
    page.wait_for_timeout(TICK)
    keep_picture(page, "page-level")

    page.get_by_role("link", name="Cut off…").click()
    keep_picture(page, "page-ask")
    page.get_by_label("Reason, for the audit log").fill(HOSTILE)
    page.get_by_role("button", name="Cut off").click()
    expect(page.locator(".notice")).to_have_text("enterprise is cut off.")
    expect(page.locator("#part-summary .verdict")).to_contain_text("partitioned", timeout=5 * PATIENT)
    expect(page.locator("#part-partitions")).to_contain_text(HOSTILE)
    expect(page.locator("#part-partitions")).to_contain_text("page session")
    expect(page.locator("#part-links .pill").first).to_have_text("partitioned", timeout=5 * PATIENT)
    expect(page.locator("#part-picture .box.cut")).to_have_count(1, timeout=5 * PATIENT)
    expect(other.page.locator("#part-peers")).to_contain_text("no", timeout=15 * PATIENT)
    lab.enterprise.append(OPERATIONAL, *(b"{}" for _ in range(200)))
    expect(page.locator("#part-links .unknown").first).to_have_text("unknown", timeout=15 * PATIENT)
    keep_picture(page, "page-partitioned")
    keep_picture(other.page, "page-peer-away")

    # It heals live: nobody touches this page while another hand lets the peer back.
    marker = page.evaluate("document.body.dataset.marker = 'untouched'")
    assert plant.bsfg("admin", "reconcile", "--peer", ENTERPRISE).status == 0
    expect(page.locator("#part-summary .verdict")).to_contain_text("all links level", timeout=20 * PATIENT)
    expect(page.locator("#part-timeline")).to_contain_text("cursor advanced to", timeout=5 * PATIENT)
    expect(page.locator("#part-timeline")).to_contain_text("backfill required: 200 facts")
    assert page.evaluate("document.body.dataset.marker") == marker
    keep_picture(page, "page-healed")

    audited = [json.loads(line) for line in (plant.paths.data / "audit.jsonl").read_text().splitlines()]
    acts = [entry for entry in audited if entry["action"] == "page.partition"]
    assert [(act["outcome"], act["subject"], act["reason"]) for act in acts] == [("allowed", ENTERPRISE, HOSTILE)]
    assert visit.faults == [] and other.faults == []


def test_a_phone_and_the_dark(browser: Browser, plant: Zone) -> None:
    for name, dark, phone in (("dark", True, False), ("phone", False, True), ("phone-dark", True, True)):
        visit = visited(browser, plant, dark=dark, phone=phone)
        expect(visit.page.locator("#chart-rate canvas")).to_have_count(1, timeout=10 * PATIENT)
        visit.page.wait_for_timeout(TICK)
        keep_picture(visit.page, f"page-{name}")
        width = visit.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert width[0] <= width[1], f"{name}: the page is wider than its window"
        assert visit.faults == []
        visit.context.close()


def test_everything_can_be_done_by_the_keyboard(browser: Browser, plant: Zone) -> None:
    page = visited(browser, plant).page
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == f"do-{ENTERPRISE}":
            break
    page.wait_for_timeout(2 * TICK)
    assert page.evaluate("document.activeElement.id") == f"do-{ENTERPRISE}", "a live section took the focus away"
    page.keyboard.press("Enter")
    page.wait_for_url("**/page/act/partition*")
    page.keyboard.type("drill by keyboard")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".notice")).to_have_text("enterprise is cut off.")


def test_two_pages_that_act_at_once_both_see_what_is_so(browser: Browser, plant: Zone) -> None:
    one, two = visited(browser, plant), visited(browser, plant)
    for visit in (one, two):
        visit.page.get_by_role("link", name="Cut off…").click()
        visit.page.get_by_label("Reason, for the audit log").fill("both")
    for visit in (one, two):
        visit.page.get_by_role("button", name="Cut off").click()
        expect(visit.page.locator(".notice")).to_have_text("enterprise is cut off.")
    one.page.get_by_role("link", name="Let back…").click()
    one.page.get_by_label("Reason, for the audit log").fill("over")
    one.page.get_by_role("button", name="Let back").click()
    expect(two.page.get_by_role("link", name="Cut off…")).to_be_visible(timeout=10 * PATIENT)
    assert one.faults == two.faults == []


def test_a_page_that_stays_open_over_a_restart_says_so_and_asks_for_a_login(
    browser: Browser, lab: Lab, plant: Zone
) -> None:
    page = visited(browser, plant).page
    plant.kill_gateway()
    expect(page.locator("#live")).to_contain_text("connection lost", timeout=20 * PATIENT)
    lab.healthy()
    # A restart ends every session, so the page stays marked as old until somebody logs in again.
    page.wait_for_timeout(3 * TICK)
    expect(page.locator("#live")).to_contain_text("connection lost")
    page.reload()
    expect(page.locator("main")).to_contain_text("This page needs a login")


def test_a_handoff_report_is_read_and_can_do_nothing(browser: Browser, plant: Zone) -> None:
    folder = plant.paths.data / "handoff" / "2026-01-02T030405Z-enterprise"
    folder.mkdir(parents=True)
    report = "<style>h1 {color: teal}</style><h1>Handoff</h1><script>document.title = 'acted'</script>"
    (folder / "handoff.html").write_text(f"<!doctype html><title>report</title>{report}")
    (folder / "handoff.json").write_text('{"accepted": true}')
    (folder / "secret.txt").write_text("not for the page")
    page = visited(browser, plant).page
    expect(page.locator("#part-handoffs .pill")).to_have_text("accepted", timeout=5 * PATIENT)
    page.get_by_role("link", name="handoff.html").click()
    expect(page.locator("h1")).to_have_text("Handoff")
    assert page.title() == "report"
    address = page.url
    for name in ("secret.txt", "..%2f..%2faudit.jsonl", "handoff.html%2f..%2fsecret.txt"):
        answer = page.goto(address.replace("handoff.html", name))
        assert answer is not None and answer.status == 404


def test_an_artifact_is_tried_again(browser: Browser, plant: Zone) -> None:
    uri = "s3://enterprise-bsfg-artifacts/batch-files/none.json"
    plant.refused("artifact", "fetch", "--uri", uri)
    visit = visited(browser, plant)
    part = visit.page.locator("#part-artifacts")
    expect(part).to_contain_text(uri, timeout=5 * PATIENT)
    expect(part).to_contain_text("missing")
    keep_picture(visit.page, "page-artifacts")
    part.get_by_role("link", name="Try again…").click()
    visit.page.get_by_label("Reason, for the audit log").fill("it was put there now")
    visit.page.get_by_role("button", name="Try again").click()
    expect(visit.page.locator(".notice")).to_have_text(f"{uri} is tried again.")
    assert visit.faults == []


def test_the_page_is_the_same_as_the_status(browser: Browser, plant: Zone) -> None:
    visit = visited(browser, plant)
    status = plant.status()
    for row in status["links"]:
        assert row["stream"] in visit.part("links")
        eventually(
            f"the page says {row['state']}", 10, lambda row=row: row["state"].replace("_", " ") in visit.part("links")
        )
