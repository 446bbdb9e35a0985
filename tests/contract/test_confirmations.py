"""The port ``Confirmations``: what a peer told us that it holds."""

from __future__ import annotations

from tests.contract.stores import PEER, STREAM, Store

from bsfg.model.names import StreamName, ZoneId
from bsfg.ports import Confirmed

DIGEST = "ab" * 32


async def test_nothing_was_confirmed_yet(store: Store) -> None:
    assert await store.confirmations.load(PEER, STREAM) is None


async def test_the_last_confirm_comes_back(store: Store) -> None:
    for sequence in (1, 2, 10**15):
        confirmed = Confirmed("0123456789abcdef", sequence, DIGEST, 1_736_935_200_000_000_001)
        await store.confirmations.save(PEER, STREAM, confirmed)
        assert await store.confirmations.load(PEER, STREAM) == confirmed


async def test_peers_and_streams_are_apart(store: Store) -> None:
    saved = {}
    for number, key in enumerate(
        [(PEER, STREAM), (ZoneId("plant-b"), STREAM), (PEER, StreamName("facts.orders"))], start=1
    ):
        saved[key] = Confirmed("0123456789abcdef", number, DIGEST, number)
        await store.confirmations.save(*key, saved[key])
    for key, confirmed in saved.items():
        assert await store.confirmations.load(*key) == confirmed
