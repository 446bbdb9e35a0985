"""What control lines say of where messages stand, in columns."""

from __future__ import annotations

import pytest

from bsfg.substrates.nats_frames import Messages
from bsfg.substrates.pull_consumer import Delivered, delivered

PLAIN = b"$JS.ACK.facts_energy.c1.1."
WITH_DOMAIN = b"$JS.ACK.hub.ACCOUNT.facts_energy.c1.1."


def lines(*replies: bytes, sizes: bytes = b"5") -> Messages:
    run = Messages()
    operation = b"HMSG" if b" " in sizes else b"MSG"
    run.lines = [b"%b facts.energy.%d 7 %b %b" % (operation, n, each, sizes) for n, each in enumerate(replies)]
    run.headers = [b"NATS/1.0\r\n\r\n"] * len(replies) if b" " in sizes else []
    run.payloads = [b"12345"] * len(replies)
    return run


EXPECTED = Delivered([b"facts.energy.0", b"facts.energy.1"], [41, 43], [1_700_000_000, 1_800_000_000], 8, 6)


@pytest.mark.parametrize("sizes", [b"5", b"12 17"])
@pytest.mark.parametrize(
    ("before", "behind"),
    [(PLAIN, (b"", b"")), (WITH_DOMAIN, (b"", b"")), (WITH_DOMAIN, (b".x1", b".y2"))],
    ids=["plain", "domain", "domain and a random token"],
)
def test_every_form_of_acknowledgement_subject(before: bytes, behind: tuple[bytes, bytes], sizes: bytes) -> None:
    first = before + b"41.7.1700000000.7" + behind[0]
    second = before + b"43.8.1800000000.6" + behind[1]
    assert delivered(lines(first, second, sizes=sizes)) == EXPECTED


@pytest.mark.parametrize(
    "odd",
    [
        b"$JS.ACK.facts_energy.c2.1.43.8.1800000000.6",
        b"$JS.ACK.facts_energy.c1.2.43.8.1800000000.6",
        PLAIN + b"43.8.1800000000",
        PLAIN + b"43.8.1800000000.6.1",
        PLAIN + b"43.8..6",
        PLAIN + b"43.8.18e9.6",
        PLAIN + b"43.8.1800000000.6 7",
    ],
)
def test_a_line_of_another_kind_is_no_place(odd: bytes) -> None:
    good = PLAIN + b"41.7.1700000000.7"
    assert delivered(lines(good)).sequences == [41]
    with pytest.raises(ValueError):
        delivered(lines(good, odd))


@pytest.mark.parametrize("odd", [b"_INBOX.a.1", b"$JS.ACK.1.2.3", b"$JX.ACK.facts_energy.c1.1.41.7.1700000000.7"])
def test_a_reply_that_is_no_acknowledgement_subject_is_no_place(odd: bytes) -> None:
    with pytest.raises(ValueError):
        delivered(lines(odd))
