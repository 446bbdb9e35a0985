"""For each fault, metric, alert, page and status tell one story, each within its time.

The alert is what Prometheus makes of the values that were really scraped: promtool evaluates the shipped rules on them.
"""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
from tests.support.lab_zones import ENTERPRISE, Lab
from tests.support.stories import Pages, Story, told

from bsfg.lab.homes import LabPaths
from bsfg.transport.development_ca import create_authority, issue

AUDIT: Final = "facts.audit"
ORDERS: Final = "facts.orders"
MISSING_URI: Final = "s3://enterprise-bsfg-artifacts/batch-files/none.json"
ORDERS_BYTES: Final = 1024 * 1024


@contextmanager
def peer_dead(lab: Lab) -> Iterator[None]:
    lab.enterprise.kill_gateway()
    try:
        yield
    finally:
        lab.healthy()


@contextmanager
def peer_silent(lab: Lab) -> Iterator[None]:
    with lab.enterprise.paused_gateway():
        yield
    lab.healthy()


@contextmanager
def stream_halted(lab: Lab) -> Iterator[None]:
    """The sender's stream begins a new history."""
    link = ("--peer", ENTERPRISE, "--stream", AUDIT, "--reason", "test")
    lab.enterprise.ask("stream", "new-epoch", AUDIT, "--reason", "test")
    try:
        yield
    finally:
        lab.plant.ask("cursor", "accept-epoch", "--from", "full_backfill", *link)


@contextmanager
def certificate_at_29_days(lab: Lab) -> Iterator[None]:
    paths, zone = lab.plant.paths, LabPaths(lab.directory)
    files = (paths.server_certificate, paths.server_key)
    before = [path.read_bytes() for path in files]
    authority = zone.authority("plant-a")
    _issue(authority.certificate, authority.key, "plant-a-bsfg", 29, *files)
    try:
        yield
    finally:
        for path, content in zip(files, before, strict=True):
            path.write_bytes(content)


@contextmanager
def stream_85_percent_full(lab: Lab) -> Iterator[None]:
    change = (f"- name: {ORDERS}", f"- name: {ORDERS}\n    max_bytes: {ORDERS_BYTES}B")
    with lab.plant.changed(lab.plant.paths.zone_file, change):
        lab.plant.bsfg("config", "reload")
        lab.plant.append(ORDERS, *(b'"%s"' % (b"x" * 1_000) for _ in range(820)))
        yield


@contextmanager
def wrong_client_certificate(lab: Lab) -> Iterator[None]:
    """Somebody with the right name from an authority that nobody installed."""
    folder = lab.directory / "stranger"
    folder.mkdir(exist_ok=True)
    if not (folder / "server.crt").exists():
        create_authority(folder, "stranger CA")
        _issue(
            folder / "ca.crt", folder / "ca.key", "enterprise-bsfg", 30, folder / "server.crt", folder / "server.key"
        )
    context = ssl.create_default_context(cafile=str(lab.enterprise.paths.anchors))
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    host, port = lab.plant.address
    request = urllib.request.Request(f"https://{host}:{port}/health")
    with suppress(OSError):
        urllib.request.urlopen(request, timeout=5, context=context)
    yield


def _issue(ca: Path, ca_key: Path, identity: str, days: int, certificate: Path, key: Path) -> None:
    issue(
        ca, ca_key, identity, san_dns=[identity], san_ip=["127.3.1.10"], days=days, out_cert=certificate, out_key=key
    )


@contextmanager
def partitioned(lab: Lab) -> Iterator[None]:
    lab.plant.ask("admin", "partition", "--peer", ENTERPRISE, "--reason", "the story's drill")
    try:
        yield
    finally:
        lab.plant.ask("admin", "reconcile", "--peer", ENTERPRISE)


@contextmanager
def artifact_missing(lab: Lab) -> Iterator[None]:
    """It stays on the list, as it is to be: this story comes last."""
    lab.plant.refused("artifact", "fetch", "--uri", MISSING_URI)
    yield


PEER: Final = {"peer": ENTERPRISE}
STORIES: Final = (
    Story(
        "peer dead", peer_dead, 10, "bsfg_peer_reachable", PEER, lambda value: value == 0,
        "BsfgPeerUnreachable", 1, "a peer does not answer", "enterprise  yes         no",
    ),
    Story(
        "peer silent", peer_silent, 12, "bsfg_peer_reachable", PEER, lambda value: value == 0,
        "BsfgPeerUnreachable", 1, "a peer does not answer", "enterprise  yes         no",
    ),
    Story(
        "stream halted", stream_halted, 20, "bsfg_link_halted", PEER | {"stream": AUDIT, "reason": "diverged"},
        lambda value: value == 1, "BsfgLinkHalted", 0, "a link waits for an operator", "halted (diverged)",
    ),
    Story(
        "certificate at 29 days", certificate_at_29_days, 15, "bsfg_certificate_expiry_seconds", {},
        lambda value: 28 * 86_400 < value < 30 * 86_400, "BsfgCertificateEnding", 0,
        "our certificate ends in 29.0 days", "our certificate ends in 29.0 days",
    ),
    Story(
        "stream 85 % full", stream_85_percent_full, 15, "bsfg_store_buffer_fill_ratio", {"stream": ORDERS},
        lambda value: 0.8 < value < 0.95, "BsfgStreamFilling", 2, f"{ORDERS} is 8", f"{ORDERS} is 8",
    ),
    Story(
        "wrong client certificate", wrong_client_certificate, 10, "bsfg_tls_handshake_errors_total",
        {"reason": "unknown_ca"}, lambda value: value >= 1, "BsfgTlsFailure", 0,
        "handshake", "handshake",
    ),
    Story(
        "partition", partitioned, 10, "bsfg_peer_partitioned", PEER, lambda value: value == 1,
        "BsfgPeerPartitioned", 0, "the story's drill", "the story's drill",
    ),
    Story(
        "artifact missing", artifact_missing, 15, "bsfg_artifacts", {"state": "missing"}, lambda value: value == 1,
        "BsfgArtifactMissing", 2, MISSING_URI, "missing",
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def pages(lab: Lab) -> Pages:
    return Pages(lab.plant)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name.replace(" ", "-"))
def test_metric_alert_page_and_status_tell_one_story(story: Story, lab: Lab, pages: Pages, tmp_path: Path) -> None:
    told(story, lab, pages, tmp_path)
