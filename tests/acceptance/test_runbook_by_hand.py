"""The runbook as an operator types it, with openssl, curl, a NATS client and bsfg, and the results it expects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from tests.support.certificates import TestAuthority
from tests.support.lab_zones import (
    ENTERPRISE,
    INBOUND_STREAM,
    LINK,
    OPERATIONAL,
    OPERATIONAL_STREAM,
    PLANT,
    Done,
    Lab,
    Zone,
    eventually,
    run,
    running_lab,
)

from bsfg.lab.demo_trouble import messages_of
from bsfg.model.fact import parse_origin

THIRTY_DAYS_SECONDS: Final = "2592000"
EXAMPLE_FACTS: Final = 20
# What curl says when TLS 1.3 refuses its certificate: the handshake is over for curl by then, so the alert comes late.
REFUSED_BY_TLS: Final = (35, 52, 56)
APPLICATION: Final = "enterprise-from-plant-a"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two zones that have exchanged a few example facts."""
    with running_lab(tmp_path_factory.mktemp("runbook") / "lab", empty=False) as running:
        yield running


@pytest.fixture(params=[(ENTERPRISE, PLANT), (PLANT, ENTERPRISE)], ids=["from-enterprise", "from-plant-a"])
def sides(lab: Lab, request: pytest.FixtureRequest) -> tuple[Zone, Zone]:
    """The zone where the operator sits, and its peer: the runbook goes both ways."""
    here, there = request.param
    return lab.zones[here], lab.zones[there]


def x509_of(file: Path, *wanted: str) -> Done:
    return run("openssl", "x509", "-in", file, "-noout", *wanted)


def curl(here: Zone, there: Zone, path: str, *more: str | Path, own: bool = True) -> Done:
    """curl with this zone's anchors and, unless told otherwise, its certificate; the status is the last line."""
    certs = here.paths
    pair = ["--cert", certs.server_certificate, "--key", certs.server_key] if own else []
    words = ["--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code}"]
    return run("curl", *words, "--cacert", certs.anchors, *pair, *more, f"https://{there.place.endpoint}{path}")


def answered(done: Done) -> tuple[int, Any]:
    """HTTP status and JSON of a curl that got an answer."""
    assert done.status == 0, done.errors
    body, _, status = done.output.rpartition("\n")
    return int(status), json.loads(body)


# 3.1 to 3.3: certificates


def test_3_1_the_local_certificate_names_the_zone_and_is_valid(sides: tuple[Zone, Zone]) -> None:
    here, _ = sides
    said = x509_of(here.paths.server_certificate, "-subject", "-dates", "-ext", "subjectAltName").output
    assert re.search(rf"subject=CN ?= ?{here.place.zone}-bsfg\b", said)
    assert "notBefore=" in said
    assert f"DNS:{here.place.zone}-bsfg" in said
    assert f"IP Address:{here.address[0]}" in said
    assert x509_of(here.paths.server_certificate, "-checkend", "0").status == 0
    own = run("openssl", "verify", "-CAfile", here.paths.anchors, here.paths.server_certificate)
    assert own.status == 0, own.errors


def test_3_1_the_trust_anchors_reach_the_peers_certificate(sides: tuple[Zone, Zone]) -> None:
    here, there = sides
    peers = there.paths.server_certificate
    assert run("openssl", "verify", "-CAfile", here.paths.anchors, peers).status == 0
    pinned = here.paths.certs / f"{there.place.zone}-ca.crt"
    assert run("openssl", "verify", "-CAfile", pinned, peers).status == 0
    # The other anchor does not vouch for it.
    assert run("openssl", "verify", "-CAfile", here.place.ca_cert, peers).status != 0


