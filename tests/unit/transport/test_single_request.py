"""One look and one request at a real listener: who is refused, who is served, and who is not the peer."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.peer_zones import Pki, Sender, sending

from bsfg.errors import BsfgError, Code, PeerUnreachable
from bsfg.model.identity import IdentityRule
from bsfg.transport import single_request, strangers
from bsfg.transport.certificates import Anchors
from bsfg.transport.development_ca import Authority, self_signed_authority
from bsfg.transport.single_request import Listener, SingleReply, send, shown_certificate

RULE = IdentityRule("plant-a-bsfg")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def sender(pki: Pki) -> AsyncIterator[Sender]:
    async with sending(pki) as running:
        yield running


def listener(sender: Sender) -> Listener:
    return Listener("127.0.0.1", sender.port, "enterprise-bsfg")


def nothing(der: bytes) -> None:
    """Whose certificate it is does not matter here."""


async def asked(sender: Sender, anchors: Anchors, credentials: tuple[Path, Path] | None) -> SingleReply:
    return await asyncio.to_thread(send, listener(sender), anchors, nothing, credentials, "/health")


async def test_the_entitled_one_is_served(sender: Sender, pki: Pki, tmp_path: Path) -> None:
    reply = await asked(sender, sender_anchors(pki), stranger(tmp_path, RULE, receiver_authority(pki)))
    assert (reply.status, reply.cut, reply.tls_version, reply.code) == (200, None, "TLSv1.3", None)
    assert reply.body["identity"] == "enterprise-bsfg"


@pytest.mark.parametrize(
    ("rule", "authority", "has_ended", "is_cut"),
    [
        (RULE, lambda pki: strangers.unknown_authority(), False, True),
        (RULE, lambda pki: None, False, True),
        (RULE, lambda pki: receiver_authority(pki), True, True),
        (strangers.unlisted(RULE), lambda pki: receiver_authority(pki), False, False),
    ],
    ids=["wrong CA", "self-signed", "expired", "unlisted"],
)
async def test_strangers_are_refused(
    sender: Sender,
    pki: Pki,
    tmp_path: Path,
    rule: IdentityRule,
    authority: Callable[[Pki], Authority | None],
    has_ended: bool,
    is_cut: bool,
) -> None:
    credentials = stranger(tmp_path, rule, authority(pki), has_ended=has_ended)
    reply = await asked(sender, sender_anchors(pki), credentials)
    assert (reply.cut is not None) == is_cut, reply
    assert is_cut or (reply.status, reply.code) == (403, "peer_unknown")


async def test_who_has_no_certificate_is_cut(sender: Sender, pki: Pki) -> None:
    assert (await asked(sender, sender_anchors(pki), None)).cut is not None


async def test_a_listener_that_is_not_the_peer_gets_no_request(sender: Sender, pki: Pki) -> None:
    def another(der: bytes) -> None:
        raise BsfgError(Code.IDENTITY_REJECTED, "it is another zone", reason="identity_mismatch")

    wrong = Anchors([self_signed_authority("other").certificate])
    for anchors, verify in ((wrong, nothing), (sender_anchors(pki), another)):
        with pytest.raises(BsfgError) as caught:
            await asyncio.to_thread(send, listener(sender), anchors, verify, None, "/health")
        assert caught.value.code is Code.IDENTITY_REJECTED
    assert sender.heard.answers == []


async def test_a_look_verifies_and_says_why_not(sender: Sender, pki: Pki) -> None:
    der, version = await asyncio.to_thread(shown_certificate, listener(sender), sender_anchors(pki), None)
    assert version == "TLSv1.3" and b"enterprise-bsfg" in der
    for anchors in (None, Anchors([self_signed_authority("other").certificate])):
        with pytest.raises(BsfgError) as caught:
            await asyncio.to_thread(shown_certificate, listener(sender), anchors, None)
        assert caught.value.code is Code.IDENTITY_REJECTED
        assert caught.value.details["reason"] in ("unknown_ca", "self_signed")


def test_nobody_there_and_silence_are_no_denial(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_request, "DEADLINE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        taken: list[Any] = []
        threading.Thread(target=lambda: taken.append(server.accept()), daemon=True).start()
        place = Listener("127.0.0.1", port, "x")
        with pytest.raises(PeerUnreachable):
            send(place, sender_anchors(pki), nothing, None, "/health")
    with pytest.raises(PeerUnreachable):
        shown_certificate(place, sender_anchors(pki), None)


def stranger(
    folder: Path, rule: IdentityRule, authority: Authority | None, *, has_ended: bool = False
) -> tuple[Path, Path]:
    certificate, key = strangers.write_stranger(folder, rule, authority, has_ended=has_ended)
    assert key.stat().st_mode & 0o777 == 0o600
    return certificate, key


def sender_anchors(pki: Pki) -> Anchors:
    return Anchors([pki.enterprise_ca.authority.certificate])


def receiver_authority(pki: Pki) -> Authority:
    return pki.plant_ca.authority
