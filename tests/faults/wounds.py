"""Carries out the faults of a schedule, each lasting one in a thread of its own, so that they overlap."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from tests.faults.line import Trouble
from tests.faults.schedule import Fault, Kind
from tests.faults.stage import Stage
from tests.support.lab_zones import ENTERPRISE, PLANT

HEAL_SECONDS: Final = 15.0


@dataclass
class Wounds:
    """What a schedule does to a lab."""

    stage: Stage
    _lasting: list[threading.Thread] = field(default_factory=list)
    _line: threading.Lock = field(default_factory=threading.Lock)

    def carry_out(
        self, faults: Sequence[Fault], is_over: Callable[[], bool], on_fault: Callable[[Fault], None]
    ) -> None:
        """All faults at their times, or until it is over; whatever lasts has ended on return."""
        began = time.monotonic()
        for fault in faults:
            while time.monotonic() - began < fault.at_seconds and not is_over():
                time.sleep(min(0.05, max(0.0, fault.at_seconds - (time.monotonic() - began))))
            if is_over():
                break
            on_fault(fault)
            self._begin(fault)
        for thread in self._lasting:
            thread.join()

    def _begin(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.KILL_GATEWAY:
                self._note(fault, self.stage.keeper(fault.target).kill())
            case Kind.KILL_SERVER:
                self._note(fault, self.stage.kill_server(fault.target))
            case _:
                thread = threading.Thread(target=self._last, args=(fault,), daemon=True, name=str(fault))
                self._lasting.append(thread)
                thread.start()

    def _note(self, fault: Fault, has_hit: bool) -> None:
        """A fault that found nothing to hit, as a kill while the gateway is down, counts apart."""
        name = f"{fault.kind} {fault.target}".strip()
        self.stage.happened[name if has_hit else f"{name} (nothing there)"] += 1

    def _last(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.PAUSE_GATEWAY:
                self._pause(fault, self.stage.keeper(fault.target).send)
            case Kind.PAUSE_SERVER:
                self._pause(fault, lambda number: self.stage.signal_server(fault.target, number))
            case Kind.PARTITION | Kind.PARTITION_ONE_WAY:
                self._partition(fault)
            case _:
                self._trouble_line(fault)

    def _pause(self, fault: Fault, send: Callable[[signal.Signals], bool]) -> None:
        has_hit = send(signal.SIGSTOP)
        self._note(fault, has_hit)
        if has_hit:
            time.sleep(fault.seconds)
            send(signal.SIGCONT)

    def _partition(self, fault: Fault) -> None:
        packets = self.stage.packets
        if packets is None:
            # Without root the line is frozen in both directions instead.
            self._trouble_line(fault)
            return
        with ExitStack() as stack:
            targets = (ENTERPRISE, PLANT) if fault.kind is Kind.PARTITION else (fault.target,)
            for target in targets:
                stack.enter_context(packets.dropping(*self._deafening(target)))
            self._note(fault, True)
            time.sleep(fault.seconds)

    def _deafening(self, zone: str) -> tuple[str, str]:
        """What no longer reaches this zone: requests to its listener, and answers from the other one's."""
        other = PLANT if zone == ENTERPRISE else ENTERPRISE
        return f"tcp dport {self.stage.port(zone)}", f"tcp sport {self.stage.port(other)}"

    def _trouble_line(self, fault: Fault) -> None:
        proxy = self.stage.proxy
        with self._line:
            if fault.kind is Kind.CUT:
                self._cut(fault)
                return
            proxy.trouble = Trouble(
                delay_seconds=fault.amount if fault.kind is Kind.DELAY else 0.0,
                bytes_per_second=fault.amount if fault.kind is Kind.THROTTLE else 0.0,
                is_frozen=fault.kind not in (Kind.DELAY, Kind.THROTTLE),
            )
            self._note(fault, True)
            time.sleep(fault.seconds)
            proxy.trouble = Trouble()
            if fault.kind is Kind.FREEZE:
                proxy.break_connections()

    def _cut(self, fault: Fault) -> None:
        """Break every connection behind so many more bytes."""
        proxy, cuts, began = self.stage.proxy, self.stage.proxy.cuts, time.monotonic()
        proxy.trouble = Trouble(cut_after_bytes=int(fault.amount))
        while proxy.cuts == cuts and time.monotonic() - began < HEAL_SECONDS:
            time.sleep(0.02)
        self._note(fault, proxy.cuts > cuts)
        proxy.trouble = Trouble()