def test_3_2_the_peer_shows_its_identity_in_the_handshake(sides: tuple[Zone, Zone], tmp_path: Path) -> None:
    here, there = sides
    identity = f"{there.place.zone}-bsfg"
    shown = run(
        *("openssl", "s_client", "-connect", there.place.endpoint, "-servername", identity),
        *("-CAfile", here.paths.anchors, "-verify_return_error", "-verify_hostname", identity),
        stdin=b"",
    )
    assert "Verify return code: 0 (ok)" in shown.output
    assert "TLSv1.3" in shown.output
    found = run("openssl", "x509", "-noout", "-subject", "-ext", "subjectAltName", stdin=shown.output.encode())
    assert re.search(rf"subject=CN ?= ?{identity}\b", found.output)
    assert f"DNS:{identity}" in found.output


def test_3_2_older_tls_is_refused(sides: tuple[Zone, Zone]) -> None:
    here, there = sides
    certs = here.paths
    words = ["-connect", there.place.endpoint, "-CAfile", certs.anchors]
    words += ["-cert", str(certs.server_certificate), "-key", str(certs.server_key)]
    shown = run("openssl", "s_client", *words, "-tls1_2", stdin=b"")
    assert shown.status != 0
    assert run("openssl", "s_client", *words, "-tls1_3", stdin=b"").status == 0


def test_3_3_validity_window_and_revocation_pointers(sides: tuple[Zone, Zone]) -> None:
    here, _ = sides
    certificate = here.paths.server_certificate
    assert x509_of(certificate, "-checkend", THIRTY_DAYS_SECONDS).status == 0
    assert x509_of(certificate, "-checkend", str(2 * 365 * 86_400)).status == 1
    assert x509_of(certificate, "-ocsp_uri").output.strip() == ""
    said = here.ask("cert", "inspect")
    assert said["chain"]["verdict"] == "ok"
    serial = x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number
    assert f"{serial:x}" in json.dumps(said).lower()


# 4.1 to 4.3, and 5: configuration and denial


def test_4_1_the_allow_list_is_active(sides: tuple[Zone, Zone]) -> None:
    here, there = sides
    active = here.ask("config", "show", "--active")
    peers = {peer["id"]: peer for peer in active["peers"]}
    wanted = {
        ENTERPRISE: ["facts.orders", "facts.shipments"],
        PLANT: ["facts.operational", "facts.batch_completed", "facts.audit"],
    }
    peer = peers[there.place.zone]
    assert peer["authorized"] is True
    assert peer["streams"] == wanted[there.place.zone]
    assert here.ask("peer", "exports", there.place.zone)["streams"] == wanted[there.place.zone]
    assert here.bsfg("config", "check").status == 0


def test_4_1_an_unauthorized_peer_is_denied(sides: tuple[Zone, Zone], tmp_path: Path) -> None:
    """A certificate of the right CA, for an identity that nobody has configured."""
    here, there = sides
    stranger = tmp_path / "stranger.crt"
    here.ask(
        *("cert", "issue", "--identity", "plant-z-bsfg", "--ca-cert", str(here.place.ca_cert)),
        *("--ca-key", str(here.place.ca_key), "--out-cert", str(stranger), "--out-key", str(tmp_path / "stranger.key")),
    )
    denied = curl(here, there, "/health", "--cert", stranger, "--key", tmp_path / "stranger.key", own=False)
    status, body = answered(denied)
    assert (status, body["error"]["code"]) == (403, "peer_unknown")
    assert set(body["error"]) == {"code", "message", "hint", "request_id"}
    assert answered(curl(here, there, "/health"))[0] == 200


def test_4_2_streams_exist_with_known_durability(lab: Lab) -> None:
    row = lab.enterprise.ask("stream", "info", OPERATIONAL)
    assert (row["jetstream"], row["durability"], row["replicas"]) == (OPERATIONAL_STREAM, "strict", 1)
    assert lab.plant.status()["substrate"]["appends"] == "atomic batches (4 under way)"
    assert row["exported_to"] == [PLANT]
    private = lab.enterprise.ask("stream", "info", "facts.telemetry")
    assert private["exported_to"] == []


