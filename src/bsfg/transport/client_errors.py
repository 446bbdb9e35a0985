"""What went wrong on the way to a peer, in the words of ``bsfg.errors``: every failure has one short reason.

With TLS 1.3 a listener's refusal of our certificate arrives after our side of the handshake is done, as an alert
where the answer was awaited; if the alert is lost on the way, all that can be said is ``reset``.
"""

from __future__ import annotations

import errno
import re
import ssl
from collections.abc import Iterator
from typing import Final

import aiohttp

from bsfg.errors import BsfgError, Code, PeerUnreachable
from bsfg.model.names import ZoneId, printable
from bsfg.transport.handshake import PeerNotVerified, detail_of, reason_of
from bsfg.transport.page_check import bad_answer

EXCHANGE_ERRORS: Final = (aiohttp.ClientError, OSError)
"""Everything that an exchange over aiohttp raises for what the network or the peer does; timeouts are OSErrors."""

CHAIN_LENGTH_MAX: Final = 10
_REFUSES_US: Final = re.compile(r"ALERT_(\w*CERTIFICATE\w*|UNKNOWN_CA|ACCESS_DENIED)")
_NO_ROUTE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})


def failure(error: BaseException, peer: ZoneId, endpoint: str, seconds: float) -> BsfgError:
    """The error to raise for this one: not reachable, not who it should be, not who we should be, or not HTTP."""
    refused = _identity_failure(error, peer, endpoint)
    if refused is not None:
        return refused
    if isinstance(error, aiohttp.ClientResponseError):
        return bad_answer(f"it is not well-formed HTTP: {printable(error.message)}")
    reason = _reason(error)
    words = f"no answer within {seconds:.1f} s" if reason == "timeout" else _WORDS[reason]
    return PeerUnreachable(
        f"peer {peer} can't be reached at {endpoint}: {words}",
        hint="it is tried again by itself; 'bsfg peer check' looks at each step",
        reason=reason,
        detail=printable(_plain(error), 200),
    )


_WORDS: Final = {
    "refused": "the connection is refused",
    "reset": "the connection was closed before the answer was complete",
    "dns": "its name can't be resolved",
    "no_route": "there is no route",
    "tls": "TLS could not be agreed on",
    "network": "the network failed",
}


def _identity_failure(error: BaseException, peer: ZoneId, endpoint: str) -> BsfgError | None:
    for cause in _chain(error):
        if isinstance(cause, aiohttp.ClientConnectorCertificateError):
            # It is an SSLCertVerificationError by type alone, and carries the real one.
            continue
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _not_the_peer(cause, peer, endpoint)
        alert = _REFUSES_US.search(str(cause)) if isinstance(cause, OSError) else None
        if alert:
            return BsfgError(
                Code.IDENTITY_REJECTED,
                f"peer {peer} at {endpoint} refuses this zone's certificate ({alert[1].lower()})",
                hint="its log says why: anchor, dates, revocation, or no certificate at all",
                side="peer",
                reason=alert[1].lower(),
            )
    return None


def _not_the_peer(cause: ssl.SSLCertVerificationError, peer: ZoneId, endpoint: str) -> BsfgError:
    if isinstance(cause, PeerNotVerified) and cause.refusal.code is not Code.IDENTITY_REJECTED:
        return cause.refusal
    return BsfgError(
        Code.IDENTITY_REJECTED,
        f"whoever answers at {endpoint} is not peer {peer}: {detail_of(cause)}",
        hint="compare its certificate ('openssl s_client') with identity and trust_anchor in peers.yaml",
        side="us",
        reason=reason_of(cause),
    )


def _reason(error: BaseException) -> str:
    chain = list(_chain(error))
    if any(isinstance(cause, aiohttp.ClientConnectorDNSError) for cause in chain):
        return "dns"
    if any(isinstance(cause, TimeoutError) for cause in chain):
        return "timeout"
    if any(isinstance(cause, ConnectionRefusedError) for cause in chain):
        return "refused"
    if any(isinstance(cause, OSError) and cause.errno in _NO_ROUTE for cause in chain):
        return "no_route"
    if any(isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError) for cause in chain):
        return "tls"
    ended = (
        ConnectionError,
        ssl.SSLEOFError,
        aiohttp.ServerDisconnectedError,
        aiohttp.ClientPayloadError,
    )
    return "reset" if any(isinstance(cause, ended) for cause in chain) else "network"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it stands for; aiohttp keeps that in different places."""
    current: BaseException | None = error
    for _ in range(CHAIN_LENGTH_MAX):
        if current is None:
            return
        yield current
        if isinstance(current, aiohttp.ClientConnectorCertificateError):
            current = current.certificate_error
        elif isinstance(current, aiohttp.ClientConnectorError):
            current = current.os_error
        else:
            current = current.__cause__


def _plain(error: BaseException) -> str:
    *_, last = _chain(error)
    return str(last) or type(last).__name__
