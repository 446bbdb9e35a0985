"""Floods of scrapes and probes: the answer is made seldom enough, and never grows old."""

from __future__ import annotations

import time
from pathlib import Path

import aiohttp

from bsfg.daemon.local_api import build_tcp_application
from bsfg.daemon.local_listeners import serve_tcp
from bsfg.daemon.remembered import AGE_SECONDS_MIN, Remembered

SCRAPES = 300


class Maker:
    """Something that takes its time, by a clock that is moved by hand."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now, self.made = seconds, 0.0, 0

    def __call__(self) -> bytes:
        self.now += self.seconds
        self.made += 1
        return b"%d" % self.made

    def clock(self) -> float:
        return self.now


def test_making_takes_a_tenth_of_the_time_at_most() -> None:
    maker = Maker(0.05)
    answer = Remembered(maker, maker.clock)
    for _ in range(10_000):
        answer()
        maker.now += 0.001
    assert 0.08 < maker.made * maker.seconds / maker.now < 0.11


def test_what_is_made_quickly_is_never_older_than_a_tenth_of_a_second() -> None:
    maker = Maker(0.0)
    answer = Remembered(maker, maker.clock)
    assert answer() == answer() == b"1"
    maker.now += AGE_SECONDS_MIN
    assert answer() == b"2"


async def test_hundreds_of_scrapes_a_second_are_answered_and_the_loop_goes_on(tmp_path: Path) -> None:
    def slow() -> bytes:
        time.sleep(0.05)
        return b"bsfg_x 1\n"

    application = build_tcp_application(
        object(),  # type: ignore[arg-type]
        metrics=Remembered(slow, time.monotonic),
        is_ready=lambda: True,
        token=None,
    )
    server = await serve_tcp(application, "127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as session:
            began = time.monotonic()
            for _ in range(SCRAPES):
                async with session.get(f"http://127.0.0.1:{server.port}/metrics") as answer:
                    assert await answer.read() == b"bsfg_x 1\n"
            assert time.monotonic() - began < SCRAPES * 0.05 / 2, "every scrape was made anew"
    finally:
        await server.close()
