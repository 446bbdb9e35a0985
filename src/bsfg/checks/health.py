"""Sections 6.1 and 6.6 of the runbook, and the signals of section 9: health both ways, advice, and metrics."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from bsfg.checks import looks
from bsfg.checks.access import VIEWED
from bsfg.checks.check import Check, Context, Finding, excepted, failed, not_run, passed, step
from bsfg.checks.denial import HEALTH, OK, shown
from bsfg.checks.model import Judgement, Severity, Side
from bsfg.checks.surroundings import Reply

EARLY_SECONDS: Final = 0.5
EARLY_ONES: Final = 3
"""So many, so that a poll that was due anyway is no proof."""
ADVICES_MAX: Final = 6
"""So many, so that a busy machine is no failure."""
WAIT_SECONDS: Final = 3.0
APART_SECONDS: Final = 1.2
"""A receiver polls upon advice once a second at most."""
LOOK_SECONDS: Final = 0.02
_FETCHES: Final = re.compile(r'^bsfg_rpc_latency_seconds_count\{operation="fetch"\} ([0-9.e+]+)$', re.MULTILINE)
_FAMILIES: Final = ("bsfg_auth_failures", "bsfg_denied", "bsfg_tls_handshake_errors")
_OF_LINKS: Final = ("bsfg_replication_lag_observed_age_seconds",)
_OF_EXPORTS: Final = ("bsfg_backlog_facts",)


def judge_health(reply: Reply, zone: str, identity: str) -> Judgement:
    """200 over mutual TLS, with the zone's identity; degraded is an exception that names itself."""
    if reply.status != OK or not isinstance(reply.body, Mapping):
        return failed("the health check fails", shown(reply), "200 and the zone's health")
    said = (reply.body.get("zone"), reply.body.get("identity"))
    if said != (zone, identity):
        return failed("it calls itself another zone", f"{said[0]} as {said[1]}"[:200], f"{zone} as {identity}")
    text = f"{identity}, {reply.body.get('version')}, {reply.tls_version}"[:200]
    return passed(text) if reply.body.get("status") == "ok" else excepted(f"{text}; its health is degraded")


def judge_reaches_us(reaches: bool | None) -> Judgement:
    if reaches is None:
        return not_run("could not look: the peer has not tried yet")
    if not reaches:
        return failed("the peer does not reach us", "reaches_you: false", "reaches_you: true")
    return passed("by its own word")


def judge_advice(waits_seconds: Sequence[float | None], confirmed: Collection[int]) -> Judgement:
    """Advice brought a fetch at once; what was confirmed before came without any, by polling alone."""
    early = [wait for wait in waits_seconds if wait is not None and _is_early(wait)]
    if len(early) < EARLY_ONES:
        shown_waits = ", ".join("none" if wait is None else f"{wait:.1f} s" for wait in waits_seconds)
        expected = f"{EARLY_ONES} of them within {EARLY_SECONDS:g} s"
        return failed("advice brought no earlier fetch", f"fetches after {shown_waits}", expected)
    text = f"fetched within {max(early) * 1000:.0f} ms, {len(early)} times of {len(waits_seconds)}"
    return passed(text if any(confirmed) else f"{text}; nothing was confirmed before")


def _is_early(wait: float | None) -> bool:
    return wait is not None and wait <= EARLY_SECONDS


def judge_signals(text: str, families: Collection[str]) -> Judgement:
    """The metrics that operators alert on are there."""
    lacking = [name for name in families if not re.search(rf"^(# HELP )?{name}[ _{{]", text, re.MULTILINE)]
    if lacking:
        return failed("metrics are missing", f"no {', '.join(lacking)}", looks.listed(families))
    return passed(f"{len(families)} families of lag, backlog and failures")


async def _health(context: Context) -> Finding:
    reply = await context.surroundings.request(HEALTH, caller=context.surroundings.own)
    judgement = judge_health(reply, context.peer.id, context.peer.rule.identity)
    seen = {"status": reply.status, "answer": reply.body, "tls": reply.tls_version, "cut": reply.cut}
    return Finding(judgement, (context.evidence("health", seen, f"peer {context.peer.id} GET {HEALTH}"),))


async def _reaches_us(context: Context) -> Finding:
    seen, evidence = await looks.view(context)
    return Finding(judge_reaches_us(seen["reaches_you"]), (evidence,))


async def _advice(context: Context) -> Finding:
    if not context.peer.streams:
        return Finding(not_run("nothing is exported to this peer: it is shown on the other side"))
    seen, _ = await looks.view(context)
    read = {row["stream"] for row in seen["links"] if row["state"] in ("level", "catching_up")}
    stream = next((each for each in context.peer.streams if each in read), None)
    if stream is None:
        return Finding(not_run("could not look: the peer reads none of our streams at the moment"))
    exports = await context.surroundings.local("GET", looks.route("peers", context.peer.id, "exports"))
    confirmed = [row["confirmed"] or 0 for row in exports["exports"]]
    waits: list[float | None] = []
    while len(waits) < ADVICES_MAX and sum(_is_early(wait) for wait in waits) < EARLY_ONES:
        waits.append(await _one_advice(context, stream))
    measured = {"stream": stream, "seconds": waits, "confirmed before, by polling": confirmed}
    evidence = context.evidence("advice", measured, "local API POST /v1/notifications, our /metrics")
    return Finding(judge_advice(waits, confirmed), (evidence,))


async def _one_advice(context: Context, stream: str) -> float | None:
    """Seconds from the peer taking one piece of advice to the next fetch that we answered."""
    await context.surroundings.sleep(APART_SECONDS)
    before = await _fetches(context)
    await context.surroundings.local("POST", "/v1/notifications", {"peer": context.peer.id, "stream": stream})
    taken = context.surroundings.monotonic()
    while (passed_seconds := context.surroundings.monotonic() - taken) < WAIT_SECONDS:
        if await _fetches(context) > before:
            return round(passed_seconds, 3)
        await context.surroundings.sleep(LOOK_SECONDS)
    return None


async def _fetches(context: Context) -> float:
    found = _FETCHES.search(await context.surroundings.metrics())
    return float(found[1]) if found else 0.0


async def _signals(context: Context) -> Finding:
    families = [*_FAMILIES, *(_OF_LINKS if context.links else ()), *(_OF_EXPORTS if context.peer.streams else ())]
    text = await context.surroundings.metrics()
    evidence = context.evidence("families", families, "our /metrics")
    return Finding(judge_signals(text, families), (evidence,))


CHECKS: Final[tuple[Check, ...]] = (
    step(
        "6.1", "health.peer", "the peer answers our health check over mutual TLS", _health,
        "bsfg peer check; the peer's log says whom it refused, and why", VIEWED, Severity.HALT, Side.BOTH,
    ),
    step(
        "6.1", "health.peer-reaches-us", "the peer reaches us", _reaches_us,
        "the peer's operator runs bsfg peer check; endpoint: in its config/peers.yaml must lead here",
        ("health.peer",), Severity.HALT, Side.PEER,
    ),
)  # fmt: skip
ADVICE: Final = step(
    "6.6", "notify.early", "advice brings the peer's next fetch forward", _advice,
    "facts still come by polling; bsfg admin notify shows what the peer answers",
    ("health.peer", "gateway.healthy"), side=Side.BOTH, seconds=60.0,
)  # fmt: skip
SIGNALS: Final = step(
    "9", "signals.visible", "lag, backlog and refusals are visible in our metrics", _signals,
    "curl http://<local>/metrics; deploy/prometheus/bsfg.rules.yml has the alerts",
    ("gateway.healthy",),
)  # fmt: skip
