"""Section 1 of the runbook: what has to be there before anything else (all of it halts)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bsfg.checks import looks
from bsfg.checks.check import Check, Context, Finding, excepted, failed, not_run, passed
from bsfg.checks.model import Evidence, Judgement, Outcome, Severity, Side
from bsfg.config.bringup import Word
from bsfg.errors import BsfgError, Code

SECTION = "1"


def attested(words: Mapping[str, Word | None], place: str, key: str) -> Judgement:
    """What rests on a person's word: attested if every word is there, by whom each one was given."""
    missing = [what for what, word in words.items() if word is None]
    if missing:
        return failed(
            f"nobody has vouched for it: {', '.join(missing)}",
            f"{place} does not say it for {', '.join(missing)}",
            f"{key} with by and reference",
        )
    given = [word for word in words.values() if word is not None]
    shown = [f"{word.by}, {word.reference}" + (f": {word.result}" if word.result else "") for word in given]
    return Judgement(Outcome.ATTESTED, "; ".join(dict.fromkeys(shown)))


def judge_gateway(status: Mapping[str, Any]) -> Judgement:
    """Up with a store that answers; other problems are named, and have checks of their own."""
    substrate = status["substrate"]
    if not substrate.get("connected"):
        return failed(
            "the local store does not answer",
            str(substrate.get("problem") or "not connected"),
            "a gateway that is connected to its NATS JetStream",
            "bsfg status shows the store; its log says why",
        )
    if status["problems"]:
        return excepted("; ".join(map(str, status["problems"]))[:300])
    return passed(f"{status['zone']}, version {status['version']}")


def judge_metrics(here: str | None, there: bool | None, scraped: str | None) -> Judgement:
    """Our own ``/metrics`` answers, and the peer says that its own does (contract, section 7)."""
    if here is not None:
        return failed("our /metrics does not answer", here, "200 with bsfg_ metrics on local:")
    if there is None:
        return not_run("could not look: the peer does not say whether its /metrics answers")
    if not there:
        return failed(
            "the peer's /metrics does not answer",
            "the peer's view says metrics_up: false",
            "metrics_up: true",
            "the peer's operator looks at local: in its zone.yaml",
        )
    return passed("both answer" + (f"; the peer's was last scraped {scraped[:19]}Z" if scraped else ""))


def judge_key(problem: str | None) -> Judgement:
    if problem is not None:
        return failed("the key can't be used", problem, "certs/server.key (0600) of certs/server.crt")
    return passed("certs/server.crt and its key")


async def _gateway(context: Context) -> Finding:
    try:
        status, evidence = await looks.local(context, "status")
    except BsfgError as error:
        if error.code not in (Code.UNAVAILABLE, Code.TIMED_OUT):
            raise
        return Finding(failed("the gateway is not up", error.message, "a running gateway", error.hint or None))
    return Finding(judge_gateway(status), (evidence,))


async def _commissioned(context: Context) -> Finding:
    inputs = context.inputs
    words = {f"zone_{zone}": inputs.commissioning.get(zone) for zone in ("a", "b")}
    return _words(context, words, "commissioning")


def _words(context: Context, words: Mapping[str, Word | None], key: str) -> Finding:
    place = context.inputs.place(key)
    seen = {what: None if word is None else [word.by, word.reference, word.result] for what, word in words.items()}
    return Finding(attested(words, place, key), (context.evidence(key, seen, place),))


async def _endpoint(context: Context) -> Finding:
    address = str(context.peer.endpoint)
    try:
        presented = await context.surroundings.presented()
    except BsfgError as error:
        if error.code is Code.IDENTITY_REJECTED:
            # Somebody is there; what is wrong with the certificate is for section 3 to say.
            return Finding(passed(address), (context.evidence("TLS handshake", error.message, address),))
        if error.code not in (Code.UNAVAILABLE, Code.TIMED_OUT):
            raise
        return Finding(
            failed("nobody answers with TLS", error.message, f"a TLS 1.3 listener at {address}"),
            (context.evidence("TLS handshake", error.message, address),),
        )
    seen = {"tls": presented.tls_version, "sha256": presented.view.fingerprint}
    return Finding(
        passed(f"{address}, {presented.tls_version}"), (context.evidence("TLS handshake", seen, address),)
    )


async def _issued(context: Context) -> Finding:
    try:
        own = await context.surroundings.own_certificate()
        problem = await context.surroundings.key_problem()
    except BsfgError as error:
        return Finding(judge_key(error.message))
    seen = {"sha256": own.view.fingerprint, "issuer": own.view.issuer, "serial": f"{own.view.serial:x}"}
    return Finding(judge_key(problem), (context.evidence("certificate", seen, "certs/server.crt"),))


