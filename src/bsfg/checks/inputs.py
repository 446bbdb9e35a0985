"""Section 2 of the runbook: the inputs are given and are what runs; a missing or contradicting one halts."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from bsfg.checks import looks
from bsfg.checks.check import Check, Context, Finding, failed, passed
from bsfg.checks.model import Judgement, Severity, Side
from bsfg.config.address import Address
from bsfg.config.bringup import Inputs
from bsfg.errors import BsfgError
from bsfg.model.names import ZoneId

SECTION: Final = "2"
PEERS: Final = "config/peers.yaml"
ZONE: Final = "config/zone.yaml"
CURSORS: Final = "config/cursors.yaml"


def own_letter(inputs: Inputs, zone: ZoneId) -> str | None:
    """Whether this zone is the inputs' zone a or b; None if neither, or both."""
    letters = [letter for letter, named in inputs.identities.items() if named.zone == zone]
    return letters[0] if len(letters) == 1 else None


def missing(inputs: Inputs, *keys: str) -> Judgement | None:
    """The judgement on inputs that are not given; None if all of them are."""
    absent = [key for key in keys if key not in inputs.lines]
    if not absent:
        return None
    return failed(
        f"{', '.join(absent)} is not given", f"{inputs.file} has no {', '.join(absent)}", "a value for each input"
    )


def contradiction(place: str, said: str, other: str, runs: str) -> Judgement:
    """The inputs say one thing and the configuration another; both are named."""
    return failed("inputs and configuration differ", f"{other}: {runs}", f"{place}: {said}")


def judge_identities(inputs: Inputs, own: tuple[str, str], peer: tuple[str, str]) -> Judgement:
    """Both zones are named with the identities that run; ``own`` and ``peer`` are zone and identity."""
    if absent := missing(inputs, "zone_a_identity", "zone_b_identity"):
        return absent
    letter = own_letter(inputs, ZoneId(own[0]))
    if letter is None:
        names = " and ".join(named.zone for named in inputs.identities.values())
        return contradiction(inputs.place("zone_a_identity"), f"zones {names}", ZONE, f"zone {own[0]}")
    other = "b" if letter == "a" else "a"
    for which, wanted, file in ((letter, own, ZONE), (other, peer, PEERS)):
        named = inputs.identities[which]
        if (named.zone, named.identity) != wanted:
            place = inputs.place(f"zone_{which}_identity")
            said, runs = f"{named.zone} as {named.identity}", f"{wanted[0]} as {wanted[1]}"
            return contradiction(place, said, file, runs)
    return passed(f"{own[0]} is zone {letter}, {peer[0]} is zone {other}")


def judge_endpoints(inputs: Inputs, letter: str, listen: Address, peer: Address) -> Judgement:
    """The endpoints are ours and the peer's; a listener on every address has only its port to compare."""
    if absent := missing(inputs, "zone_a_endpoint", "zone_b_endpoint"):
        return absent
    other = "b" if letter == "a" else "a"
    own, their = inputs.endpoints[letter], inputs.endpoints[other]
    if own.port != listen.port or not (listen.is_wildcard or own == listen):
        return contradiction(inputs.place(f"zone_{letter}_endpoint"), str(own), ZONE, f"listen: {listen}")
    if their != peer:
        return contradiction(inputs.place(f"zone_{other}_endpoint"), str(their), PEERS, f"endpoint: {peer}")
    return passed(f"{own} and {their}")


def judge_trust_chain(place: str, given: Collection[str], used: Collection[str]) -> Judgement:
    """The anchors that vouch for the peer are those of the file that was named; all are sha-256 of certificates."""
    lacking = sorted(set(used) - set(given))
    if lacking:
        return contradiction(place, "the file of trust anchors", PEERS, f"trusts {lacking[0][:16]}… beside it")
    return passed(f"{len(set(used))} anchors, {min(used)[:16]}…" if used else "no anchors")


def judge_set(
    place: str, said: Collection[str], file: str, runs: Collection[str], *, exact: bool = True
) -> Judgement | None:
    """None if both name the same, or with ``exact`` false if what runs is among what was said."""
    if set(said) == set(runs) or (not exact and set(runs) <= set(said)):
        return None
    return contradiction(place, looks.listed(said), file, looks.listed(runs))


def judge_mode(place: str, mode: str, modes: Collection[str]) -> Judgement:
    """At least one link begins as the inputs say; the others are overrides (runbook 5.3)."""
    if modes and mode not in modes:
        return contradiction(place, mode, CURSORS, looks.listed(set(modes)))
    return passed(mode if modes else f"{mode}; nothing is imported here")


def _finding(context: Context, judgement: Judgement, given: Any, configured: Any, *keys: str) -> Finding:
    """The judgement with both sides of what was compared."""
    seen = {"given": given, "configured": configured}
    source = ", ".join(context.inputs.place(key) for key in keys)
    return Finding(judgement, (context.evidence(", ".join(keys), seen, source),))


async def _identities(context: Context) -> Finding:
    own = (context.zone, context.configuration.zone.identity_rule.identity)
    peer = (context.peer.id, context.peer.rule.identity)
    given = {letter: [named.zone, named.identity] for letter, named in context.inputs.identities.items()}
    judgement = judge_identities(context.inputs, own, peer)
    return _finding(context, judgement, given, [own, peer], "zone_a_identity", "zone_b_identity")