async def test_4_2_the_jetstream_names_are_visible_to_any_nats_client(lab: Lab) -> None:
    async with lab.enterprise.nats() as store:
        names = {each.config.name for each in await store.client.jetstream().streams_info()}
        assert {OPERATIONAL_STREAM, "facts_batch_completed", "facts_audit", "facts_telemetry"} <= names
        assert {"in_plant-a_facts_orders_g1", "in_plant-a_facts_shipments_g1"} <= names
        info = await store.client.jetstream().stream_info(OPERATIONAL_STREAM)
        assert info.config.subjects == [OPERATIONAL, f"{OPERATIONAL}.>"]
    async with lab.plant.nats(admin=False) as store:
        # A local application sees them too, and may not write what came from a peer.
        assert (await store.client.jetstream().stream_info(INBOUND_STREAM)).state.messages >= EXAMPLE_FACTS
        assert await store.is_refused_publish(f"in.{ENTERPRISE}.{OPERATIONAL}.g1.forged", b"{}")
        assert await store.is_refused_publish(f"{OPERATIONAL}.test", b"{}") is None


def test_4_3_a_wrong_certificate_is_refused(sides: tuple[Zone, Zone], tmp_path: Path) -> None:
    here, there = sides
    wrong = TestAuthority(tmp_path / "wrong", f"{here.place.zone} development CA").zone(f"{here.place.zone}-bsfg")
    refused = curl(here, there, "/health", "--cert", wrong.certificate_path, "--key", wrong.key_path, own=False)
    assert refused.status in REFUSED_BY_TLS, refused
    assert refused.output.strip() == "000"
    assert answered(curl(here, there, "/health"))[0] == 200


def test_4_3_no_certificate_is_refused(sides: tuple[Zone, Zone]) -> None:
    here, there = sides
    refused = curl(here, there, "/health", own=False)
    assert refused.status in REFUSED_BY_TLS, refused
    assert refused.output.strip() == "000"
    reason = "no_certificate"
    assert (there.metric("bsfg_tls_handshake_errors_total", reason=reason) or 0) >= 1


def test_5_the_cursor_policy_is_active(lab: Lab) -> None:
    links = {link["stream"]: link for link in lab.plant.ask("config", "show", "--active")["cursors"]}
    assert links[OPERATIONAL]["init_mode"] == "bounded_backfill_24h"
    assert links["facts.audit"]["init_mode"] == "full_backfill"
    assert links["facts.audit"]["justification"]
    init = lab.plant.cursor(stream="facts.audit")["init"]
    assert (init["mode"], init["start_sequence"]) == ("full_backfill", 1)
    assert init["justification"] == links["facts.audit"]["justification"]


# 6: bring-up


def test_6_1_health_with_mutual_tls(sides: tuple[Zone, Zone]) -> None:
    here, there = sides
    status, body = answered(curl(here, there, "/health"))
    assert status == 200
    assert (body["zone"], body["identity"]) == (there.place.zone, f"{there.place.zone}-bsfg")
    assert (body["status"], body["protocol"]) == ("ok", [1])
    assert set(body) == {"zone", "identity", "status", "version", "protocol", "time"}
    # TLS trust is verified, not skipped: without the anchors curl itself refuses.
    stranger = curl(here, there, "/health", "--cacert", here.place.ca_cert)
    assert stranger.status == 60


def test_6_2_authorized_streams_are_listed_and_others_are_denied(lab: Lab) -> None:
    here, there = lab.plant, lab.enterprise
    status, rows = answered(curl(here, there, "/v1/streams"))
    assert status == 200
    assert [row["stream"] for row in rows] == ["facts.audit", "facts.batch_completed", OPERATIONAL]
    listed = here.ask("peer", "streams", ENTERPRISE)["streams"]
    assert [row["stream"] for row in listed] == ["facts.audit", "facts.batch_completed", OPERATIONAL]
    status, body = answered(_post_fetch(lab, {"stream": "facts.telemetry", "cursor_policy": "full_backfill"}))
    assert (status, body["error"]["code"]) == (403, "stream_denied")
    checks = here.ask("peer", "check", ENTERPRISE)
    assert checks["ok"] is True
    assert [row["outcome"] for row in checks["checks"]] == ["passed"] * len(checks["checks"])


