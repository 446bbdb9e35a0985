"""One stream's messages written anew with four things wrong, by nats-py and page by page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bsfg.lab.stores import Store

PAGE_MESSAGES: Final = 1_000
READ_SECONDS: Final = 30.0

Message = tuple[str, bytes, dict[str, str] | None]


@dataclass(frozen=True)
class Damage:
    """What is wrong, by places counted from 1."""

    altered: int
    """One byte of its payload."""
    removed: int
    swapped: tuple[int, int]
    added_behind: int

    @classmethod
    def within(cls, count: int) -> Damage:
        """Far from each other in so many facts."""
        return cls(count // 5 + 3, count // 3, (count // 2, count // 2 + 700), count - count // 20)

    @property
    def names(self) -> set[tuple[str, int | None]]:
        """How ``bsfg verify`` has to call it."""
        one, other = self.swapped
        return {
            ("different", self.altered),
            ("missing", self.removed),
            ("out of order", one),
            ("out of order", other),
            ("foreign", None),
        }


async def rewrite(store: Store, stream: str, damage: Damage) -> None:
    """The stream holds its messages anew, all behind where it ended, but for the damage; what was before is gone."""
    jetstream = store.client.jetstream()
    state = (await jetstream.stream_info(stream)).state
    one, other = damage.swapped
    aside = {place: await _message(store, stream, place) for place in damage.swapped}
    subscription = await store.from_beginning(stream)
    place = 0
    while place < state.last_seq:
        wanted = min(PAGE_MESSAGES, state.last_seq - place)
        for each in await subscription.fetch(wanted, timeout=READ_SECONDS):
            place += 1
            subject, payload, headers = each.subject, each.data, own_headers(each.headers)
            if place in damage.swapped:
                subject, payload, headers = aside[other if place == one else one]
            if place == damage.altered:
                payload = payload[:-1] + bytes([payload[-1] ^ 1])
            if place != damage.removed:
                await store.client.publish(subject, payload, headers=headers)
            if place == damage.added_behind:
                await store.client.publish(subject, b"nobody published this")
        await store.client.flush()
    await subscription.unsubscribe()
    await jetstream.purge_stream(stream, seq=state.last_seq + 1)


async def _message(store: Store, stream: str, place: int) -> Message:
    found = await store.client.jetstream().get_msg(stream, place)
    return found.subject or "", found.data or b"", own_headers(dict(found.headers or {}))


def own_headers(headers: dict[str, str] | None) -> dict[str, str] | None:
    """Without those that the server would act on once more."""
    return {name: text for name, text in (headers or {}).items() if not name.startswith("Nats-")} or None
