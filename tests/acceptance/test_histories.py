"""Histories that don't fit, in a real lab: every halt has its name, every halt its way out, and no other link notices.

After each way out the facts are complete and in order, and no coordinates come twice into one generation
(I8 to I10, I16 to I21; contract, sections 1, 2 and 6).
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from nats.js.errors import NotFoundError
from tests.support.lab_zones import (
    ENTERPRISE,
    LINK,
    OPERATIONAL,
    OPERATIONAL_STREAM,
    Lab,
    eventually,
)

from bsfg.errors import BsfgError
from bsfg.lab.stores import StoredMessage
from bsfg.model.names import inbound_physical, inbound_subject, parse_stream, parse_zone

OTHER: Final = "facts.batch_completed"
RECORD_SUBJECT: Final = f"$KV.bsfg_links.{ENTERPRISE}.{OPERATIONAL}"
ENTRY: Final = f"    stream: {OPERATIONAL}\n    init_mode: bounded_backfill_24h\n"
"""The link's entry in the lab's cursors.yaml."""
PAYLOAD: Final = "history"
BIG_BYTES: Final = 200_000


def inbound_name(generation: int) -> str:
    return inbound_physical(parse_zone(ENTERPRISE), parse_stream(OPERATIONAL), generation)


def publish(lab: Lab, count: int = 3) -> list[int]:
    """New facts at the source; their sequences."""
    stamp = time.time_ns()
    payloads = [f'{{"{PAYLOAD}":"{stamp}-{number}"}}'.encode() for number in range(count)]
    answer = lab.enterprise.append(OPERATIONAL, *payloads)
    return list(range(answer["first_sequence"], answer["last_sequence"] + 1))


def halted(lab: Lab, reason: str, seconds: float = 15.0) -> dict[str, Any]:
    """Wait until the link is halted for this reason, and show that another link goes on meanwhile."""

    def row() -> dict[str, Any] | None:
        found = lab.plant.cursor()
        return found if (found["state"], found["reason"]) == ("halted", reason) else None

    found = eventually(f"the link is halted for {reason}", seconds, row)
    assert found is not None
    head = lab.enterprise.append(OTHER, b'{"other":1}')["last_sequence"]
    eventually(
        "the other link goes on",
        10.0,
        lambda: lab.plant.cursor(stream=OTHER)["sequence"] == head,
    )
    status = lab.plant.status()
    assert status["health"] == "degraded"
    assert any(reason in problem for problem in status["problems"]), status["problems"]
    return found


def decide(lab: Lab, verb: str, *arguments: str, reason: str) -> dict[str, Any]:
    """A decision of plant-a's operator: looked at first, which changes nothing, then taken; both say the same."""
    command = ("cursor", verb, *LINK, *arguments, "--reason", reason)
    before = lab.plant.cursor()
    looked_at = lab.plant.ask(*command, "--dry-run")
    assert lab.plant.cursor()["state"] == before["state"], "a dry run changed the link"
    answer: dict[str, Any] = lab.plant.ask(*command)
    assert looked_at["dry_run"] and not answer["dry_run"]
    for name in set(looked_at) - {"dry_run", "head", "facts", "bytes"}:
        assert answer[name] == looked_at[name], name
    action = "cursor." + verb.replace("-", "_")
    lines = [json.loads(line) for line in (lab.plant.home / "data" / "audit.jsonl").read_text().splitlines()]
    assert [line for line in lines if line["action"] == action and line["reason"] == reason]
    return answer


async def messages(lab: Lab, generation: int) -> list[StoredMessage]:
    async with lab.plant.nats() as store:
        return await store.read_all(inbound_name(generation))