def _post_fetch(lab: Lab, body: dict[str, Any]) -> Done:
    request = ["--request", "POST", "--header", "Content-Type: application/json", "--data", json.dumps(body)]
    return curl(lab.plant, lab.enterprise, "/v1/fetch", *request)


def test_6_3_the_first_fetch_by_curl(lab: Lab) -> None:
    policy = {"stream": OPERATIONAL, "cursor_policy": "bounded_backfill_24h"}
    status, page = answered(_post_fetch(lab, policy))
    assert (status, page["stream"], page["start_sequence"]) == (200, OPERATIONAL, 1)
    assert len(page["facts"]) >= EXAMPLE_FACTS
    assert page["pending"] == 0
    first = page["facts"][0]
    assert first["sequence"] == 1
    assert first["subject"].startswith(f"{OPERATIONAL}.")
    assert isinstance(json.loads(first["data"]), dict)


def test_6_3_and_6_4_fetch_appends_durably_and_the_cursor_follows(lab: Lab) -> None:
    before = lab.level()
    lab.enterprise.append(OPERATIONAL, b'{"by":"hand"}')
    fetched = lab.plant.ask("fetch", *LINK, "--cursor-init", "bounded_backfill_24h")
    assert fetched["peer"] == ENTERPRISE
    after = lab.level()
    assert after["sequence"] == before["sequence"] + 1
    assert after["local_sequence"] == before["local_sequence"] + 1
    assert (after["epoch"], after["init"]) == (before["epoch"], before["init"])
    inbound = lab.plant.ask("stream", "info", OPERATIONAL, "--peer", ENTERPRISE)
    assert (inbound["jetstream"], inbound["last_sequence"]) == (INBOUND_STREAM, after["local_sequence"])
    # Asking again does nothing, and a start that says otherwise is refused.
    assert lab.plant.ask("fetch", *LINK)["appended"] == 0
    status, code, message = lab.plant.refused("fetch", *LINK, "--cursor-init", "full_backfill")
    assert (status, code) == (1, "init_rejected")
    assert "bounded_backfill_24h" in message


def test_6_3_a_dry_run_says_what_each_mode_would_replay(lab: Lab) -> None:
    before = lab.level()
    modes = {row["mode"]: row for row in lab.plant.ask("fetch", *LINK, "--dry-run")["modes"]}
    assert modes["full_backfill"]["facts"] == before["sequence"]
    assert modes["start_now"]["facts"] == 0
    assert lab.plant.cursor()["sequence"] == before["sequence"]


async def test_6_5_the_cursor_is_what_jetstream_holds(lab: Lab) -> None:
    cursor = lab.level()
    async with lab.plant.nats() as store:
        stream = await store.client.jetstream().stream_info(INBOUND_STREAM)
        consumer = await store.client.jetstream().consumer_info(INBOUND_STREAM, APPLICATION)
        last = await store.client.jetstream().get_msg(INBOUND_STREAM, stream.state.last_seq)
    assert stream.state.last_seq == cursor["local_sequence"]
    assert last.headers is not None
    origin = parse_origin(last.headers["Bsfg-Origin"])
    assert (origin.zone, origin.stream, origin.epoch) == (ENTERPRISE, OPERATIONAL, cursor["epoch"])
    assert origin.sequence == cursor["sequence"]
    # Processing is separate: an application acknowledges at its own pace.
    assert consumer.ack_floor is not None
    assert consumer.ack_floor.stream_seq <= cursor["local_sequence"]
    lab.plant.ask("consumer", "next", *LINK, "--count", "3")
    moved = lab.plant.ask("consumer", "info", *LINK)
    assert moved["consumer"] == APPLICATION
    assert lab.plant.cursor()["sequence"] == cursor["sequence"]


# 8: partition and recovery


