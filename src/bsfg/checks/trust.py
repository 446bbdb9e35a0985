"""Section 3 of the runbook: certificates, chains, identities, validity and revocation of both zones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

from bsfg.checks import looks
from bsfg.checks.check import Check, Context, Finding, Probe, excepted, failed, passed
from bsfg.checks.model import Evidence, Judgement, Severity, Side
from bsfg.checks.surroundings import PresentedCertificate
from bsfg.config.values import Ocsp
from bsfg.errors import BsfgError, Code
from bsfg.model.identity import CertificateView, IdentityFrom, IdentityRule, carries
from bsfg.model.moment import NANOSECONDS, format_time, parse_time

EXPIRY_DAYS_MIN: Final = 30
"""``openssl x509 -checkend 2592000`` (runbook 3.3)."""
SKEW_SECONDS_MAX: Final = 60.0
TLS_VERSION: Final = "TLSv1.3"
_DATES: Final = ("expired", "not_yet_valid")
_DAY: Final = 86_400 * NANOSECONDS
_RENEW: Final = "install a certificate that is valid; the gateway takes it without a restart"

Show = Callable[[Context], Awaitable[PresentedCertificate]]


def judge_validity(view: CertificateView, now: int) -> Judgement:
    """It has begun and not ended."""
    if now > view.not_after:
        ended = format_time(view.not_after)[:19]
        return failed("it has ended", f"notAfter {ended}Z", f"later than {format_time(now)[:19]}Z")
    if now < view.not_before:
        begins = format_time(view.not_before)[:19]
        return failed("it has not begun", f"notBefore {begins}Z", f"earlier than {format_time(now)[:19]}Z")
    return passed(f"until {format_time(view.not_after)[:10]}")


def judge_expiry(view: CertificateView, now: int) -> Judgement:
    """It stays valid for 30 days or more."""
    left = (view.not_after - now) / _DAY
    if left < EXPIRY_DAYS_MIN:
        return failed(f"it ends in {left:.1f} days", f"{left:.1f} days left", f"at least {EXPIRY_DAYS_MIN} days")
    return passed(f"{int(left)} days left")


def judge_identity(shown: PresentedCertificate, rule: IdentityRule) -> Judgement:
    """It carries exactly the configured identity, as a zone's certificate and not a CA's (I32)."""
    if mismatch := carries(shown.view, rule):
        return failed("it carries another identity", mismatch.found, mismatch.expected)
    if shown.is_authority:
        return failed("it is a CA's certificate", "basicConstraints CA:TRUE", "a zone's own certificate")
    if not shown.serves:
        return failed("its extended key usage is too narrow", "no serverAuth and clientAuth", "both, or none at all")
    if rule.identity_from is IdentityFrom.SUBJECT:
        return excepted(f"CN={rule.identity}: read from the subject, as its entry in peers.yaml says")
    return passed(rule.identity)


def judge_chain(shown: PresentedCertificate | BsfgError) -> Judgement:
    """It chains to the anchor that was installed for it; dates are judged apart, and TLS looks at them last."""
    if isinstance(shown, BsfgError):
        if shown.details.get("reason") in _DATES:
            return passed("it has a chain; its dates come next")
        return failed("the handshake refuses it", shown.message, "a chain to the peer's anchor")
    if shown.chain_problem is not None:
        return failed("its chain leads to no installed anchor", shown.chain_problem, "a chain to the peer's anchor")
    return passed(f"anchor {shown.chain[-1][:16]}…" if shown.chain else "it is an anchor itself")


def judge_peer_validity(shown: PresentedCertificate | BsfgError, now: int) -> Judgement:
    """It, and the CA that vouches for it, have begun and not ended."""
    if isinstance(shown, BsfgError):
        is_late = shown.details.get("reason") == "expired"
        text = "it has ended" if is_late else "it has not begun"
        return failed(text, shown.message, "a certificate, and a CA, that are valid now")
    return judge_validity(shown.view, now)


def judge_anchors(own: PresentedCertificate, trusted: Collection[str]) -> Judgement:
    """What the peer trusts for us vouches for our certificate, compared by fingerprint."""
    if not own.chain:
        return excepted("the peer accepts our certificate; our own CA is not installed here to compare")
    common = sorted(set(own.chain) & set(trusted))
    if not common:
        found = ", ".join(f"{each[:16]}…" for each in trusted) or "none"
        return failed("the peer trusts another CA for us", found, f"{own.chain[-1][:16]}…")
    return passed(f"both sides have {common[0][:16]}…")


def judge_tls(ours: str, theirs: str) -> Judgement:
    """TLS 1.3 in both directions: our look at the peer's listener, and the peer's at our connection."""
    other = next((version for version in (ours, theirs) if version != TLS_VERSION), None)
    if other is not None:
        return failed("an older TLS was agreed on", other, TLS_VERSION)
    return passed("TLS 1.3 both ways")


def judge_clock(skew_seconds: float, uncertainty_seconds: float) -> Judgement:
    """The clocks agree within a minute; nothing but certificates and reports depends on them."""
    text = f"{skew_seconds:+.1f} s"
    if abs(skew_seconds) - uncertainty_seconds > SKEW_SECONDS_MAX:
        return failed("the clocks differ", f"the peer's clock is {text} from ours", f"within {SKEW_SECONDS_MAX:.0f} s")
    return passed(text)


def judge_revocation(shown: PresentedCertificate, *, has_list: bool, asks_ocsp: bool) -> Judgement:
    """The configured revocation list says nothing against it."""
    if not has_list:
        if asks_ocsp:
            return passed("no revocation list; OCSP is asked instead")
        return excepted("no revocation list and no OCSP is configured")
    if shown.revoked is not None:
        return failed("the revocation list is against it", shown.revoked, "not revoked, by a list in force")
    return passed("not on the revocation list")


def judge_ocsp(answers: Mapping[str, Mapping[str, Any]]) -> Judgement:
    """No responder calls a certificate revoked; one that does not know it is an exception."""
    for whose, answer in answers.items():
        if answer["status"] == "revoked":
            return failed(f"{whose} is revoked", f"{answer['responder']}: {answer['detail']}", "good")
    unknown = [whose for whose, answer in answers.items() if answer["status"] != "good"]
    if unknown:
        return excepted(f"the responder does not know {', '.join(unknown)}")
    return passed("good, by the responders' word")


async def _own(context: Context) -> PresentedCertificate:
    return await context.surroundings.own_certificate()


async def _peers(context: Context) -> PresentedCertificate:
    return await context.surroundings.presented()


async def _chain(context: Context) -> Finding:
    shown = await _shown_or_refused(context)
    return Finding(judge_chain(shown), (_evidence(context, shown, False),))


async def _peer_validity(context: Context) -> Finding:
    shown = await _shown_or_refused(context)
    judgement = judge_peer_validity(shown, context.surroundings.now())
    return Finding(judgement, (_evidence(context, shown, False),))


async def _shown_or_refused(context: Context) -> PresentedCertificate | BsfgError:
    """The peer's certificate, or why the handshake refused it."""
    try:
        return await _peers(context)
    except BsfgError as error:
        if error.code is not Code.IDENTITY_REJECTED:
            raise
        return error