async def checked(lab: Lab, *, without: tuple[int, ...] = ()) -> list[tuple[str, int]]:
    """Coordinates in the generation in force, once the link is level; checked against the source's present epoch.

    Every fact that the source holds behind the link's start is here with its payload, but for ``without``.
    """
    cursor = lab.level()
    found = await messages(lab, cursor["generation"])
    places = [(message.origin.epoch, message.origin.sequence) for message in found]
    assert len(set(places)) == len(places), "coordinates came twice"
    present = [message for message in found if message.origin.epoch == cursor["epoch"]]
    assert found[len(found) - len(present) :] == present, "facts of an epoch that was left lie behind the present one"
    sequences = [message.origin.sequence for message in present]
    assert sequences == sorted(sequences)
    async with lab.enterprise.nats() as store:
        source = {message.sequence: message.payload for message in await store.read_all(OPERATIONAL_STREAM)}
    start = cursor["init"]["start_sequence"] if cursor["init"] else min(sequences, default=1)
    wanted = {number: body for number, body in source.items() if number >= start and number not in without}
    held = {message.origin.sequence: message.payload for message in present}
    assert {number: held.get(number) for number in wanted} == wanted
    return places


async def change_stream(lab: Lab, zone: str, name: str, **changes: Any) -> None:
    """What another tool does to a stream's configuration."""
    async with lab.zones[zone].nats() as store:
        jetstream = store.client.jetstream()
        config = (await jetstream.stream_info(name)).config
        await jetstream.update_stream(config.evolve(**changes))


async def recreate(lab: Lab, zone: str, name: str) -> None:
    """The stream is deleted and made again from its saved configuration, metadata and all."""
    async with lab.zones[zone].nats() as store:
        jetstream = store.client.jetstream()
        config = (await jetstream.stream_info(name)).config
        await jetstream.delete_stream(name)
        # The server removes the files after it has answered; made again at once, the stream would begin with them.
        for streams in (lab.zones[zone].home / "data" / "nats" / "store" / "jetstream").glob("*/streams"):
            while (streams / name).exists():
                shutil.rmtree(streams / name, ignore_errors=True)
                await asyncio.sleep(0.01)
        await jetstream.add_stream(config)


@contextmanager
def configured(lab: Lab, *lines: str) -> Iterator[None]:
    """The link's entry in cursors.yaml has further lines inside the block."""
    text = ENTRY + "".join(f"    {line}\n" for line in lines)
    with lab.plant.changed(lab.plant.paths.cursors_file, (ENTRY, text)):
        lab.plant.ask("config", "reload")
        yield
    lab.plant.ask("config", "reload")


@contextmanager
def cut_off(lab: Lab) -> Iterator[None]:
    """plant-a does not hear from enterprise."""
    lab.plant.ask("admin", "partition", "--peer", ENTERPRISE, "--reason", "test")
    try:
        yield
    finally:
        lab.plant.ask("admin", "reconcile", "--peer", ENTERPRISE)


def restart_plant(lab: Lab) -> None:
    lab.plant.kill_gateway()
    lab.plant.start_gateway()


def up(lab: Lab) -> None:
    """Wait until plant-a's gateway answers and its link has looked."""
    eventually("plant-a answers", 15.0, lambda: answers(lab.plant.cursor))


def answers(ask: Callable[[], object]) -> bool:
    with suppress(BsfgError):
        ask()
        return True
    return False


@pytest.fixture(autouse=True)
async def level(lab: Lab) -> AsyncIterator[None]:
    """Each case begins with a level link that has facts, and ends with one that is exact."""
    publish(lab, 4)
    lab.level()
    yield
    publish(lab, 2)
    await checked(lab)


# What the source lost: gap.


async def test_facts_that_the_source_no_longer_has_halt_the_link_until_an_operator_lets_them_go(lab: Lab) -> None:
    with cut_off(lab):
        gone = publish(lab, 6)[:4]
        async with lab.enterprise.nats() as store:
            await store.client.jetstream().purge_stream(OPERATIONAL_STREAM, seq=gone[-1] + 1)
    halted(lab, "gap")
    assert lab.plant.refused("cursor", "accept-epoch", *LINK, "--from", "start_now", "--reason", "x")[:2] == (
        1,
        "check_failed",
    )
    answer = decide(lab, "accept-gap", reason="the four are in the paper archive")
    assert answer["skipped"] == {"from": gone[0], "to": gone[-1], "count": 4}
    row = lab.level()
    assert [(gap["from"], gap["to"], gap["reason"]) for gap in row["gaps"]][-1] == (gone[0], gone[-1], "retention")
    assert not {sequence for _, sequence in await checked(lab)} & set(gone)
    assert lab.plant.refused("cursor", "accept-gap", *LINK, "--reason", "x")[:2] == (1, "check_failed")