async def test_8_partition_autonomy_backlog_and_recovery(lab: Lab) -> None:
    plant, enterprise = lab.plant, lab.enterprise
    before = lab.level()
    created = await _created(lab)
    # 8.1
    plant.ask("admin", "partition", "--peer", ENTERPRISE, "--reason", "drill")
    assert plant.cursor()["state"] == "partitioned"
    # 8.2: local producers and consumers go on.
    async with plant.nats(admin=False) as store:
        first = await store.publish(f"{OPERATIONAL}.test", b'{"test":"partition-drill"}')
        assert await store.publish(f"{OPERATIONAL}.test", b'{"test":"partition-drill"}') == first + 1
    assert plant.ask("append", "--stream", "facts.orders", "-", stdin=b'{"order":1}')["appended"] == 1
    taken = plant.ask("consumer", "next", "--stream", OPERATIONAL)
    assert len(taken["facts"]) == 1
    # 8.3: what is owed grows, and nothing is lost.
    added = 5
    enterprise.append(OPERATIONAL, *(b'{"backlog":%d}' % number for number in range(added)))
    eventually(
        "the backlog is seen",
        10,
        lambda: enterprise.metric("bsfg_backlog_facts", peer=PLANT, stream=OPERATIONAL) == added,
    )
    assert plant.cursor()["sequence"] == before["sequence"]
    denied = answered(curl(enterprise, plant, "/health"))
    assert (denied[0], denied[1]["error"]["code"]) == (503, "partitioned")
    # 8.4 and 8.5
    start = plant.log_size()
    plant.ask("admin", "reconcile", "--peer", ENTERPRISE)
    head = before["sequence"] + added
    eventually("the cursor advances", 10, lambda: plant.cursor()["sequence"] == head)
    said = messages_of(plant.place.log, start)
    expected = [
        f"peer {ENTERPRISE} reachable",
        f"cursor comparison: local={before['sequence']}, peer={head}",
        f"backfill required: {added} facts",
        "replay initiated",
        f"cursor advanced to {head}",
    ]
    assert [line for line in said if line in expected] == expected, said
    # 8.6 and 8.7: monotonic, complete, once, and the stream is the one that it was.
    after = lab.level()
    assert (after["epoch"], after["generation"]) == (before["epoch"], before["generation"])
    assert after["local_sequence"] == before["local_sequence"] + added
    assert await _created(lab) == created
    eventually(
        "the backlog is gone",
        10,
        lambda: enterprise.metric("bsfg_backlog_facts", peer=PLANT, stream=OPERATIONAL) == 0,
    )


async def _created(lab: Lab) -> str:
    async with lab.plant.nats() as store:
        return (await store.state(INBOUND_STREAM)).created


def test_8_a_partition_ends_by_itself_and_survives_a_restart(lab: Lab) -> None:
    lab.level()
    lab.plant.ask("admin", "partition", "--peer", ENTERPRISE, "--reason", "drill", "--for", "8s")
    lab.plant.kill_gateway()
    lab.plant.start_gateway()
    # While it starts, the gateway says so: the link is not missing from the configuration.
    asked = eventually("the gateway is back", 10, lambda: _cursor_or_starting(lab.plant))
    assert asked["state"] == "partitioned"
    eventually("the partition ended", 15, lambda: lab.plant.cursor()["state"] == "level")


def _cursor_or_starting(zone: Zone) -> dict[str, Any]:
    done = zone.bsfg("cursor", "query", *LINK, "--output", "json")
    if done.status == 0:
        row: dict[str, Any] = done.json
        return row if row["state"] != "starting" else {}
    assert done.status == 3, done.errors
    return {}


def test_8_the_words_of_recovery_are_written_when_nothing_is_missing(lab: Lab) -> None:
    cursor = lab.level()
    lab.plant.ask("admin", "partition", "--peer", ENTERPRISE, "--reason", "drill")
    start = lab.plant.log_size()
    lab.plant.ask("admin", "reconcile", "--peer", ENTERPRISE)
    expected = [
        f"peer {ENTERPRISE} reachable",
        f"cursor comparison: local={cursor['sequence']}, peer={cursor['sequence']}",
        "backfill required: 0 facts",
        "replay initiated",
        f"cursor advanced to {cursor['sequence']}",
    ]

    def said() -> list[str]:
        return [line for line in messages_of(lab.plant.place.log, start) if line in expected]

    eventually("all five lines", 10, lambda: said() == expected)
