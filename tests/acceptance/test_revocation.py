"""What was allowed a moment ago ends within five seconds, on open connections and held long polls too (I34, I35)."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from cryptography import x509
from tests.support.lab_zones import ENTERPRISE, OPERATIONAL, PLANT, Lab, Zone, eventually, printed_seconds
from tests.support.peer_caller import ANSWER_SECONDS, Caller, Said, behind, calling

from bsfg.transport.development_ca import issue_crl

ACTS_SECONDS_MAX: Final = 5.0
HEALS_SECONDS_MAX: Final = 15.0
HELD_MILLISECONDS: Final = 30_000
STAYS_HELD_SECONDS: Final = 1.0
ASK_SECONDS: Final = 0.05
DAY: Final = timedelta(days=1)
_NUMBERS: Final = itertools.count(10, 10)


@dataclass
class Session:
    """An open connection that is known to work, and a long poll that is known to be held."""

    open: Caller
    poll: Caller
    thread: threading.Thread
    polled: list[Said] = field(default_factory=list)


@pytest.fixture
def session(lab: Lab) -> Iterator[Session]:
    """The positive twin of every test here: before anything changes all is answered, and the poll is held."""
    lab.healthy()
    cursor = _cursor_with_a_fact(lab)
    with calling(lab.plant, lab.enterprise) as opened, calling(lab.plant, lab.enterprise) as poll:
        assert opened.health().status == 200
        assert OPERATIONAL in [row["stream"] for row in opened.streams().body]
        _poll_hears_a_new_fact(lab, poll, cursor)
        cursor = lab.level()
        polled: list[Said] = []
        thread = threading.Thread(target=lambda: polled.append(_held(poll, cursor)))
        thread.start()
        ends = time.monotonic() + STAYS_HELD_SECONDS
        while time.monotonic() < ends:
            assert opened.health().status == 200
            time.sleep(ASK_SECONDS)
        assert thread.is_alive(), f"the long poll was not held: {polled}"
        yield Session(opened, poll, thread, polled)
        thread.join(ANSWER_SECONDS)
        assert not thread.is_alive()


def _held(poll: Caller, cursor: dict[str, Any]) -> Said:
    return poll.fetch(stream=OPERATIONAL, after=behind(cursor), wait_ms=HELD_MILLISECONDS)


def _cursor_with_a_fact(lab: Lab) -> dict[str, Any]:
    lab.enterprise.append(OPERATIONAL, b"{}")
    return lab.level()


def _poll_hears_a_new_fact(lab: Lab, poll: Caller, cursor: dict[str, Any]) -> None:
    """A held poll answers as soon as there is something to say."""
    heard: list[Said] = []
    thread = threading.Thread(target=lambda: heard.append(_held(poll, cursor)))
    thread.start()
    time.sleep(0.2)
    lab.enterprise.append(OPERATIONAL, b'{"heard":true}')
    thread.join(ANSWER_SECONDS)
    assert [fact["data"] for fact in heard[0].body["facts"]] == ['{"heard":true}']


def _until_refused(caller: Caller, seconds: float, *, needs_store: bool = True) -> Said:
    """Keep asking on one connection until an answer is a refusal, or the connection is cut."""
    deadline = time.monotonic() + seconds
    while True:
        answers = [caller.health(), *([caller.streams()] if needs_store else [])]
        for said in answers:
            if said.is_refused:
                return said
            assert said.status == 200
        assert time.monotonic() < deadline, f"still answered after {seconds:.0f} s"
        time.sleep(ASK_SECONDS)


def _both_end(session: Session, began: float, what: str) -> tuple[Said, Said]:
    """The open connection and the held poll are refused or cut in time; both, as they were."""
    patience = began - time.monotonic() + 2 * ACTS_SECONDS_MAX
    said = _until_refused(session.open, patience)
    session.thread.join(patience)
    assert not session.thread.is_alive(), "the long poll is still held"
    polled = session.polled[0]
    printed_seconds(f"{what}: open connection {said.code or 'cut'}", said.at - began)
    printed_seconds(f"{what}: held long poll {polled.code or 'cut'}", polled.at - began)
    assert polled.is_refused, polled
    assert said.at - began < ACTS_SECONDS_MAX
    assert polled.at - began < ACTS_SECONDS_MAX
    return said, polled


def _is_let_in(lab: Lab) -> bool:
    with calling(lab.plant, lab.enterprise) as caller:
        return caller.health().status == 200


def _healed(lab: Lab) -> None:
    eventually("plant-a is let in again", HEALS_SECONDS_MAX, lambda: _is_let_in(lab))
    lab.level()


def _serial(zone: Zone) -> int:
    return x509.load_pem_x509_certificate(zone.paths.server_certificate.read_bytes()).serial_number


def _install_crl(lab: Lab, *, revoked: bool, ends: timedelta = DAY, number: int | None = None) -> int:
    """A CRL of plant-a's CA in enterprise's certs, with or without plant-a's certificate; moments count from now.

    It is newer than all before it, unless a number says otherwise.
    """
    place, now = lab.plant.place, datetime.now(UTC)
    serials = [_serial(lab.plant)] if revoked else []
    number = number or next(_NUMBERS)
    begin, end = now - timedelta(hours=1), now + ends
    issue_crl(place.ca_cert, place.ca_key, serials, number, begin, end, lab.enterprise.paths.crl)
    return number


@pytest.fixture
def crl(lab: Lab) -> Iterator[None]:
    """Enterprise has a CRL on which nobody stands, before and afterwards."""
    _install_crl(lab, revoked=False)
    eventually(
        "the CRL is in force", HEALS_SECONDS_MAX, lambda: lab.enterprise.metric("bsfg_crl_expiry_seconds")
    )
    yield
    _install_crl(lab, revoked=False)
    _healed(lab)


def test_revocation_by_the_first_crl_cuts_open_connections_and_held_polls(lab: Lab, session: Session) -> None:
    began = time.monotonic()
    try:
        _install_crl(lab, revoked=True)
        said, polled = _both_end(session, began, "revoked by a first CRL")
        assert said.code in (None, "identity_rejected")
        assert polled.code in (None, "identity_rejected")
        assert not _is_let_in(lab)
        # The list that vanishes takes nothing back.
        lab.enterprise.paths.crl.unlink()
        eventually(
            "the missing CRL is told",
            HEALS_SECONDS_MAX,
            lambda: lab.enterprise.metric("bsfg_config_reload_success") == 0.0,
        )
        assert not _is_let_in(lab)
    finally:
        _install_crl(lab, revoked=False)
    _healed(lab)


def test_revocation_by_a_newer_crl_acts_as_fast_and_an_older_one_brings_nothing_back(
    crl: None, lab: Lab, session: Session
) -> None:
    began = time.monotonic()
    number = _install_crl(lab, revoked=True)
    said, _ = _both_end(session, began, "revoked by a newer CRL")
    assert said.code in (None, "identity_rejected")
    # A rollback would give plant-a its trust back: it is refused, and what runs goes on.
    start = lab.enterprise.log_size()
    _install_crl(lab, revoked=False, number=number - 1)
    eventually(
        "the older CRL is refused",
        HEALS_SECONDS_MAX,
        lambda: lab.enterprise.metric("bsfg_config_reload_success") == 0.0,
    )
    rejected = [line for line in lab.enterprise.log(start) if line["event"] == "configuration_rejected"]
    assert "is older than the one in use" in rejected[0]["message"]
    assert not _is_let_in(lab)
    status, code, message = lab.enterprise.refused("config", "reload")
    assert (status, code) == (2, "configuration")
    assert "older" in message
    assert not _is_let_in(lab)
    # Its issuer takes the revocation back by a newer one.
    _install_crl(lab, revoked=False)
    _healed(lab)
    assert lab.enterprise.metric("bsfg_config_reload_success") == 1.0


def test_an_expired_crl_fails_closed_and_a_newer_one_heals(crl: None, lab: Lab, session: Session) -> None:
    """It ends while connections are open and polls are held; nobody reloads anything."""
    _install_crl(lab, revoked=False, ends=timedelta(seconds=6))
    crl_end = x509.load_pem_x509_crl(lab.enterprise.paths.crl.read_bytes()).next_update_utc
    assert crl_end is not None
    began = time.monotonic() + (crl_end - datetime.now(UTC)).total_seconds()
    said, polled = _both_end(session, began, "CRL expired")
    assert said.code in (None, "identity_rejected")
    assert min(said.at, polled.at) > began, "the CRL had not ended yet"
    expiry = lab.enterprise.metric("bsfg_crl_expiry_seconds")
    assert expiry is not None
    assert expiry < 0
    _install_crl(lab, revoked=False)
    _healed(lab)


def test_removal_of_the_peer_ends_both(lab: Lab, session: Session) -> None:
    peers = lab.enterprise.paths.peers_file
    before, links = peers.read_text(), lab.enterprise.paths.cursors_file
    links_before = links.read_text()
    began = time.monotonic()
    try:
        # A link to a peer that is gone would be an error, so both go together, as a managed change would have it.
        lab.enterprise.install(links, "cursors: []\n")
        lab.enterprise.install(peers, "peers: []\n")
        said, polled = _both_end(session, began, "peer removed")
        assert said.code in (None, "peer_unknown")
        assert polled.code in (None, "peer_unknown")
        assert not _is_let_in(lab)
    finally:
        lab.enterprise.install(peers, before)
        lab.enterprise.install(links, links_before)
    _healed(lab)


def test_what_is_taken_back_is_taken_back_while_the_local_store_is_away(lab: Lab, session: Session) -> None:
    """Who may come in has nothing to do with NATS: a store that hangs must not keep a door open."""
    peers = lab.enterprise.paths.peers_file
    with lab.enterprise.paused_server():
        began = time.monotonic()
        with lab.enterprise.changed(peers, ("authorized: true", "authorized: false")):
            said = _until_refused(session.open, 2 * ACTS_SECONDS_MAX, needs_store=False)
            session.thread.join(2 * ACTS_SECONDS_MAX)
            printed_seconds(f"store away: open connection {said.code or 'cut'}", said.at - began)
            assert said.code in (None, "peer_unknown")
            assert said.at - began < ACTS_SECONDS_MAX
            assert not session.thread.is_alive(), "the long poll is still held"
            assert session.polled[0].is_refused
            assert session.polled[0].at - began < ACTS_SECONDS_MAX
    _healed(lab)


def test_authorized_false_ends_both(lab: Lab, session: Session) -> None:
    began = time.monotonic()
    with lab.enterprise.changed(lab.enterprise.paths.peers_file, ("authorized: true", "authorized: false")):
        said, polled = _both_end(session, began, "authorized: false")
        assert said.code in (None, "peer_unknown")
        assert polled.code in (None, "peer_unknown")
    _healed(lab)


def test_narrowing_refuses_the_held_poll_and_leaves_the_rest(lab: Lab, session: Session) -> None:
    began = time.monotonic()
    with lab.enterprise.changed(lab.enterprise.paths.peers_file, (f"{OPERATIONAL}, ", "")):
        session.thread.join(2 * ACTS_SECONDS_MAX)
        assert not session.thread.is_alive(), "the long poll is still held"
        polled = session.polled[0]
        printed_seconds(f"narrowed: held long poll {polled.code}", polled.at - began)
        assert (polled.status, polled.code) == (403, "stream_denied")
        assert polled.at - began < ACTS_SECONDS_MAX
        # The same open connection goes on with what is left.
        assert session.open.health().status == 200
        named = [row["stream"] for row in session.open.streams().body]
        assert named == ["facts.audit", "facts.batch_completed"]
        row = eventually("plant-a names it", 10, lambda: _link_state(lab) == "denied" and lab.plant.cursor())
        assert row
        assert "facts.operational" in row["error"]
    _healed(lab)


def _link_state(lab: Lab) -> str:
    return str(lab.plant.cursor()["state"])


def test_an_administrative_partition_refuses_both_and_says_when_to_come_back(lab: Lab, session: Session) -> None:
    began = time.monotonic()
    lab.enterprise.ask("admin", "partition", "--peer", PLANT, "--reason", "test")
    try:
        said, polled = _both_end(session, began, "partitioned")
        assert (said.status, said.code) == (503, "partitioned")
        assert (polled.status, polled.code) == (503, "partitioned")
    finally:
        lab.enterprise.ask("admin", "reconcile", "--peer", PLANT)
    _healed(lab)
    assert lab.plant.ask("peer", "list")["peers"][0]["id"] == ENTERPRISE
