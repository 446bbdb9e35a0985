"""Advice between two real zones: given to who does not listen, taken as a hint, and never more (I47; runbook 6.6)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import pytest
from tests.support.lab_zones import ENTERPRISE, OPERATIONAL, PLANT, Lab, Zone, eventually, running_lab

from bsfg.lab import processes
from bsfg.lab.peer_requests import Credentials, Reply, Target, send

MANUAL: Final = "facts.batch_completed"
"""The stream whose link waits for a first fetch, so that plant-a does not listen to it."""
SENT: Final = "bsfg_notify_sent_total"
HEARD: Final = "bsfg_notify_available_total"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two zones without facts; one link of plant-a has not begun."""
    directory = tmp_path_factory.mktemp("lab") / "lab"
    processes.build(directory, manual_start=[MANUAL])
    with running_lab(directory) as running:
        yield running


def advise(lab: Lab, body: Any) -> Reply:
    """One notification with enterprise's certificate, whatever it says."""
    plant, own = lab.plant, lab.enterprise.paths
    target = Target(plant.place.endpoint, "plant-a-bsfg", plant.place.ca_cert)
    return send(target, Credentials(own.server_certificate, own.server_key), "/v1/notify", json.dumps(body).encode())


def lines(zone: Zone, stream: str) -> list[str]:
    return [
        line["message"] for line in zone.log() if line["event"] == "notify_available" and line["stream"] == stream
    ]


def fetches(zone: Zone, stream: str) -> float:
    return zone.metric("bsfg_fetch_requests_total", peer=ENTERPRISE, stream=stream, result="ok") or 0.0


def sent(zone: Zone, stream: str) -> float:
    return zone.metric(SENT, peer=PLANT, stream=stream, result="ok") or 0.0


def has_come(zone: Zone, sequence: int) -> bool:
    return zone.metric("bsfg_cursor_sequence", stream=OPERATIONAL) == sequence


def test_an_append_is_told_to_a_peer_that_does_not_listen(lab: Lab) -> None:
    """At most ten times a second however many facts are appended, by whichever way."""
    plant, enterprise = lab.plant, lab.enterprise
    enterprise.append(MANUAL, b"1")
    eventually("plant-a hears of it", 3, lambda: lines(plant, MANUAL))
    assert lines(plant, MANUAL)[0] == f"notify_available: enterprise says that {MANUAL} has reached 1"
    before = sent(enterprise, MANUAL)

    async def publish() -> int:
        count, began = 0, time.monotonic()
        async with enterprise.nats(admin=False) as store:
            while time.monotonic() - began < 2.0:
                await store.publish(f"{MANUAL}.done", b"{}")
                count += 1
        return count

    facts = asyncio.run(publish())
    time.sleep(1)
    told = sent(enterprise, MANUAL) - before
    assert facts > 30 and 3 <= told <= 22, f"{told} notifications for {facts} facts in 2 s"
    assert plant.metric(HEARD, peer=ENTERPRISE, stream=MANUAL) == sent(enterprise, MANUAL)
    time.sleep(1)
    assert sent(enterprise, MANUAL) - before == told, "without an append nobody is told anything"
    row = plant.cursor(stream=MANUAL)
    assert row["sequence"] is None, "advice starts no link that waits for an operator"


def test_a_peer_that_listens_needs_no_advice(lab: Lab) -> None:
    plant, enterprise = lab.plant, lab.enterprise
    lab.level()
    before = sent(enterprise, OPERATIONAL)
    began = time.monotonic()
    for number in range(1, 6):
        enterprise.append(OPERATIONAL, b"%d" % number)
        eventually("the fact is here", 3, partial(has_come, plant, number))
    assert time.monotonic() - began < 5 * 3, "they came by the timer"
    assert sent(enterprise, OPERATIONAL) == before
    plant.ask("fetch", "--peer", ENTERPRISE, "--stream", MANUAL)
    before = sent(enterprise, MANUAL)
    enterprise.append(MANUAL, b"2")
    time.sleep(1.5)
    assert sent(enterprise, MANUAL) == before, "the link follows by itself now"


