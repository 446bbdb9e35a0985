"""A producer sends its facts again and again, while the gateway is killed: each is stored once, in order (I12)."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import threading
import time
from typing import Final

from tests.support.lab_zones import ENTERPRISE, Lab, Zone, eventually
from tests.support.patience import patience

from bsfg.lab import program

STREAM: Final = "facts.telemetry"
JETSTREAM: Final = "facts_telemetry"
FACTS: Final = 20_000
KILLS: Final = 3
WINDOW_SECONDS: Final = 0.2
"""JetStream's own memory of ids is shortened, so that it is not what the test shows."""
ATTEMPTS_MAX: Final = 12
STORED_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 0.005


def envelope(number: int) -> bytes:
    fact = {"subject": "line", "message_id": f"fact-{number}", "data": f"{number} " + "x" * (number % 700)}
    return json.dumps(fact).encode() + b"\n"


def send(zone: Zone, envelopes: bytes) -> tuple[int, str, str]:
    """The whole input through one pipe; it may end before its end."""
    command = program.command_line(
        "append", "--stream", STREAM, "--envelope", "--home", str(zone.home), "--output", "json"
    )
    done = subprocess.run(command, input=envelopes, capture_output=True, timeout=90, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def killed_while(zone: Zone, envelopes: bytes, after_seconds: float) -> None:
    """Kill the gateway in the middle of the pipe, so long after more of it is stored than before."""
    before = zone.stream(STREAM)["last_sequence"]
    sending = threading.Thread(target=send, args=(zone, envelopes))
    sending.start()
    deadline = time.monotonic() + STORED_SECONDS * patience()
    while zone.stream(STREAM)["last_sequence"] == before and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    time.sleep(after_seconds)
    zone.kill_gateway()
    sending.join()


async def window_shortened(zone: Zone) -> None:
    async with zone.nats() as store:
        jetstream = store.client.jetstream()
        config = (await jetstream.stream_info(JETSTREAM)).config
        config.duplicate_window = WINDOW_SECONDS
        await jetstream.update_stream(config)


async def published(zone: Zone, payload: bytes, message_id: str) -> None:
    async with zone.nats(admin=False) as store:
        await store.client.request(f"{STREAM}.line", payload, headers={"Nats-Msg-Id": message_id})


def stored(zone: Zone) -> list[str]:
    lines = zone.bsfg("read", "--stream", STREAM, "--output", "json").output.splitlines()
    return [json.loads(line)["data"] for line in lines]


async def test_a_producer_that_repeats_itself_stores_each_fact_once(lab: Lab) -> None:
    zone, chance = lab.zones[ENTERPRISE], random.Random(7)
    await window_shortened(zone)
    envelopes = b"".join(envelope(number) for number in range(FACTS))
    wanted = [json.loads(envelope(number))["data"] for number in range(FACTS)]

    partly = 0
    for _ in range(KILLS):
        killed_while(zone, envelopes, chance.uniform(0.0, 0.1))
        lab.healthy()
        partly += 0 < zone.stream(STREAM)["last_sequence"] < FACTS
    assert partly, "no kill fell into the middle"
    for _ in range(ATTEMPTS_MAX):
        status, output, errors = send(zone, envelopes)
        if status == 0:
            break
        assert "Traceback" not in errors
    answer = json.loads(output)
    assert answer["appended"] + answer["duplicates"] == FACTS
    assert stored(zone) == wanted

    again = {"appended": 0, "first_sequence": 1, "last_sequence": FACTS, "duplicates": FACTS}
    zone.stop_gateway()
    shutil.rmtree(zone.home / "data" / "ids")
    lab.healthy()
    assert json.loads(send(zone, envelopes)[1]) == again

    await published(zone, b"direct", "direct-1")
    await asyncio.sleep(2 * WINDOW_SECONDS)
    original = eventually("the direct fact is there", 10, lambda: stored(zone)[FACTS:] == ["direct"] and FACTS + 1)
    one = zone.ask("append", "--stream", STREAM, "--subject", "line", "--message-id", "direct-1", stdin=b"direct")
    assert one == {"appended": 0, "first_sequence": original, "last_sequence": original, "duplicates": 1}

    other = b'{"subject": "line", "message_id": "fact-3", "data": "other"}\n'
    status, output, errors = send(zone, envelope(FACTS) + other + envelope(FACTS + 1))
    error = json.loads(errors)["error"]
    assert (status, output, error["code"]) == (1, "", "conflicting_duplicate")
    assert error["message"].startswith("stdin:2: ")
    assert (error["message_id"], error["original_sequence"]) == ("fact-3", 4)
    assert error["appended_before"]["appended"] == 1
    assert len(stored(zone)) == FACTS + 2
