"""Broken things that only a drill or a responder shows: what happens in the window of a partition, and OCSP."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from bench.processes import free_port
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID
from tests.support.broken_lab import Break, Row, configured, kept, reload
from tests.support.certificates import made_again
from tests.support.lab_zones import ENTERPRISE, PLANT, Lab, Zone, eventually

from bsfg.cli.local_client import route
from bsfg.transport.certificates import load_certificates
from bsfg.transport.development_ca import Authority, write_certificates

WINDOW_SECONDS: Final = 100.0
LOOK_SECONDS: Final = 0.02
PAUSE_SECONDS: Final = 2.5
FIRST_KEPT: Final = 3
RESPONDER_SECONDS: Final = 10.0


def in_the_window(accident: Callable[[Lab], None]) -> Break:
    """The accident happens as soon as the drill has cut the peer off."""

    @contextmanager
    def broken(lab: Lab) -> Iterator[None]:
        is_over, problems = threading.Event(), list[BaseException]()

        def wait() -> None:
            try:
                if _begins(lab.plant, is_over):
                    accident(lab)
            except BaseException as problem:
                problems.append(problem)

        thread = threading.Thread(target=wait)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
        assert not problems, problems

    return broken


def _begins(zone: Zone, is_over: threading.Event) -> bool:
    """Wait for the partition of the drill."""
    while not is_over.wait(LOOK_SECONDS):
        if zone.api.get(route("status"))["partitions"]:
            return True
    return False


def slow_store(lab: Lab) -> None:
    """The zone's own store stands still for a while, as on a disk that hangs."""
    lab.plant.signal_server(signal.SIGSTOP)
    try:
        time.sleep(PAUSE_SECONDS)
    finally:
        lab.plant.signal_server(signal.SIGCONT)


def purged_stream(lab: Lab) -> None:
    """Somebody purges the beginning of a local stream with the tools of NATS."""

    async def purge() -> None:
        async with lab.plant.nats() as store:
            await store.client.jetstream().purge_stream("facts_orders", seq=FIRST_KEPT)

    asyncio.run(purge())


def loaded_configuration(lab: Lab) -> None:
    """Somebody changes the configuration in the window, which is no failure, but has to be told."""
    with lab.plant.changed(lab.plant.paths.zone_file, ("lab: true", "lab: true  # changed in the window")):
        reload(lab.plant)
    reload(lab.plant)


@contextmanager
def responders(lab: Lab, revoked: str | None, *, are_up: bool = True) -> Iterator[None]:
    """Both zones' certificates name an OCSP responder of their CA, and plant-a asks them."""
    with ExitStack() as stack:
        for name, zone in lab.zones.items():
            files = (zone.paths.server_certificate, zone.paths.server_key)
            stack.enter_context(kept(zone, *files))
            port = free_port()
            leaf = _with_responder(zone, f"http://127.0.0.1:{port}/")
            reload(zone)
            if are_up:
                folder = lab.directory / f"ocsp-{name}"
                folder.mkdir(exist_ok=True)
                stack.enter_context(_responding(zone, folder, port, leaf, is_revoked=name == revoked))
        switched_on = configured(PLANT, "zone_file", ("lab: true", "lab: true\nrevocation: {ocsp: check}"))
        stack.enter_context(switched_on(lab))
        eventually("plant-a is level", 20, lambda: lab.plant.cursor()["state"] == "level")
        yield


def _with_responder(zone: Zone, address: str) -> x509.Certificate:
    """The zone's certificate anew, with the address of a responder in it."""
    old = load_certificates(zone.paths.server_certificate)[0]
    authority = Authority.load(zone.place.ca_cert, zone.place.ca_key)
    access = x509.AccessDescription(
        AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(address)
    )
    leaf = made_again(old, authority.key, x509.AuthorityInformationAccess([access]))
    write_certificates(zone.paths.server_certificate, [leaf])
    return leaf


@contextmanager
def _responding(
    zone: Zone, folder: Path, port: int, leaf: x509.Certificate, *, is_revoked: bool
) -> Iterator[None]:
    """openssl's responder, signed by the CA itself."""
    end, now = (
        moment.strftime("%y%m%d%H%M%SZ")
        for moment in (datetime.now(UTC) + timedelta(days=9), datetime.now(UTC))
    )
    head = f"R\t{end}\t{now}" if is_revoked else f"V\t{end}\t"
    index, said = folder / "index.txt", folder / "responder.log"
    index.write_text(f"{head}\t{leaf.serial_number:X}\tunknown\t/CN=x\n")
    command: list[str | Path] = [
        "openssl", "ocsp", "-port", str(port), "-index", index, "-CA", zone.place.ca_cert,
        "-rkey", zone.place.ca_key, "-rsigner", zone.place.ca_cert, "-nmin", "5",
    ]  # fmt: skip
    with said.open("wb") as log:
        responder = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        eventually("the responder answers", RESPONDER_SECONDS, lambda: b"ACCEPT" in said.read_bytes())
        yield
    finally:
        responder.kill()
        responder.wait()


ROWS: Final = (
    Row("trust.ocsp", lambda lab: responders(lab, ENTERPRISE), "the peer is revoked"),
    Row("trust.ocsp", lambda lab: responders(lab, PLANT), "we are revoked"),
    Row("trust.ocsp", lambda lab: responders(lab, None), "good", "passed"),
    Row("trust.ocsp", lambda lab: responders(lab, None, are_up=False), "no answer", "not run"),
    Row("partition.autonomy", in_the_window(slow_store), outcome="warned"),
    Row("partition.continuity", in_the_window(purged_stream), outcome="warned"),
    Row("partition.configuration", in_the_window(loaded_configuration), outcome="passed with exception"),
)