async def test_a_changed_policy_leads_a_link_on_that_is_halted_for_a_gap(lab: Lab) -> None:
    with cut_off(lab):
        gone = publish(lab, 3)[:2]
        async with lab.enterprise.nats() as store:
            await store.client.jetstream().purge_stream(OPERATIONAL_STREAM, seq=gone[-1] + 1)
    halted(lab, "gap")
    with configured(lab, "on_gap: record_and_continue"):
        row = lab.level()
    assert (row["gaps"][-1]["from"], row["gaps"][-1]["to"]) == (gone[0], gone[-1])


# Another history at the source: diverged, ahead_of_source.


@pytest.mark.parametrize("start", ["start_now", "1"])
async def test_a_source_that_was_made_again_is_diverged_until_its_new_epoch_is_accepted(
    lab: Lab, start: str
) -> None:
    before = lab.level()
    await recreate(lab, ENTERPRISE, OPERATIONAL_STREAM)
    first = publish(lab, 3)
    assert first == [1, 2, 3]
    halted(lab, "diverged")
    answer = decide(lab, "accept-epoch", "--from", start, reason=f"made again on purpose, {start}")
    assert (answer["old_epoch"], answer["start_sequence"]) == (before["epoch"], 4 if start == "start_now" else 1)
    assert answer["epoch"] != before["epoch"]
    assert answer["skipped"] == ({"from": 1, "to": 3, "count": 3} if start == "start_now" else None)
    more = publish(lab, 2)
    row = lab.level()
    assert (row["generation"], row["epoch"]) == (before["generation"], answer["epoch"])
    places = await checked(lab)
    expected = more if start == "start_now" else first + more
    assert [sequence for epoch, sequence in places if epoch == answer["epoch"]] == expected
    assert (before["epoch"], before["sequence"]) in places, "what was stored of the epoch before stays"


async def test_a_source_restored_from_an_older_copy_is_ahead_of_source_until_it_begins_a_new_epoch(
    lab: Lab, tmp_path: Path
) -> None:
    store = next(lab.enterprise.home.glob("data/**/jetstream")).parent
    lab.enterprise.stop_gateway()
    shutil.copytree(store, tmp_path / "copy")
    lab.enterprise.start_gateway()
    eventually("enterprise answers", 15.0, lambda: answers(lab.enterprise.streams))
    publish(lab, 3)
    before = lab.level()
    lab.enterprise.stop_gateway()
    shutil.rmtree(store)
    shutil.copytree(tmp_path / "copy", store)
    lab.enterprise.start_gateway()
    halted(lab, "ahead_of_source")
    refusal = lab.plant.refused("cursor", "accept-epoch", *LINK, "--from", "start_now", "--reason", "x")
    assert refusal[:2] == (1, "history_mismatch")
    preview = lab.enterprise.ask("stream", "new-epoch", OPERATIONAL, "--reason", "restored", "--dry-run")
    assert [row["peer"] for row in preview["affected"]] == ["plant-a"]
    begun = lab.enterprise.ask("stream", "new-epoch", OPERATIONAL, "--reason", "restored from the copy")
    assert begun["old_epoch"] == preview["old_epoch"] == before["epoch"] != begun["epoch"]
    answer = decide(lab, "accept-epoch", "--from", "start_now", reason="the source was restored")
    assert answer["epoch"] == begun["epoch"]
    new = publish(lab, 2)
    places = await checked(lab)
    assert [sequence for epoch, sequence in places if epoch == begun["epoch"]] == new


