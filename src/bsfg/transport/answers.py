"""What leaves the peer listener: JSON without a banner, and errors that tell a peer no more than it may know.

Our own errors name files, addresses and causes for our operator. A peer gets the contract's code; of what is ours
alone it learns only that it is unavailable or internal, with the request's id to ask about.
"""

from __future__ import annotations

import json
from typing import Any, Final

from aiohttp import web

from bsfg.errors import BsfgError, Code
from bsfg.transport.page_codec import JSON_TYPE
from bsfg.transport.wire import CODES_TO_PEERS

RETRY_UNAVAILABLE_SECONDS: Final = 2

_OURS_ALONE: Final = frozenset(
    {Code.IDENTITY_REJECTED, Code.PEER_UNKNOWN, Code.UNAVAILABLE, Code.TIMED_OUT, Code.INTERNAL}
)


class BareResponse(web.Response):
    """A response that does not say which software sent it; for requests that never reach the application."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.popall("Server", None)


async def remove_banner(request: web.Request, response: web.StreamResponse) -> None:
    """Signal ``on_response_prepare``: the same for every response of the application."""
    response.headers.popall("Server", None)


def json_response(body: Any, status: int = 200) -> web.Response:
    """A JSON answer, one line."""
    return BareResponse(body=json.dumps(body).encode() + b"\n", status=status, content_type=JSON_TYPE)


def error_response(error: BsfgError, request_id: str, status: int | None = None) -> web.Response:
    """The contract's error body, with ``Retry-After`` where the error says when; ``status`` overrides the code's."""
    told = told_to_peer(error)
    body = told.as_json()
    body["error"]["request_id"] = request_id
    response = json_response(body, status or told.code.http_status)
    if "retry_after_seconds" in told.details:
        response.headers["Retry-After"] = str(told.details["retry_after_seconds"])
    return response


def told_to_peer(error: BsfgError) -> BsfgError:
    """The error as a peer may see it."""
    if error.code in CODES_TO_PEERS - _OURS_ALONE:
        return error
    if error.code is Code.IDENTITY_REJECTED:
        return BsfgError(
            error.code,
            "this certificate is not accepted here",
            hint="the other zone's log says why, under the request_id",
        )
    if error.code is Code.PEER_UNKNOWN:
        return BsfgError(
            error.code,
            "no authorized peer has this identity here",
            hint="the other zone's peers.yaml decides",
        )
    if error.code in (Code.UNAVAILABLE, Code.TIMED_OUT):
        return BsfgError(
            Code.UNAVAILABLE,
            "this zone's store does not answer at the moment",
            hint="it is tried again by itself",
            retry_after_seconds=RETRY_UNAVAILABLE_SECONDS,
        )
    return BsfgError(
        Code.INTERNAL,
        "this zone failed to answer",
        hint="the other zone's log says why, under the request_id",
    )
