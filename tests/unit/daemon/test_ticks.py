"""Waits end together on ticks: never later than wanted, or never earlier, and by less than a tick."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bsfg.daemon.ticks import TICK_SECONDS, WAIT_SECONDS_MIN, next_tick, to_tick

NOW = st.floats(0, 1e7)
LONG = st.floats(WAIT_SECONDS_MIN, 1e4)
EPSILON = 1e-6


def is_on_tick(moment: float) -> bool:
    rest = moment % TICK_SECONDS
    return min(rest, TICK_SECONDS - rest) < EPSILON


@given(NOW, LONG)
def test_a_wait_ends_on_a_tick_and_is_no_longer(now: float, seconds: float) -> None:
    wait = to_tick(seconds, now)
    assert is_on_tick(now + wait) and seconds - TICK_SECONDS - EPSILON < wait <= seconds


@given(NOW, LONG)
def test_or_it_ends_on_a_tick_and_is_no_shorter(now: float, seconds: float) -> None:
    wait = next_tick(seconds, now)
    assert is_on_tick(now + wait) and seconds - EPSILON <= wait <= seconds + TICK_SECONDS


@given(NOW, st.floats(0, WAIT_SECONDS_MIN, exclude_max=True))
def test_a_short_wait_is_left_as_it_is(now: float, seconds: float) -> None:
    assert to_tick(seconds, now) == next_tick(seconds, now) == seconds