async def test_an_epoch_that_comes_back_goes_into_a_new_generation_alone(lab: Lab) -> None:
    """Its sequences would come twice into the one in force."""
    first = lab.level()
    lab.enterprise.ask("stream", "new-epoch", OPERATIONAL, "--reason", "test")
    halted(lab, "diverged")
    decide(lab, "accept-epoch", "--from", "start_now", reason="a new epoch")
    publish(lab, 1)
    lab.level()
    async with lab.enterprise.nats() as store:
        metadata = (await store.client.jetstream().stream_info(OPERATIONAL_STREAM)).config.metadata or {}
    await change_stream(lab, ENTERPRISE, OPERATIONAL_STREAM, metadata=metadata | {"bsfg_epoch": first["epoch"]})
    halted(lab, "diverged")
    accept = ("cursor", "accept-epoch", *LINK, "--from", "start_now", "--reason", "x")
    status, code, message = lab.plant.refused(*accept)
    assert (status, code) == (1, "history_mismatch")
    assert "from earlier" in message
    await rewound(lab, first["sequence"], "the epoch before is back")
    assert (await checked(lab))[0] == (first["epoch"], first["sequence"])


# What happened to our own side: local_reset, foreign_writer, spoilt records.


async def rewound(lab: Lab, to: int, reason: str) -> dict[str, Any]:
    """The way out of every halt: a new generation; the old one is dropped afterwards."""
    before = lab.plant.cursor()["generation"]
    generations = {row["generation"] for row in await generation_rows(lab)}
    answer = decide(lab, "rewind", "--to", str(to), reason=reason)
    row: dict[str, Any] = answer["cursor"]
    assert row["generation"] == answer["generation"] > max(generations)
    assert "rewinding" not in row
    kept = {row["generation"]: row for row in await generation_rows(lab)}
    assert kept[row["generation"]]["in_force"]
    if before in generations:
        assert not kept[before]["in_force"], "the generation before stays, and is not in force"
    await drop_old(lab)
    return answer


async def generation_rows(lab: Lab) -> list[dict[str, Any]]:
    """All generations, by NATS itself, and which of them is in force."""
    in_force = lab.plant.cursor()["generation"]
    async with lab.plant.nats() as store:
        found = await store.client.jetstream().streams_info()
    prefix = inbound_name(0)[:-1]
    names = [info.config.name or "" for info in found]
    numbers = [int(name.removeprefix(prefix)) for name in names if name.startswith(prefix)]
    return [{"generation": number, "in_force": number == in_force} for number in sorted(numbers)]


async def drop_old(lab: Lab) -> None:
    rows = await generation_rows(lab)
    named = ("stream", "drop", OPERATIONAL, "--peer", ENTERPRISE, "--reason", "no longer needed", "--generation")
    for row in rows:
        number = str(row["generation"])
        if row["in_force"]:
            assert lab.plant.refused(*named, number)[:2] == (1, "check_failed")
        else:
            assert lab.plant.ask(*named, number, "--dry-run")["dry_run"]
            assert lab.plant.ask(*named, number)["jetstream"] == inbound_name(row["generation"])
    assert [row["in_force"] for row in await generation_rows(lab)] == [True]


async def test_an_emptied_inbound_stream_is_a_local_reset_and_a_rewind_leads_out(lab: Lab) -> None:
    row = lab.level()
    lab.plant.kill_gateway()
    async with lab.plant.nats() as store:
        await store.client.jetstream().purge_stream(inbound_name(row["generation"]))
    lab.plant.start_gateway()
    up(lab)
    halted(lab, "local_reset")
    first = lab.enterprise.stream(OPERATIONAL)["first_sequence"]
    answer = await rewound(lab, first, "emptied by mistake")
    assert answer["present"]["sequence"] is None or answer["present"]["epoch"] == row["epoch"]
    assert (await checked(lab))[0] == (row["epoch"], first)


