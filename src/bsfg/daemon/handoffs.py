"""Handoffs as signed folders below ``data/handoff``: written, merged, verified, listed (runbook, section 9).

Everything here is synchronous file work of a few milliseconds; a running gateway calls it in a thread.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bsfg import __version__
from bsfg.checks.handoff import MANIFEST, RECORD, SIGNATURE, Bundle, compose
from bsfg.checks.handoff_document import DOCUMENT_BYTES_MAX, Handoff, Maker, Manifest, decode_handoff
from bsfg.checks.handoff_merge import SourceRecord, merge
from bsfg.checks.handoff_verify import Inspection, SignatureCheck, inspect
from bsfg.checks.model import RunRecord
from bsfg.config.home import Home
from bsfg.config.load import load
from bsfg.config.values import Configuration
from bsfg.errors import BsfgError, Code
from bsfg.model.identity import IdentityRule, carries
from bsfg.model.moment import NANOSECONDS, format_time, parse_time
from bsfg.substrates.document_folder import read_folder, write_folder
from bsfg.transport.certificates import Anchors, fingerprint, load_certificates, read_file, view_of
from bsfg.transport.document_signature import DocumentSigner, require_chain, signer_of

HANDOFFS: Final = "handoff"
"""The folder below ``data``."""


@dataclass(frozen=True, slots=True)
class WrittenHandoff:
    """A handoff that lies on the disk, signed."""

    path: Path
    document: Handoff


@dataclass(frozen=True, slots=True)
class VerifiedHandoff:
    """What ``handoff verify`` found."""

    path: Path
    inspection: Inspection

    def as_json(self) -> dict[str, Any]:
        document = self.inspection.document
        return {
            "path": str(self.path),
            "ok": not self.inspection.problems,
            "problems": list(self.inspection.problems),
            "made_at": document and document.made_at,
            "made_by": document and document.made_by.zone,
            "accepted": document and document.accepted,
            "open": list(document.open) if document else [],
        }


def write_handoff(home: Home, record: RunRecord, now: int) -> WrittenHandoff:
    """The signed folder of one run; durable and whole on return, or not there at all.

    Raises ``CONFIGURATION`` where the zone's key can't sign, ``StoreFull`` on a full disk.
    """
    signer = _signer(home)
    bundle = compose(record, now, _signature_check(home, signer, now))
    return _write(home, signer, bundle, record.peer, now)


def merge_handoffs(home: Home, sources: Sequence[Path], now: int, ca: Path | None = None) -> WrittenHandoff:
    """One signed record of both sides, made and signed by this home's zone; each source is verified first.

    A source is a handoff's folder, its ``handoff.json``, or that file alone, which then counts as unsigned. Raises
    ``CHECK_FAILED`` with every problem of a source, ``INVALID_REQUEST`` for records that are not two sides of one
    relationship.
    """
    configuration, signer = load(home.path), _signer(home)
    check = signature_check(home, ca, lambda: configuration)
    records = [_source(path, check) for path in sources]
    maker = Maker(
        zone=configuration.zone.zone,
        identity=configuration.zone.identity_rule.identity,
        version=__version__,
    )
    bundle = merge(records, maker, now, _signature_check(home, signer, now))
    first = bundle.document.sides[0]
    peer = first.peer if first.zone == maker.zone else first.zone
    return _write(home, signer, bundle, peer, now)


def verify_handoff(path: Path, home: Home, ca: Path | None = None) -> VerifiedHandoff:
    """Every problem of a handoff's folder; raises only where there is no such folder or it can't be read.

    Who may have signed is said by ``ca``, else by the configuration of ``home``: this zone or one of its peers.
    """
    files = read_folder(path)
    return VerifiedHandoff(path, inspect(files, signature_check(home, ca, lambda: load(home.path))))


def list_handoffs(home: Home) -> Iterator[dict[str, Any]]:
    """Every handoff of this home, the oldest first; one that can't be read says so and hides no other."""
    folder = home.data / HANDOFFS
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        row: dict[str, Any] = {
            "path": str(path),
            "made_at": None,
            "made_by": None,
            "sides": [],
            "accepted": None,
        }
        try:
            document = read_record(path)
        except BsfgError as error:
            yield row | {"problem": error.message}
            continue
        yield row | {
            "made_at": document.made_at,
            "made_by": document.made_by.zone,
            "sides": [side.zone for side in document.sides],
            "accepted": document.accepted,
            "problem": None,
        }


def runs_with_handoff(home: Home) -> frozenset[str]:
    """The runs that this home's handoffs refer to; ``CONFIGURATION`` or ``BAD_ANSWER`` where one can't be read."""
    folder = home.data / HANDOFFS
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return frozenset(side.run for path in paths for side in read_record(path).sides)