def _looking(show: Show, judge: Callable[[Context, PresentedCertificate], Judgement]) -> Probe:
    """A probe that looks at one certificate."""

    async def probe(context: Context) -> Finding:
        shown = await show(context)
        return Finding(judge(context, shown), (_evidence(context, shown, show is _own),))

    return probe


def _evidence(context: Context, shown: PresentedCertificate | BsfgError, is_own: bool) -> Evidence:
    source = "certs/server.crt" if is_own else f"TLS handshake with {context.peer.endpoint}"
    if isinstance(shown, BsfgError):
        return context.evidence("certificate", shown.message, source)
    view = shown.view
    seen = {
        "sha256": view.fingerprint,
        "dns": list(view.dns),
        "uri": list(view.uri),
        "common_name": view.common_name,
        "issuer": view.issuer,
        "not_before": format_time(view.not_before),
        "not_after": format_time(view.not_after),
        "chain": list(shown.chain),
        "tls_version": shown.tls_version or None,
    }
    return context.evidence("certificate", seen, source)


async def _anchors_agree(context: Context) -> Finding:
    own = await _own(context)
    seen, evidence = await looks.view(context)
    compared = context.evidence("our chain", list(own.chain), "certs/server.crt, certs/ca.crt")
    return Finding(judge_anchors(own, seen["anchors"]), (compared, evidence))


async def _tls(context: Context) -> Finding:
    shown = await _peers(context)
    seen, _ = await looks.view(context)
    versions = {"we see": shown.tls_version, "the peer sees": seen["tls_version"]}
    evidence = context.evidence("TLS versions", versions, f"TLS handshake, peer {context.peer.id} GET /v1/view")
    return Finding(judge_tls(shown.tls_version, seen["tls_version"]), (evidence,))


async def _clock(context: Context) -> Finding:
    surroundings = context.surroundings
    asked = surroundings.now()
    seen, _ = await looks.view(context)
    answered = surroundings.now()
    middle = (asked + answered) / 2
    skew, uncertainty = (parse_time(seen["time"]) - middle) / NANOSECONDS, (answered - asked) / 2 / NANOSECONDS
    measured = {"skew_seconds": round(skew, 3), "uncertainty_seconds": round(uncertainty, 3)}
    source = f"peer {context.peer.id} GET /v1/view"
    return Finding(judge_clock(skew, uncertainty), (context.evidence("clocks", measured, source),))


def _revocation(context: Context, shown: PresentedCertificate) -> Judgement:
    revocation = context.configuration.zone.revocation
    return judge_revocation(shown, has_list=revocation.crl is not None, asks_ocsp=revocation.ocsp is Ocsp.CHECK)


