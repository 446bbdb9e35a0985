"""Each port's suite runs against the in-memory twin and against the real adapter with a real nats-server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.contract.stores import JetStreamStore, MemoryStore, Store
from tests.support.nats import NatsServer, running_nats
from tests.support.radosgw import RadosGateway, radosgw_or_skip

from bsfg.substrates.control import Control
from bsfg.substrates.nats_connection import NatsConnection


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running_nats(tmp_path_factory.mktemp("nats"), extra="max_payload: 2MB") as server:
        yield server


@pytest.fixture(params=["memory", "jetstream"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """A store without any stream."""
    if request.param == "memory":
        yield MemoryStore()
        return
    server: NatsServer = request.getfixturevalue("nats_server")
    control = await Control.open(server.target, name="contract")
    hand = await NatsConnection.connect(server.target, name="hand")
    real = JetStreamStore(server.target, server.directory, control, hand)
    await real.open()
    try:
        yield real
    finally:
        await real.close()
        hand.close()
        await control.close()


@pytest.fixture(scope="session")
def radosgw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RadosGateway]:
    """A real S3 server for the run."""
    with radosgw_or_skip(tmp_path_factory.mktemp("radosgw")) as server:
        yield server