@pytest.mark.parametrize("what", ["purged", "deleted"])
async def test_facts_that_somebody_removes_while_facts_flow_are_a_local_reset_and_a_rewind_leads_out(
    lab: Lab, what: str
) -> None:
    publish(lab, 20)
    row = lab.level()
    name = inbound_name(row["generation"])
    async with lab.plant.nats() as store:
        jetstream = store.client.jetstream()
        if what == "purged":
            await jetstream.purge_stream(name, seq=row["local_sequence"] - 5)
        else:
            await jetstream.delete_msg(name, row["local_sequence"] - 5)
        publish(lab, 2)
    halt = halted(lab, "local_reset", 20.0)
    assert halt["generation"] == row["generation"]
    await rewound(lab, row["sequence"] - 10, "removed by mistake")
    assert (await checked(lab))[0] == (row["epoch"], row["sequence"] - 10)


async def test_an_inbound_stream_that_was_made_again_is_a_local_reset_and_a_rewind_leads_out(lab: Lab) -> None:
    row = lab.level()
    await recreate(lab, "plant-a", inbound_name(row["generation"]))
    publish(lab, 2)
    halted(lab, "local_reset")
    await rewound(lab, row["sequence"], "made again by mistake")
    places = await checked(lab)
    assert places[0] == (row["epoch"], row["sequence"])


async def test_what_somebody_else_writes_is_a_foreign_writer_and_a_rewind_leads_out(lab: Lab) -> None:
    row = lab.level()
    subject = inbound_subject(parse_zone(ENTERPRISE), parse_stream(OPERATIONAL), row["generation"])
    async with lab.plant.nats(admin=False) as store:
        assert await store.is_refused_publish(subject, b"not ours"), "a local application may not write there"
    async with lab.plant.nats() as store:
        await store.publish(subject, b"not ours")
    publish(lab, 2)
    halted(lab, "foreign_writer")
    start = row["sequence"] - 1
    await rewound(lab, start, "an administrator's test message")
    assert (await checked(lab))[0] == (row["epoch"], start)


@pytest.mark.parametrize("accident", ["garbage", "no bucket"])
async def test_a_lost_link_record_is_made_good_from_the_facts(lab: Lab, accident: str) -> None:
    row = lab.level()
    lab.plant.kill_gateway()
    async with lab.plant.nats() as store:
        if accident == "garbage":
            await store.publish(RECORD_SUBJECT, b"\x00{garbage")
        else:
            await store.client.jetstream().delete_stream("KV_bsfg_links")
    lab.plant.start_gateway()
    up(lab)
    new = publish(lab, 2)
    after = lab.level()
    assert (after["epoch"], after["generation"], after["sequence"]) == (row["epoch"], row["generation"], new[-1])
    await checked(lab)


async def lose_the_link(lab: Lab) -> None:
    """plant-a's store has nothing of the link any more, as if it had never been."""
    async with lab.plant.nats() as store:
        jetstream = store.client.jetstream()
        for info in await jetstream.streams_info():
            if info.config.name.startswith(inbound_name(0)[:-1]):
                await jetstream.delete_stream(info.config.name)
        with suppress(NotFoundError):
            await jetstream.purge_stream("KV_bsfg_links", subject=RECORD_SUBJECT)


async def test_a_link_that_its_store_has_lost_whole_goes_back_to_where_it_began(lab: Lab) -> None:
    first = lab.enterprise.stream(OPERATIONAL)["first_sequence"]
    await rewound(lab, first, "so that it is known where it began")
    before = lab.level()
    lab.plant.kill_gateway()
    await lose_the_link(lab)
    publish(lab, 2)
    anew = ENTRY.replace("bounded_backfill_24h", "start_now") + "    justification: what lies between is not wanted\n"
    with lab.plant.changed(lab.plant.paths.cursors_file, (ENTRY, anew)):
        lab.plant.start_gateway()
        up(lab)
        publish(lab, 2)
        after = lab.level()
    lab.plant.ask("config", "reload")
    assert after["init"] == before["init"]
    assert (await checked(lab))[0] == (before["epoch"], first)


