"""A large artifact's body, taken over from aiohttp: in large pieces, and as bounded as a small one."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from tests.support.peer_zones import Pki
from tests.unit.transport.test_artifact_client import (
    URI,
    answered_by,
    head,
    honest,
    saying,
    serving,
    store_context,
)

from bsfg.errors import BsfgError, PeerUnreachable
from bsfg.model.artifact import ArtifactReference
from bsfg.transport.artifact_client import LARGE_BYTES, HttpArtifactClient
from bsfg.transport.large_body import PIECE_BYTES

SIZE = 3 * LARGE_BYTES + 12_345
CONTENT = random.Random(1).randbytes(SIZE)
REFERENCE = ArtifactReference(URI, hashlib.sha256(CONTENT).hexdigest(), SIZE)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


async def taken(client: HttpArtifactClient, start: int = 0) -> AsyncIterator[bytes]:
    async with aclosing(client.pieces(REFERENCE, start)) as pieces:
        async for piece in pieces:
            yield bytes(piece)


@pytest.mark.parametrize("start", [0, 1, SIZE - LARGE_BYTES, SIZE - LARGE_BYTES - 1])
async def test_it_comes_whole_and_in_large_pieces(pki: Pki, start: int) -> None:
    async with answered_by(pki, honest(CONTENT)) as (client, asked):
        pieces = [piece async for piece in taken(client, start)]
        assert b"".join(pieces) == CONTENT[start:]
        assert len(pieces) < 3 * (SIZE - start) / PIECE_BYTES
        assert asked.connections == 1
        # What follows has a connection of its own.
        assert b"".join([piece async for piece in taken(client, SIZE - 10)]) == CONTENT[-10:]


async def test_one_behind_a_redirect(pki: Pki) -> None:
    async with serving(store_context(pki.enterprise_ca), honest(CONTENT)) as (port, _):
        host = f"127.0.0.1:{port}"
        away = saying(head(0, "307 X", f"Location: https://{host}/b/k\r\n"))
        async with answered_by(pki, away, host) as (client, _):
            assert b"".join([piece async for piece in taken(client)]) == CONTENT


@pytest.mark.parametrize("came", [0, 1, PIECE_BYTES, LARGE_BYTES + 1, SIZE - 1])
async def test_a_cut_at_any_byte_keeps_what_came(pki: Pki, came: int) -> None:
    kept = b""
    async with answered_by(pki, saying(head(SIZE, more="") + CONTENT[:came], then_close=True)) as (client, _):
        with pytest.raises(PeerUnreachable) as caught:
            async for piece in taken(client):
                kept += piece
    assert kept == CONTENT[:came]
    assert caught.value.details["reason"] == "reset"


async def test_silence_is_given_up_and_what_came_is_kept(pki: Pki) -> None:
    async def silent(writer: asyncio.StreamWriter, _request: str) -> None:
        writer.write(head(SIZE, more="") + CONTENT[:100_000])
        await writer.drain()
        await asyncio.sleep(30)

    kept, began = b"", time.monotonic()
    async with answered_by(pki, silent) as (client, _):
        with pytest.raises(PeerUnreachable) as caught:
            async for piece in taken(client):
                kept += piece
    assert kept == CONTENT[:100_000]
    assert caught.value.details["reason"] == "timeout"
    assert time.monotonic() - began < 2.5


async def test_a_few_bytes_now_and_then_are_given_up(pki: Pki) -> None:
    async def drip(writer: asyncio.StreamWriter, _request: str) -> None:
        writer.write(head(SIZE, more=""))
        for byte in CONTENT:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)

    began = time.monotonic()
    async with answered_by(pki, drip) as (client, _):
        with pytest.raises(PeerUnreachable) as caught:
            async for _ in taken(client):
                pass
    assert caught.value.details["reason"] == "slow"
    assert time.monotonic() - began < 3.0


async def test_the_pieces_of_a_slow_peer_hold_no_more_than_they_bring(pki: Pki) -> None:
    async def slow(writer: asyncio.StreamWriter, _request: str) -> None:
        writer.write(head(SIZE, more=""))
        for start in range(0, 40_000, 2_000):
            writer.write(CONTENT[start : start + 2_000])
            await writer.drain()
            await asyncio.sleep(0.1)
        writer.write(CONTENT[40_000:])
        await writer.drain()

    kept: list[memoryview] = []
    async with answered_by(pki, slow) as (client, _), aclosing(client.pieces(REFERENCE, 0)) as pieces:
        async for piece in pieces:
            kept.append(memoryview(piece))
    assert b"".join(kept) == CONTENT
    assert sum(len(piece) < 10_000 for piece in kept) > 3
    assert sum(len(piece.obj) for piece in kept) < SIZE + 2 * PIECE_BYTES


async def test_more_than_was_announced_is_not_taken(pki: Pki) -> None:
    answer = head(SIZE, more="") + CONTENT + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 100_000
    async with answered_by(pki, saying(answer)) as (client, _):
        assert b"".join([piece async for piece in taken(client)]) == CONTENT


async def test_closing_the_client_ends_a_transfer_and_waits_for_nothing(pki: Pki) -> None:
    async def begun(writer: asyncio.StreamWriter, _request: str) -> None:
        writer.write(head(SIZE, more="") + CONTENT[: PIECE_BYTES * 3])
        await writer.drain()
        await asyncio.sleep(30)

    async with answered_by(pki, begun) as (client, _):
        pieces = client.pieces(REFERENCE, 0)
        async with aclosing(pieces):
            await anext(pieces)
            async with asyncio.timeout(0.5):
                await client.close()
            with pytest.raises(BsfgError):
                async with asyncio.timeout(0.5):
                    async for _ in pieces:
                        pass