def read_record(path: Path) -> Handoff:
    """The document of a handoff's folder, not verified."""
    return decode_handoff(_record_bytes(path / RECORD), str(path / RECORD))


def signature_check(home: Home, ca: Path | None, configured: Callable[[], Configuration]) -> SignatureCheck:
    """The check that a manifest was signed by the zone that it names (I33: a CA vouches only for its own zones)."""

    def check(manifest: bytes, signature: bytes, stated: Manifest) -> None:
        signer, carried = signer_of(manifest, signature)
        at = _signing_time(stated)
        view = view_of(signer)
        if ca is not None:
            if stated.identity not in (*view.dns, *view.uri, view.common_name):
                raise _wrong_signer(stated, f"{view.dns or view.uri or view.common_name}")
            require_chain(signer, carried, Anchors.load(ca), at)
            return
        rule, anchors = _trusted(home, configured(), stated)
        if mismatch := carries(view, rule):
            raise _wrong_signer(stated, mismatch.found)
        own = load_certificates(home.server_certificate)[0]
        if fingerprint(own) != fingerprint(signer):
            require_chain(signer, carried, Anchors.load(anchors), at)

    return check


def _trusted(home: Home, configuration: Configuration, stated: Manifest) -> tuple[IdentityRule, Path]:
    """Which identity the named zone has by our configuration, and whose anchors vouch for it."""
    own = configuration.zone
    if stated.zone == own.zone:
        return own.identity_rule, home.anchors
    for peer in configuration.peers.values():
        if peer.id == stated.zone:
            return peer.rule, home.resolve(peer.trust_anchor) if peer.trust_anchor else home.anchors
    raise BsfgError(
        Code.CHECK_FAILED,
        f"it says that {stated.zone} signed, which is neither this zone nor a configured peer",
        hint="name its CA with --ca",
    )


def _wrong_signer(stated: Manifest, found: str) -> BsfgError:
    return BsfgError(
        Code.CHECK_FAILED, f"{stated.identity} should have signed; the signer's certificate is of {found}"
    )


def _signing_time(stated: Manifest) -> int:
    try:
        return parse_time(stated.made_at)
    except ValueError as error:
        raise BsfgError(Code.CHECK_FAILED, f"{MANIFEST} says {stated.made_at}, which is no time") from error


def _source(path: Path, check: SignatureCheck) -> SourceRecord:
    folder = path if path.is_dir() else path.parent
    if path.is_dir() or (path.name == RECORD and (folder / MANIFEST).exists()):
        files = read_folder(folder)
        found = inspect(files, check)
        if found.problems or found.document is None:
            hint = f"bsfg handoff verify {folder}"
            problems = "; ".join(found.problems)
            raise BsfgError(Code.CHECK_FAILED, f"{folder} can't be merged: {problems}", hint=hint)
        return SourceRecord(found.document, files, is_signed=True)
    content = _record_bytes(path)
    return SourceRecord(decode_handoff(content, str(path)), {RECORD: content}, is_signed=False)


def _record_bytes(path: Path) -> bytes:
    return read_file(path, "handoff record", DOCUMENT_BYTES_MAX)


def _signer(home: Home) -> DocumentSigner:
    return DocumentSigner.load(home.server_certificate, home.server_key)


def _signature_check(home: Home, signer: DocumentSigner, now: int) -> tuple[str, ...]:
    """The line that checks the signature on this machine, whatever the time is by then."""
    anchors = home.anchors if signer.chains_to(home.anchors, now) else home.server_certificate
    line = (
        f"openssl cms -verify -purpose any -binary -inform DER -in {SIGNATURE} -content {MANIFEST} "
        f"-CAfile {shlex.quote(str(anchors))} -partial_chain -attime {now // NANOSECONDS} -out /dev/null"
    )
    return (line,)


def _write(home: Home, signer: DocumentSigner, bundle: Bundle, peer: str, now: int) -> WrittenHandoff:
    manifest = bundle.manifest()
    # Whoever reads the folder while it is made must not find a manifest without everything that it names.
    files = {**bundle.files, MANIFEST: manifest, SIGNATURE: signer.sign(manifest)}
    path = home.data / HANDOFFS / f"{_file_time(now)}-{peer}"
    write_folder(path, files)
    return WrittenHandoff(path, bundle.document)


def _file_time(now: int) -> str:
    """``20250115T100000.123Z``: sorts by time, and is a file name everywhere."""
    return format_time(now)[:23].replace("-", "").replace(":", "") + "Z"