@pytest.mark.parametrize("way_out", ["accept-epoch", "rewind"])
async def test_where_nothing_says_where_it_began_it_is_cursor_unknown_and_never_a_new_link(
    lab: Lab, way_out: str
) -> None:
    row = lab.level()
    lab.plant.kill_gateway()
    await lose_the_link(lab)
    (lab.plant.home / "data" / "links" / f"{ENTERPRISE}.{OPERATIONAL}.json").write_bytes(b"")
    publish(lab, 2)
    lab.plant.start_gateway()
    up(lab)
    halt = halted(lab, "cursor_unknown")
    assert (halt["sequence"], halt["init"]) == (None, None)
    restart_plant(lab)
    up(lab)
    halted(lab, "cursor_unknown")
    first = lab.enterprise.stream(OPERATIONAL)["first_sequence"]
    if way_out == "rewind":
        await rewound(lab, first, "the store was lost")
    else:
        answer = decide(lab, "accept-epoch", "--from", "full_backfill", reason="the store was lost")
        assert answer["start_sequence"] == first
    assert (await checked(lab))[0] == (row["epoch"], first)


# Rewind beside a link that goes on.


async def test_a_rewind_serves_from_the_old_generation_until_the_new_one_is_whole_whoever_dies(lab: Lab) -> None:
    first = publish(lab, 20_000)[0]
    row = lab.level()
    assert lab.plant.refused("cursor", "rewind", *LINK, "--to", str(row["sequence"] + 9), "--reason", "x")[:2] == (
        1,
        "ahead_of_source",
    )
    start = ("cursor", "rewind", *LINK, "--to", str(first), "--reason", "labels were wrong")
    command = lab.plant.begin(*start)
    eventually("it is being built", 10.0, lambda: lab.plant.cursor().get("rewinding"))
    command.send_signal(signal.SIGINT)
    assert command.wait(10) == 130
    restart_plant(lab)
    up(lab)
    new = publish(lab, 2)
    done = lab.plant.bsfg(*start, "--output", "json")
    assert done.status == 0, done.errors
    cursor = lab.level()
    assert cursor["sequence"] == new[-1]
    assert cursor["generation"] > row["generation"]
    await checked(lab)
    await drop_old(lab)
    consumer = lab.plant.ask("consumer", "info", *LINK)
    assert consumer["pending"] == cursor["local_sequence"], "local applications get all of the new generation"


async def test_a_rewind_to_what_the_source_no_longer_has_names_the_first_that_it_has(lab: Lab) -> None:
    last = lab.level()["sequence"]
    async with lab.enterprise.nats() as store:
        await store.client.jetstream().purge_stream(OPERATIONAL_STREAM, seq=last)
    status, code, message = lab.plant.refused("cursor", "rewind", *LINK, "--to", str(last - 2), "--reason", "x")
    assert (status, code) == (1, "gap")
    assert str(last) in message
    nothing = lab.plant.ask("cursor", "rewind", *LINK, "--abort", "--reason", "x")
    assert nothing["aborted"] is None


async def test_a_fact_that_differs_from_ours_stops_the_switch_and_an_abort_leaves_nothing(lab: Lab) -> None:
    """The message in our stream is replaced by one that claims the same coordinates."""
    row = lab.level()
    generation = row["generation"]
    last = (await messages(lab, generation))[-1]
    subject = inbound_subject(parse_zone(ENTERPRISE), parse_stream(OPERATIONAL), generation)
    lab.plant.kill_gateway()
    async with lab.plant.nats() as store:
        await store.delete(inbound_name(generation), last.sequence)
        own = {name: value for name, value in last.headers if not name.startswith("Nats-")}
        await store.publish(subject, b"forged", own)
    lab.plant.start_gateway()
    up(lab)
    halted(lab, "local_reset")
    start = ("cursor", "rewind", *LINK, "--to", str(row["sequence"] - 2), "--reason", "ours was forged")
    status, code, message = lab.plant.refused(*start)
    assert (status, code) == (1, "halted")
    assert "differ" in message
    assert lab.plant.cursor()["rewinding"]["different"] == 1
    assert lab.plant.cursor()["generation"] == generation
    assert lab.plant.ask("cursor", "rewind", *LINK, "--abort", "--reason", "x")["aborted"] == generation + 1
    assert [each["generation"] for each in await generation_rows(lab)] == [generation]
    answer = lab.plant.ask(*start, "--accept-differences")
    assert answer["generation"] == generation + 2, "a number is never used twice"
    await drop_old(lab)