async def _endpoints(context: Context) -> Finding:
    listen, peer = context.configuration.zone.listen, context.peer.endpoint
    given = {letter: str(address) for letter, address in context.inputs.endpoints.items()}
    judgement = judge_endpoints(context.inputs, _letter(context), listen, peer)
    return _finding(context, judgement, given, [str(listen), str(peer)], "zone_a_endpoint", "zone_b_endpoint")


async def _trust_chain(context: Context) -> Finding:
    inputs = context.inputs
    if absent := missing(inputs, "trust_chain"):
        return Finding(absent)
    path = context.peer.trust_anchor or context.configuration.paths.anchors
    used = await context.surroundings.anchors(path)
    place = inputs.place("trust_chain")
    try:
        given = await context.surroundings.anchors(inputs.trust_chain or path)
    except BsfgError as error:
        return Finding(failed("the named file can't be used", error.message, f"{place}: CA certificates in PEM"))
    return _finding(context, judge_trust_chain(place, given, used), list(given), list(used), "trust_chain")


async def _matrix(context: Context) -> Finding:
    inputs, matrix = context.inputs, context.inputs.authorization_matrix
    place = inputs.place("authorization_matrix")
    if matrix is None:
        return Finding(failed("authorization_matrix is not given", f"{inputs.file} has none", "the approved matrix"))
    for zone in (context.peer.id, context.zone):
        if zone not in matrix.grants:
            return Finding(failed(f"nothing is said of {zone}", f"{place} has no {zone}", "an entry for either zone"))
    there, here = matrix.grants[context.peer.id], matrix.grants[context.zone]
    imports = [link.name.stream for link in context.links]
    verdict = (
        judge_set(place, there.streams, PEERS, context.peer.streams)
        or judge_set(place, there.artifacts, PEERS, context.peer.artifacts)
        or judge_set(place, here.streams, CURSORS, imports, exact=False)
    )
    summary = f"{context.peer.id} reads {len(there.streams)} streams and {len(there.artifacts)} artifact types"
    given = {zone: [list(grant.streams), list(grant.artifacts)] for zone, grant in matrix.grants.items()}
    configured = {
        context.peer.id: [list(context.peer.streams), list(context.peer.artifacts)],
        "imported here": imports,
    }
    return _finding(context, verdict or passed(summary), given, configured, "authorization_matrix")


async def _exported(context: Context) -> Finding:
    inputs, said = context.inputs, context.inputs.exported_streams or ()
    if absent := missing(inputs, "exported_streams"):
        return Finding(absent)
    place, is_sender = inputs.place("exported_streams"), _letter(context) == "a"
    runs = context.peer.streams if is_sender else [link.name.stream for link in context.links]
    verdict = judge_set(place, said, PEERS if is_sender else CURSORS, runs, exact=is_sender)
    return _finding(context, verdict or passed(looks.listed(said)), list(said), list(runs), "exported_streams")


async def _mode(context: Context) -> Finding:
    inputs = context.inputs
    if absent := missing(inputs, "cursor_init_mode"):
        return Finding(absent)
    modes = {str(link.name.stream): link.init_mode.text for link in context.links}
    judgement = judge_mode(inputs.place("cursor_init_mode"), str(inputs.cursor_init_mode), modes.values())
    return _finding(context, judgement, inputs.cursor_init_mode, modes, "cursor_init_mode")


async def _rules(context: Context) -> Finding:
    inputs, matrix = context.inputs, context.inputs.authorization_matrix
    if absent := missing(inputs, "artifact_access_rules"):
        return Finding(absent)
    place, said = inputs.place("artifact_access_rules"), inputs.artifact_access_rules or ()
    other, runs = PEERS, context.peer.artifacts
    if _letter(context) == "b":
        other = inputs.place("authorization_matrix")
        runs = matrix.grants[context.zone].artifacts if matrix and context.zone in matrix.grants else said
    judgement = judge_set(place, said, other, runs) or passed(looks.listed(said))
    return _finding(context, judgement, list(said), list(runs), "artifact_access_rules")


def _letter(context: Context) -> str:
    return own_letter(context.inputs, context.zone) or "a"


def _check(name: str, title: str, probe: Any, hint: str = "", *, also: tuple[str, ...] = ()) -> Check:
    requires = also if name == "identities" else ("inputs.identities", *also)
    hint = hint or "correct config/bringup.yaml, or the configuration where that is what is wrong"
    return Check(f"inputs.{name}", SECTION, title, Severity.HALT, Side.HERE, probe, hint, requires)


CHECKS: Final[tuple[Check, ...]] = (
    _check("identities", "both zones are named with the identities that run", _identities),
    _check("endpoints", "both endpoints are those that are configured", _endpoints),
    _check(
        "trust-chain",
        "the named trust anchors are those that vouch for the peer",
        _trust_chain,
        also=("anchors.installed",),
    ),
    _check(
        "authorization-matrix",
        "the approved matrix is what is configured",
        _matrix,
        also=("preconditions.authorization",),
    ),
    _check(
        "exported-streams",
        "the exported streams are those that are configured",
        _exported,
        also=("preconditions.streams",),
    ),
    _check("cursor-init-mode", "links start as the inputs say", _mode),
    _check("artifact-access-rules", "the artifact types are those that are configured", _rules),
)
