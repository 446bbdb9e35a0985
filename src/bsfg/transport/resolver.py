"""Names of peers to addresses, in a few threads of their own, with the last good answer kept (design, decision 16).

A system resolver that hangs holds its thread for as long as it likes. So each name has at most one lookup under way,
there are few of them at once, and whoever waits gets the last good answer after two seconds, however old it is: the
certificate, not the address, says who answers there.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

from bsfg.ports import Clock

LOOKUP_SECONDS: Final = 2.0
FRESH_SECONDS: Final = 30.0
THREADS_MAX: Final = 4
WAITING_MAX: Final = 16
NAMES_MAX: Final = 1_024

Place = tuple[socket.AddressFamily, str]
Lookup = Callable[[str, socket.AddressFamily], Sequence[Place]]
"""A blocking lookup: the addresses of a name; raises OSError."""
_Key = tuple[str, socket.AddressFamily]
_Flight = asyncio.Future[Sequence[Place]]


@dataclass(slots=True)
class _Name:
    """What is known of a name: the last good answer, and the lookup under way."""

    places: Sequence[Place] = ()
    answered_at: float = 0.0
    flight: _Flight | None = None
    began_at: float = 0.0


def system_lookup(name: str, family: socket.AddressFamily) -> Sequence[Place]:
    """The machine's own resolver: /etc/hosts, DNS, and whatever else it is set up to ask."""
    found = socket.getaddrinfo(name, None, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return tuple(dict.fromkeys((kind, str(address[0])) for kind, _, _, _, address in found))


def is_address(host: str) -> bool:
    """Whether there is nothing to resolve."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class NameResolver(AbstractResolver):
    """One for all peers of a gateway; used from its event loop alone. aiohttp asks it only for what is no address."""

    def __init__(self, clock: Clock, lookup: Lookup = system_lookup) -> None:
        self._clock = clock
        self._lookup = lookup
        self._names: dict[_Key, _Name] = {}
        self._threads = 0
        self._waiting: deque[tuple[_Key, _Flight]] = deque()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a host, after at most ``LOOKUP_SECONDS``; OSError if none was ever found."""
        name = self._name((host, family))
        if not name.places or self._clock.monotonic() - name.answered_at > FRESH_SECONDS:
            await self._refresh((host, family), name)
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=flags)
            for kind, address in name.places
        ]

    async def close(self) -> None:
        """Lookups that wait for a thread are dropped; those under way end by themselves and hold nothing up."""
        for (host, _), flight in self._waiting:
            flight.set_exception(OSError(f"resolving the name {host} was given up"))
        self._waiting.clear()

    def age_seconds(self, host: str) -> float | None:
        """How old the answer is that is used for this name; None for an address and for a name without one."""
        times = [each.answered_at for (name, _), each in self._names.items() if name == host and each.places]
        return self._clock.monotonic() - max(times) if times else None

    def _name(self, key: _Key) -> _Name:
        name = self._names.get(key)
        if name is None:
            while len(self._names) >= NAMES_MAX:
                del self._names[next(iter(self._names))]
            name = self._names[key] = _Name()
        return name

    async def _refresh(self, key: _Key, name: _Name) -> None:
        """Wait for the name's lookup; what goes wrong is raised only where there is no answer to fall back on."""
        try:
            flight = name.flight or self._begin(key, name)
            left = max(0.0, name.began_at + LOOKUP_SECONDS - self._clock.monotonic())
            # Waiting this way does not cancel the lookup, which others wait for too.
            await asyncio.wait({flight}, timeout=left)
            if not flight.done():
                raise OSError(f"the name {key[0]} was not resolved within {LOOKUP_SECONDS:g} s")
            flight.result()
        except OSError:
            if not name.places:
                raise

    def _begin(self, key: _Key, name: _Name) -> _Flight:
        if self._threads >= THREADS_MAX and len(self._waiting) >= WAITING_MAX:
            raise OSError(f"the name {key[0]} can't be resolved now: {WAITING_MAX} others wait")
        flight: _Flight = asyncio.get_running_loop().create_future()
        name.flight, name.began_at = flight, self._clock.monotonic()
        flight.add_done_callback(lambda _: self._landed(name, flight))
        if self._threads < THREADS_MAX:
            self._start(key, flight)
        else:
            self._waiting.append((key, flight))
        return flight

    def _landed(self, name: _Name, flight: _Flight) -> None:
        name.flight = None
        if flight.exception() is None:
            name.places, name.answered_at = flight.result(), self._clock.monotonic()

    def _start(self, key: _Key, flight: _Flight) -> None:
        self._threads += 1
        # A daemon thread and no executor: an executor's threads are waited for when the program ends.
        given = (asyncio.get_running_loop(), key, flight)
        threading.Thread(target=self._run, args=given, name=f"resolve {key[0]}", daemon=True).start()

    def _run(self, loop: asyncio.AbstractEventLoop, key: _Key, flight: _Flight) -> None:
        """The thread: look up, hand the outcome to the loop."""
        places: Sequence[Place] = ()
        try:
            places = self._lookup(*key)
            error: Exception | None = None if places else OSError(f"the name {key[0]} has no address")
        except Exception as caught:  # Whatever it is, the thread's place has to become free again.
            error = caught if isinstance(caught, OSError) else OSError(f"{key[0]}: {caught}")
        with contextlib.suppress(RuntimeError):  # The loop has ended: nobody waits any more.
            loop.call_soon_threadsafe(self._returned, flight, places, error)

    def _returned(self, flight: _Flight, places: Sequence[Place], error: Exception | None) -> None:
        self._threads -= 1
        if error is None:
            flight.set_result(places)
        else:
            flight.set_exception(error)
        if self._waiting:
            self._start(*self._waiting.popleft())