# What is kept, and what can't be stored.


async def test_keep_removes_the_oldest_and_never_the_last_fact(lab: Lab) -> None:
    publish(lab, 200)
    row = lab.level()
    held = len(await messages(lab, row["generation"]))
    assert held >= 200
    with configured(lab, "keep: {max_bytes: 20KiB}"):
        eventually("keep by bytes", 20.0, lambda: bytes_held(lab) <= 20 * 1024)
        assert bytes_held(lab) > 15 * 1024, "as much as keep allows"
        assert first_sequence(lab) > row["local_sequence"] - 100
    with configured(lab, "keep: {max_age: 1s}"):
        eventually("keep by age", 20.0, lambda: first_sequence(lab) == row["local_sequence"])
    assert [message.origin.sequence for message in await messages(lab, row["generation"])] == [row["sequence"]]
    assert lab.plant.metric("bsfg_facts_removed_total", stream=OPERATIONAL, processed="no") == held - 1
    told = [line for line in lab.plant.log() if line["event"] == "unprocessed_removed"]
    assert len(told) == 1, "it is told once"
    lab.plant.ask("cursor", "rewind", *LINK, "--to", str(row["sequence"]), "--reason", "so that all is here again")
    await drop_old(lab)


def bytes_held(lab: Lab) -> int:
    return int(lab.plant.stream(OPERATIONAL, peer=ENTERPRISE)["bytes"])


def first_sequence(lab: Lab) -> int:
    return int(lab.plant.stream(OPERATIONAL, peer=ENTERPRISE)["first_sequence"])


async def test_a_fact_that_we_can_not_store_halts_or_is_set_aside_and_is_never_skipped_in_silence(lab: Lab) -> None:
    row = lab.level()
    name = inbound_name(row["generation"])
    await change_stream(lab, "plant-a", name, max_msg_size=BIG_BYTES // 2)
    big = lab.enterprise.ask("append", "--stream", OPERATIONAL, "-", stdin=b"x" * BIG_BYTES)["last_sequence"]
    publish(lab, 2)
    halted(lab, "unstorable_fact")
    with configured(lab, "on_unstorable: quarantine"):
        after = lab.level()
    assert (after["gaps"][-1]["from"], after["gaps"][-1]["reason"]) == (big, "unstorable_fact")
    folder = lab.plant.home / "data" / "quarantine" / ENTERPRISE / OPERATIONAL
    assert (folder / f"{row['epoch']}-{big}").read_bytes() == b"x" * BIG_BYTES
    places = await checked(lab, without=(big,))
    assert (row["epoch"], big) not in places
    await change_stream(lab, "plant-a", name, max_msg_size=2 * 1024 * 1024)
    await rewound(lab, big, "there is room for it now")
    assert (await checked(lab))[0] == (row["epoch"], big)
    async with lab.enterprise.nats() as store:
        await store.delete(OPERATIONAL_STREAM, big)


# Local streams.


async def test_a_local_stream_is_dropped_only_when_zone_yaml_no_longer_has_it(lab: Lab) -> None:
    path = lab.enterprise.paths.zone_file
    drop = ("stream", "drop", "facts.telemetry", "--reason", "no longer made")
    lab.enterprise.append("facts.telemetry", b"1", b"2")
    assert lab.enterprise.refused(*drop)[:2] == (1, "check_failed")
    line = next(line for line in path.read_text().splitlines(keepends=True) if "facts.telemetry" in line)
    lab.enterprise.install(path, path.read_text().replace(line, ""))
    lab.enterprise.ask("config", "reload")
    assert lab.enterprise.ask(*drop, "--dry-run")["messages"] == 2
    assert lab.enterprise.ask(*drop)["messages"] == 2
    status, code, _ = lab.enterprise.refused(*drop)
    assert (status, code) == (1, "not_found")