async def _ocsp(context: Context) -> Finding:
    if context.configuration.zone.revocation.ocsp is Ocsp.OFF:
        evidence = context.evidence("ocsp", "off", "config/zone.yaml")
        return Finding(passed("off by configuration: nothing to ask"), (evidence,))
    answers = {
        "our certificate": dict(await context.surroundings.ocsp(peer=False)),
        "the peer's certificate": dict(await context.surroundings.ocsp(peer=True)),
    }
    return Finding(judge_ocsp(answers), (context.evidence("OCSP", answers, "the responders"),))


def _own_rule(context: Context) -> IdentityRule:
    return context.configuration.zone.identity_rule


def _check(
    section: str,
    name: str,
    title: str,
    probe: Probe,
    hint: str,
    requires: tuple[str, ...],
    severity: Severity = Severity.HALT,
    side: Side = Side.HERE,
) -> Check:
    return Check(f"trust.{name}", section, title, severity, side, probe, hint, requires)


_OWN: Final = ("certificates.issued",)
_PEER: Final = ("endpoint.reachable",)
_VIEW: Final = (
    "gateway.healthy",
    "trust.own-validity",
    "trust.own-identity",
    "trust.peer-validity",
    "trust.peer-chain",
)

CHECKS: Final[tuple[Check, ...]] = (
    _check(
        "3.1",
        "own-validity",
        "our certificate is valid now",
        _looking(_own, lambda context, shown: judge_validity(shown.view, context.surroundings.now())),
        _RENEW,
        _OWN,
    ),
    _check(
        "3.1",
        "own-identity",
        "our certificate carries our identity",
        _looking(_own, lambda context, shown: judge_identity(shown, _own_rule(context))),
        "bsfg cert inspect shows its SAN; identity: stands in config/zone.yaml",
        _OWN,
    ),
    _check(
        "3.1",
        "peer-chain",
        "the peer's certificate chains to the installed anchor",
        _chain,
        "compare the issuer with trust_anchor of the peer's entry in config/peers.yaml, else with certs/ca.crt",
        (*_PEER, "anchors.installed"),
    ),
    _check(
        "3.1",
        "peer-validity",
        "the peer's certificate is valid now",
        _peer_validity,
        "the peer's operator renews it",
        (*_PEER, "trust.peer-chain"),
    ),
    _check(
        "3.1",
        "anchors-agree",
        "the peer trusts the CA that issued our certificate",
        _anchors_agree,
        "the peer's operator installs our CA as trust_anchor of our entry",
        _VIEW,
        side=Side.PEER,
    ),
    _check(
        "3.2",
        "peer-identity",
        "the peer's certificate carries the configured identity",
        _looking(_peers, lambda context, shown: judge_identity(shown, context.peer.rule)),
        "identity, identity_from and identity_san_extra stand in config/peers.yaml",
        (*_PEER, "trust.peer-validity"),
    ),
    _check(
        "3.2",
        "tls-version",
        "both directions speak TLS 1.3",
        _tls,
        "something between the zones takes TLS apart: the zones have to reach each other without it",
        (*_VIEW, "trust.peer-identity"),
        side=Side.BOTH,
    ),
    _check(
        "3.2",
        "clock",
        "the clocks of both zones agree within a minute",
        _clock,
        "chronyc tracking or timedatectl on both sides",
        (*_VIEW, "trust.peer-identity"),
        Severity.WARN,
        Side.BOTH,
    ),
    _check(
        "3.3",
        "own-expiry",
        "our certificate is valid for 30 days or more",
        _looking(_own, lambda context, shown: judge_expiry(shown.view, context.surroundings.now())),
        _RENEW,
        (*_OWN, "trust.own-validity"),
    ),
    _check(
        "3.3",
        "peer-expiry",
        "the peer's certificate is valid for 30 days or more",
        _looking(_peers, lambda context, shown: judge_expiry(shown.view, context.surroundings.now())),
        "the peer's operator renews it",
        (*_PEER, "trust.peer-validity"),
    ),
    _check(
        "3.3",
        "own-revocation",
        "our certificate is not revoked",
        _looking(_own, _revocation),
        "bsfg cert inspect names the entry; a revoked certificate has to be replaced, a list that ended renewed",
        _OWN,
    ),
    _check(
        "3.3",
        "peer-revocation",
        "the peer's certificate is not revoked",
        _looking(_peers, _revocation),
        "the peer's operator replaces it; a list that ended has to be renewed",
        (*_PEER, "trust.peer-validity"),
    ),
    _check(
        "3.3",
        "ocsp",
        "no OCSP responder calls a certificate revoked",
        _ocsp,
        "openssl ocsp asks the responder that the certificate names; revocation: stands in config/zone.yaml",
        (*_OWN, *_PEER, "trust.peer-validity"),
        side=Side.BOTH,
    ),
)