def test_advice_by_hand(lab: Lab) -> None:
    """It is logged, polled upon at once, and its answer is the exit status."""
    plant, enterprise = lab.plant, lab.enterprise
    lab.level()
    heard, polled = len(lines(plant, OPERATIONAL)), fetches(plant, OPERATIONAL)
    answer = enterprise.ask("admin", "notify", "--peer", PLANT, "--stream", OPERATIONAL)
    head = enterprise.stream(OPERATIONAL)["last_sequence"]
    assert answer == {"peer": PLANT, "stream": OPERATIONAL, "head": head, "taken": True}
    eventually("it is logged", 2, lambda: len(lines(plant, OPERATIONAL)) == heard + 1)
    eventually("it is polled upon", 2, lambda: fetches(plant, OPERATIONAL) > polled)
    done = enterprise.bsfg("admin", "notify", "--peer", PLANT, "--stream", OPERATIONAL)
    assert (done.status, done.output) == (0, f"{PLANT} took the advice that {OPERATIONAL} has reached {head}\n")

    asked = ("admin", "notify", "--peer", PLANT, "--stream")
    assert enterprise.refused(*asked, "facts.telemetry")[:2] == (2, "configuration")
    unknown = enterprise.refused("admin", "notify", "--peer", "plant-b", "--stream", OPERATIONAL)
    assert unknown[:2] == (2, "configuration")
    entry = f"  - peer: {ENTERPRISE}\n    stream: {MANUAL}\n"
    text = plant.paths.cursors_file.read_text()
    rest = text[text.index(entry) :]
    end = rest.find("  - peer:", len(entry))
    with plant.changed(plant.paths.cursors_file, (rest[:end] if end > 0 else rest, "")):
        plant.ask("config", "reload")
        assert enterprise.refused(*asked, MANUAL)[:2] == (4, "stream_denied")
    plant.ask("config", "reload")
    with plant.paused_gateway():
        assert enterprise.refused(*asked, OPERATIONAL, seconds=20)[0] == 3


def test_forged_repeated_and_late_advice_changes_only_when_is_polled(lab: Lab) -> None:
    plant = lab.plant
    cursor = lab.level()
    heard = plant.metric(HEARD, peer=ENTERPRISE, stream=OPERATIONAL)
    polled, began = fetches(plant, OPERATIONAL), time.monotonic()
    for number in range(60):
        reply = advise(lab, {"stream": OPERATIONAL, "head": (0, 1, 2**62)[number % 3]})
        assert (reply.status, reply.content) == (204, b"")
    took = time.monotonic() - began
    time.sleep(1.2)
    extra = fetches(plant, OPERATIONAL) - polled
    assert extra <= took + 3 + (took + 1.2) / 5, f"{extra} polls for 60 notifications in {took:.1f} s"
    assert plant.metric(HEARD, peer=ENTERPRISE, stream=OPERATIONAL) == (heard or 0) + 60
    assert len(lines(plant, OPERATIONAL)) <= 20, "a flood is counted, not written"
    after = plant.cursor()
    kept = ("state", "sequence", "digest", "scanned_through", "head", "local_sequence", "gaps", "lag_facts")
    assert {name: after[name] for name in kept} == {name: cursor[name] for name in kept}


def test_advice_on_what_we_do_not_read_is_denied_like_what_does_not_exist(lab: Lab) -> None:
    denied = advise(lab, {"stream": "facts.telemetry", "head": 1})
    absent = advise(lab, {"stream": "facts.nonsense", "head": 1})
    assert (denied.status, denied.error_code) == (absent.status, absent.error_code) == (403, "stream_denied")
    assert advise(lab, {"stream": OPERATIONAL, "head": 1}).status == 204
    assert advise(lab, {"stream": OPERATIONAL, "head": 1, "facts": []}).error_code == "unknown_field"
    assert advise(lab, {"stream": OPERATIONAL, "head": -1}).error_code == "invalid_request"
    assert advise(lab, {"stream": OPERATIONAL}).error_code == "invalid_request"
