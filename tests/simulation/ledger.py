"""The judge outside: what must hold at every step, checked against what really happened and nobody's own opinion."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.simulation.history import History

from bsfg.core.link_state import FLIGHTS_MAX, Link
from bsfg.model.cursor import Cursor
from bsfg.model.fact import Fact
from bsfg.ports import Confirmed


@dataclass
class Ledger:
    """Every fact that was durably stored by the receiver, at the moment when it was, and every violation."""

    history: History
    violations: list[str] = field(default_factory=list)
    stored: set[tuple[str, int]] = field(default_factory=set)
    """(epoch, sequence) of every fact that the receiver's store ever held."""
    accepted: dict[str, list[int]] = field(default_factory=dict)
    """Epochs that an operator has accepted, and the starts that were chosen in each, one after the other."""
    starts: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Where each epoch began by what a gateway wrote down, and how often the store had lost something by then."""
    unproven_histories: int = 0
    """Times that a link went on behind a fact that the source no longer held, so that nobody could tell."""
    overstated_gaps: int = 0
    """Gap records that name facts which arrived after all, by bytes that were still under way."""
    tails_lost: int = 0
    """How often the receiver's store lost what it had acknowledged, by a power cut or by hand."""
    records_lost: int = 0
    """And how often it lost the link record, or has got an older one."""

    def violated(self, invariant: str, what: str) -> None:
        self.violations.append(f"{invariant}: {what}")

    def appending(self, tip: tuple[str, Fact] | None, epoch: str, fact: Fact, number: int) -> None:
        """The receiver's store takes a fact behind what it holds (I9, I10, I16)."""
        if tip is not None and tip[0] == epoch:
            self._must_continue(tip[1], fact, number)
        elif tip is not None and epoch not in self.accepted:
            self.violated("I16", f"{epoch}:{fact.sequence} appended behind {tip[0]} that no operator let go")
        if self.history.places[number].sequence != fact.sequence:
            self.violated("I13", f"fact {number} appended at sequence {fact.sequence}")
        self.stored.add((epoch, fact.sequence))

    def _must_continue(self, tip: Fact, fact: Fact, number: int) -> None:
        earlier = int(tip.payload)
        if fact.sequence <= tip.sequence:
            word = "duplicate" if number == earlier or fact.sequence == tip.sequence else "reordered"
            self.violated("I9/I10", f"{word}: {fact.sequence} appended behind {tip.sequence}")
        elif not self.history.continues(number, earlier):
            here = self.history.at(self.history.places[number].branch, tip.sequence)
            if here is not None and here not in self.history.deleted | self.history.expired:
                self.violated("I16", f"fact {number} appended behind fact {earlier} of another history")
            else:
                self.unproven_histories += 1

    def confirmed(self, before: Confirmed | None, confirmed: Confirmed) -> None:
        """The sender believes that the receiver has this durably (I4)."""
        if (confirmed.epoch, confirmed.sequence) not in self.stored:
            self.violated("I4", f"confirmed {confirmed.epoch}:{confirmed.sequence}, which was never stored")
        if before and before.epoch == confirmed.epoch and before.sequence > confirmed.sequence:
            self.violated("I7", f"the confirm went back from {before.sequence} to {confirmed.sequence}")

    def began(self, epoch: str, start: int) -> None:
        """A gateway wrote down where an epoch begins: once, but where an operator chose or the store had lost (I21).

        Two gateways by mistake have two operators, and what is written stands: by the second choice the epoch has
        begun. A power cut under lazy may take the record before it is acknowledged: nothing is stored by then.
        """
        known, losses = self.starts.get(epoch), self.tails_lost + self.records_lost
        is_chosen = known is None or start == known[0] or start in self.accepted.get(epoch, ())
        if not is_chosen and any(found == epoch for found, _ in self.stored):
            self.violated("I21", f"{epoch} began at {known and known[0]}, and with facts stored again at {start}")
        if known is None or start in self.accepted.get(epoch, ()) or known[1] != losses:
            self.starts[epoch] = (start, losses)

    def moved(self, gateway: str, before: Link, link: Link, tails_lost: int) -> None:
        """A link took an event: its cursor is of stored facts, and moves back only where the store did (I1, I7)."""
        cursor, old = link.cursor, before.cursor
        if len(link.flights) > FLIGHTS_MAX + 1:
            self.violated("I43", f"{gateway}: {len(link.flights)} pages in flight")
        if cursor is None or cursor is old:
            return
        if cursor.sequence is not None and (cursor.epoch, cursor.sequence) not in self.stored:
            self.violated("I1", f"{gateway}: the cursor is at {_shown(cursor)}, which was never stored")
        if old is None or old.epoch != cursor.epoch or tails_lost != self.tails_lost:
            return
        if (cursor.sequence or 0) < (old.sequence or 0):
            self.violated("I7", f"{gateway}: the cursor went from {_shown(old)} back to {_shown(cursor)}")


def _shown(cursor: Cursor) -> str:
    return f"{cursor.epoch}:{cursor.sequence} (scanned {cursor.scanned_through})"