async def _anchors(context: Context) -> Finding:
    evidence: list[Evidence] = []
    for path in filter(None, (context.configuration.paths.anchors, context.peer.trust_anchor)):
        try:
            found = await context.surroundings.anchors(path)
        except BsfgError as error:
            judgement = failed("a trust anchor file can't be used", error.message, "CA certificates in PEM", error.hint)
            return Finding(judgement, tuple(evidence))
        evidence.append(context.evidence("trust anchors", list(found), str(path)))
    count = sum(len(each.seen) for each in evidence)
    return Finding(passed(f"{count} in {len(evidence)} files"), tuple(evidence))


async def _authorization(context: Context) -> Finding:
    matrix = context.inputs.authorization_matrix
    return _words(context, {"the matrix": matrix.word if matrix else None}, "authorization_matrix")


async def _streams(context: Context) -> Finding:
    inputs = context.inputs
    finding = _words(context, {"the message catalog": inputs.message_catalog}, "message_catalog")
    if inputs.exported_streams is None and finding.judgement.outcome is Outcome.ATTESTED:
        place = inputs.place("exported_streams")
        return Finding(failed("no streams are named", f"{place} has no exported_streams", "exported_streams: [...]"))
    return finding


async def _artifacts(context: Context) -> Finding:
    return _words(context, {"the artifact policy": context.inputs.artifact_policy}, "artifact_policy")


async def _monitoring(context: Context) -> Finding:
    words = {f"zone_{zone}": context.inputs.monitoring.get(zone) for zone in ("a", "b")}
    return _words(context, words, "monitoring")


async def _metrics(context: Context) -> Finding:
    here: str | None = None
    try:
        text = await context.surroundings.metrics()
        here = None if "bsfg_" in text else "an answer without bsfg_ metrics"
    except BsfgError as error:
        here = error.message
    if here is not None:
        return Finding(judge_metrics(here, None, None))
    seen, evidence = await looks.view(context)
    return Finding(judge_metrics(None, seen["metrics_up"], seen["last_scraped"]), (evidence,))


def _check(identifier: str, title: str, probe: Any, hint: str, requires: tuple[str, ...] = ()) -> Check:
    return Check(identifier, SECTION, title, Severity.HALT, Side.HERE, probe, hint, requires)


CHECKS: tuple[Check, ...] = (
    _check("gateway.healthy", "this zone's gateway is up and its store answers", _gateway, "bsfg status"),
    _check(
        "preconditions.commissioned",
        "both zones are commissioned",
        _commissioned,
        "write the checklist's result of both zones under commissioning in config/bringup.yaml",
    ),
    Check(
        "endpoint.reachable",
        SECTION,
        "the peer's endpoint answers with TLS",
        Severity.HALT,
        Side.BOTH,
        _endpoint,
        "is the peer's gateway up, and does a firewall let us through? endpoint: stands in config/peers.yaml",
    ),
    _check(
        "certificates.issued",
        "this zone has a certificate and its private key",
        _issued,
        "bsfg cert inspect; the key must be the certificate's and 0600",
    ),
    _check(
        "anchors.installed",
        "the trust anchors are installed",
        _anchors,
        "put the CA that issued the peer's certificate where config/peers.yaml names it, or into certs/ca.crt",
    ),
    _check(
        "preconditions.authorization",
        "the authorization policy is approved",
        _authorization,
        "name who approved the matrix, and where, in authorization_matrix of config/bringup.yaml",
    ),
    _check(
        "preconditions.streams",
        "the exported streams are identified",
        _streams,
        "name the message catalog and exported_streams in config/bringup.yaml",
    ),
    _check(
        "preconditions.artifacts",
        "the artifact access policy is defined",
        _artifacts,
        "name it under artifact_policy in config/bringup.yaml",
    ),
    _check(
        "preconditions.monitoring",
        "monitoring of both zones is in place",
        _monitoring,
        "name who saw the dashboards, and where, under monitoring in config/bringup.yaml",
    ),
    Check(
        "metrics.visible",
        SECTION,
        "both zones' metrics can be scraped",
        Severity.HALT,
        Side.BOTH,
        _metrics,
        "curl http://<local>/metrics; local: stands in config/zone.yaml",
        ("gateway.healthy", "endpoint.reachable"),
    ),
)
