"""``bsfg verify`` between two real zones: what was altered behind the gateway's back is named, and nothing else.

``make verify-heavy`` does the same with a million facts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from bench.wire import Counted, counted
from tests.support.lab_zones import ENTERPRISE, INBOUND_STREAM, LINK, OPERATIONAL, Lab, eventually
from tests.support.peer_caller import calling

from bsfg.lab.stores import Store, StoredMessage

FACTS: Final = 4_000
PAYLOAD: Final = b"x" * 480
FLUSHED: Final = 1_000


@pytest.fixture(scope="module", autouse=True)
def wire(lab: Lab) -> Iterator[Counted]:
    """What plant-a says to enterprise goes this way."""
    endpoint = lab.enterprise.place.endpoint
    with counted(endpoint) as between:
        with lab.plant.changed(lab.plant.paths.peers_file, (endpoint, between.address)):
            lab.plant.ask("config", "reload")
            yield between
        lab.plant.ask("config", "reload")


@pytest.fixture(scope="module", autouse=True)
def facts(lab: Lab, wire: Counted) -> int:
    """The facts of this module, all of them at plant-a; the last sequence."""
    lines = b"".join(b'{"n":%d,"pad":"%b"}\n' % (number, PAYLOAD) for number in range(FACTS))
    lab.enterprise.bsfg(
        "append", "--stream", OPERATIONAL, "--subject", "test", "--ndjson", "-", stdin=lines, seconds=600
    )
    return int(lab.level(600)["sequence"])


def verify(lab: Lab, *more: str, status: int = 0) -> dict[str, Any]:
    began = time.monotonic()
    done = lab.plant.bsfg("verify", *LINK, *more, "--output", "json", seconds=600)
    assert (done.status, done.errors) == (status, ""), (done.errors, done.output[-500:])
    found: dict[str, Any] = done.json
    seconds = time.monotonic() - began
    print(f"verify: {found['facts']} facts in {seconds:.2f} s, {found['facts'] / seconds:.0f} a second")
    return found


def test_what_is_identical_is_said_to_be(lab: Lab, facts: int) -> None:
    found = verify(lab)
    assert (found["identical"], found["from"], found["to"], found["facts"]) == (True, 1, facts, FACTS)
    assert found["differences"] == found["unresolved"] == found["explained"] == found["outside"] == []
    part = verify(lab, "--from", "11", "--to", "20")
    assert (part["from"], part["to"], part["facts"]) == (11, 20, 10)
    # Anybody can compute the digest from its definition; the peer says the same of the whole range.
    with calling(lab.plant, lab.enterprise) as caller:
        said = caller.say(
            "POST",
            "/v1/digests",
            {"stream": OPERATIONAL, "epoch": part["epoch"], "from": 11, "to": 20, "parts": 1},
        )
    assert said.body["parts"] == [{"count": 10, "digest": part["digest"]}]


def test_a_peer_has_one_request_for_digests_at_a_time(lab: Lab, facts: int) -> None:
    epoch = lab.plant.cursor()["epoch"]
    wanted = {"stream": OPERATIONAL, "epoch": epoch, "from": 1, "to": facts, "parts": 256}

    def ask(_: int) -> str | int | None:
        with calling(lab.plant, lab.enterprise) as caller:
            said = caller.say("POST", "/v1/digests", wanted)
        return said.code or said.status

    with ThreadPoolExecutor(8) as pool:
        said = set(pool.map(ask, range(8)))
    assert said == {200, "too_many"}


def test_the_range_that_is_compared_is_bounded_by_the_cursor(lab: Lab, facts: int) -> None:
    found = verify(lab, "--from", str(facts + 1))
    assert (found["identical"], found["facts"]) == (True, 0)
    text = lab.plant.bsfg("verify", *LINK, "--from", str(facts + 1)).output
    assert text.startswith("nothing to compare"), text


def test_a_peer_that_is_cut_off_ends_it_with_a_named_error(lab: Lab) -> None:
    lab.plant.ask("admin", "partition", "--peer", ENTERPRISE, "--reason", "a test", "--for", "5m")
    try:
        status, code, _ = lab.plant.refused("verify", *LINK)
        assert (status, code) == (3, "partitioned")
    finally:
        lab.plant.ask("admin", "reconcile", "--peer", ENTERPRISE)
        eventually("level again", 20, lambda: lab.plant.cursor()["state"] == "level")


def test_facts_altered_removed_swapped_and_added_are_named_and_nothing_else(lab: Lab, facts: int) -> None:
    altered, removed, one, other, added = 17, FACTS // 3, FACTS // 2, FACTS // 2 + 700, FACTS - 50
    near = FACTS // 4

    def damage(messages: list[StoredMessage]) -> list[tuple[str, bytes, dict[str, str]]]:
        rows = [[each.subject, each.payload, dict(each.headers)] for each in messages]
        rows[altered - 1][1] = b"X" + rows[altered - 1][1][1:]
        rows[one - 1], rows[other - 1] = rows[other - 1], rows[one - 1]
        rows[near - 1], rows[near] = rows[near], rows[near - 1]
        rows.insert(added, [rows[0][0], b"nobody published this", {}])
        del rows[removed - 1]
        return [(row[0], row[1], row[2]) for row in rows]

    asyncio.run(_rebuilt(lab, damage))
    found = verify(lab, status=1)
    named = {(row["kind"], row["sequence"]) for row in found["differences"]}
    assert named == {
        ("different", altered),
        ("missing", removed),
        ("out of order", one),
        ("out of order", other),
        ("out of order", near),
        ("out of order", near + 1),
        ("foreign", None),
    }
    assert (found["identical"], found["unresolved"], found["digest"]) == (False, [], None)
    text = lab.plant.bsfg("verify", *LINK, seconds=600)
    assert text.status == 1
    assert f"different: fact {altered} (local {FACTS + altered})" in text.output
    assert f"missing: fact {removed}" in text.output


async def _rebuilt(
    lab: Lab, damage: Callable[[list[StoredMessage]], list[tuple[str, bytes, dict[str, str]]]]
) -> None:
    """The inbound stream emptied and filled with other messages, while the link is stopped."""
    lab.plant.ask("admin", "partition", "--peer", ENTERPRISE, "--reason", "the stream is rewritten")
    async with lab.plant.nats() as store:
        jetstream = store.client.jetstream()
        rows = damage(await _messages(store))
        await jetstream.purge_stream(INBOUND_STREAM)
        for number, (to, payload, headers) in enumerate(rows):
            await store.client.publish(to, payload, headers=headers or None)
            if number % FLUSHED == 0:
                await store.client.flush()
        await store.client.flush()
        end = time.monotonic() + 60
        while (await store.state(INBOUND_STREAM)).messages < len(rows):
            assert time.monotonic() < end
            await asyncio.sleep(0.1)
    lab.plant.ask("admin", "reconcile", "--peer", ENTERPRISE)
    # That messages are gone which it did not remove itself, the gateway has noticed; which of the facts, verify says.
    eventually("the link is halted", 30, lambda: lab.plant.cursor()["reason"] == "local_reset")


async def _messages(store: Store) -> list[StoredMessage]:
    """All messages, without what the server would act on once more."""
    return [
        StoredMessage(
            each.sequence,
            each.subject,
            each.time,
            tuple(pair for pair in each.headers if not pair[0].startswith("Nats-")),
            each.payload,
        )
        for each in await store.read_all(INBOUND_STREAM)
    ]


def test_a_repair_says_first_what_it_would_do_and_then_fetches_only_that(
    lab: Lab, wire: Counted, facts: int
) -> None:
    words = ("repair", *LINK, "--reason", "a test")
    planned = lab.plant.ask(*words, "--dry-run")
    assert (planned["repaired"], planned["plan"]["to"], planned["plan"]["dry_run"]) == (False, 1, True)
    damaged = {row["sequence"] for row in planned["found"]["differences"]} - {None}
    assert (planned["plan"]["facts"], planned["plan"]["taken_over"]) == (len(damaged), FACTS - len(damaged))
    assert lab.plant.cursor()["generation"] == 1
    before = wire.carried_bytes
    done = lab.plant.bsfg(*words, "--output", "json", seconds=600)
    # Three verifications are in it, the polls of all links, and the facts that were damaged.
    assert wire.carried_bytes - before < FACTS * len(PAYLOAD) / 10
    assert done.status == 0, (done.output[-2000:], done.errors)
    assert (done.json["repaired"], done.json["cursor"]["generation"], done.json["after"]["facts"]) == (
        True,
        2,
        FACTS,
    )
    assert verify(lab)["identical"]
    again = lab.plant.bsfg(*words)
    assert (again.status, again.output.splitlines()[0]) == (0, "nothing to repair")
    audit = (lab.plant.paths.data / "audit.jsonl").read_text()
    assert '"action": "cursor.repair"' in audit
    assert '"purpose": "repair"' in audit
    assert f'"copied": {FACTS - len(damaged)}, "fetched": {len(damaged)}' in audit
