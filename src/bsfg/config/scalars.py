"""Text of one configuration value to a plain value: durations, sizes, identities, buckets, URLs, paths.

Every parser takes the text as written and raises :class:`BadValue`, which says what is wrong and what to write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bsfg.config.address import Address, BadValue, check_host, join_host_port
from bsfg.model.identity import IdentityFrom
from bsfg.model.names import printable

DURATION_SECONDS_MAX: Final = 100 * 366 * 86_400
SIZE_BYTES_MAX: Final = 2**62
TEXT_LENGTH_MAX: Final = 1_000
PATH_LENGTH_MAX: Final = 4_000
URI_LENGTH_MAX: Final = 1_024
OPTIONS_MAX: Final = 1_000
MODE_LENGTH_MAX: Final = 64
SUBSTRATE_URLS_MAX: Final = 64
NATS_PORT: Final = 4222

_DURATION_UNITS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZE_UNITS: Final[dict[str, int]] = {
    "B": 1,
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGTP", start=1)},
    "KB": 1000,
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGTP", start=1)},
}
_AMOUNT: Final = re.compile(r"(0|[1-9][0-9]{0,17})([A-Za-z]*)", re.ASCII)
_SEGMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,263}", re.ASCII)
_COMMON_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", re.ASCII)
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9._~:/?#@!$&'()+,;=%\[\]-]+", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_REGION: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint with the nearest known word, or all of them where they are few, or nothing."""
    options = sorted(set(known))[:OPTIONS_MAX]
    near = get_close_matches(word.lower(), options, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    return f"known here: {', '.join(options)}" if 0 < len(options) <= 20 else ""


def parse_duration_milliseconds(text: str) -> int:
    """Milliseconds of a duration like ``90s``; the units are ms, s, m, h and d."""
    hint = "write a whole number and a unit: 200ms, 90s, 15m, 24h, 7d"
    amount, unit = _amount(text, "duration", _DURATION_UNITS, hint)
    milliseconds = amount * _DURATION_UNITS[unit]
    if not 0 < milliseconds <= DURATION_SECONDS_MAX * 1_000:
        raise BadValue(f"the duration {printable(text)} is not between 1ms and 100 years", hint)
    return milliseconds


def parse_duration_seconds(text: str) -> int:
    """Whole seconds of a duration of at least one second."""
    seconds, rest = divmod(parse_duration_milliseconds(text), 1_000)
    if rest:
        raise BadValue(f"the duration {printable(text)} is not in whole seconds", "use s, m, h or d")
    return seconds


def parse_size(text: str) -> int:
    """Bytes of a size like ``10GiB`` or ``1GB``."""
    hint = "write a whole number and a unit: 512KiB, 10MiB, 10GiB, 1GB"
    amount, unit = _amount(text, "size", _SIZE_UNITS, hint)
    size = amount * _SIZE_UNITS[unit]
    if not 0 < size <= SIZE_BYTES_MAX:
        raise BadValue(f"the size {printable(text)} is not between 1B and 4096PiB", hint)
    return size


def _amount(text: str, what: str, units: dict[str, int], hint: str) -> tuple[int, str]:
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise BadValue(f"{printable(text)} is not a {what}", hint)
    number, unit = match.groups()
    if not unit:
        raise BadValue(f"the {what} {printable(text)} has no unit", hint)
    if unit not in units:
        near = get_close_matches(unit.lower(), {name.lower(): name for name in units}, n=1, cutoff=0.6)
        meant = next((name for name in units if near and name.lower() == near[0]), None)
        raise BadValue(
            f"the {what} {printable(text)} has the unknown unit {printable(unit)}",
            f"did you mean {number}{meant}?" if meant else hint,
        )
    return int(number), unit


def check_identity(identity: str, identity_from: IdentityFrom) -> None:
    """A DNS name, an absolute URI or a common name, without wildcards (runbook 3; contract, section 1)."""
    match identity_from:
        case IdentityFrom.DNS:
            _check_dns_identity(identity)
        case IdentityFrom.URI:
            _check_uri_identity(identity)
        case IdentityFrom.SUBJECT:
            if not _COMMON_NAME.fullmatch(identity) or ".." in identity:
                raise BadValue(
                    f"{printable(identity)} is not a plain common name",
                    "use up to 64 letters, digits, '.', '_' and '-'; wildcards are not allowed",
                )


def _check_dns_identity(identity: str) -> None:
    hint = "for example plant-a-bsfg; a URI needs identity_from: uri; wildcards are not allowed"
    try:
        check_host(identity, allow_address=False)
    except BadValue as error:
        raise BadValue(f"{printable(identity)} is not a DNS name", hint) from error


def _check_uri_identity(identity: str) -> None:
    parts = _URI.fullmatch(identity)
    rest = identity.partition(":")[2].lstrip("/")
    if parts is None or not rest:
        raise BadValue(
            f"{printable(identity)} is not an absolute URI",
            "for example spiffe://example.org/plant-a; wildcards are not allowed",
        )


def parse_segment(text: str) -> str:
    """An artifact type: one path segment."""
    if not _SEGMENT.fullmatch(text):
        raise BadValue(
            f"artifact type {printable(text)} is not one plain path segment",
            "for example batch-files; letters, digits, '.', '_' and '-', no '/' and no wildcards",
        )
    return text


def parse_bucket(text: str) -> str:
    """The name of an artifact bucket."""
    if not is_bucket(text):
        raise BadValue(f"{printable(text)} is not a bucket name", "use letters, digits, '.', '_' and '-'")
    return text


def is_bucket(text: str) -> bool:
    return _BUCKET.fullmatch(text) is not None and ".." not in text


def default_bucket(identity: str, zone: str) -> str:
    """``<identity>-artifacts``; for an identity that can't name a bucket, such as a URI, ``<zone>-artifacts``."""
    bucket = f"{identity}-artifacts"
    return bucket if is_bucket(bucket) else f"{zone}-artifacts"


def parse_region(text: str) -> str:
    """The region of an S3 store."""
    if not _REGION.fullmatch(text):
        raise BadValue(f"{printable(text)} is not a region", "for example eu-central-1")
    return text


def parse_word(text: str) -> str:
    """A text whose form is checked later, with what stands beside it."""
    if not text or len(text) > URI_LENGTH_MAX:
        raise BadValue(f"needs 1 to {URI_LENGTH_MAX} characters")
    return text


def parse_mode_word(text: str) -> str:
    """An init_mode or init_timestamp before its form is checked."""
    if not text or len(text) > MODE_LENGTH_MAX:
        raise BadValue(f"needs 1 to {MODE_LENGTH_MAX} characters")
    return text


def parse_text(text: str) -> str:
    """Free text of people, as one line."""
    line = " ".join(text.split())
    if not line or len(line) > TEXT_LENGTH_MAX or _CONTROL.search(line):
        raise BadValue(f"needs 1 to {TEXT_LENGTH_MAX} printable characters")
    return line


def parse_path(text: str) -> Path:
    """A file's path as written; a relative one is meant from the zone's home."""
    if not text or text != text.strip() or len(text) > PATH_LENGTH_MAX or _CONTROL.search(text):
        raise BadValue(f"{printable(text)} is not a file path")
    if text.startswith("~"):
        raise BadValue(
            f"the path {printable(text)} begins with '~', which is not expanded",
            "write it in full, or relative to the zone's home",
        )
    return Path(text)


def parse_substrate_urls(text: str) -> tuple[str, ...]:
    """``tls://host:port,tls://host:port`` to normalized URLs, each with its port."""
    written = [part.strip() for part in text.split(",")]
    if len(written) > SUBSTRATE_URLS_MAX:
        raise BadValue(f"more than {SUBSTRATE_URLS_MAX} servers")
    urls = tuple(_server_url(part, ("tls", "nats"), NATS_PORT) for part in written)
    if len({url.partition(":")[0] for url in urls}) > 1:
        raise BadValue("mixes tls:// and nats://", "use tls:// for every server")
    return urls


def parse_http_url(text: str) -> str:
    """``http(s)://host[:port]`` without path, query and user, normalized."""
    return _server_url(text, ("https", "http"), None)


def _server_url(text: str, schemes: tuple[str, ...], port_default: int | None) -> str:
    shape = f"{schemes[0]}://host" + (f":{port_default}" if port_default else "")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise BadValue("is not a server's URL", f"write it as {shape}") from error
    if "@" in parts.netloc:
        raise BadValue("has a user or password in a URL", "put secrets in a file and name the file")
    if parts.scheme not in schemes or _CONTROL.search(text) or text != text.strip():
        raise BadValue(f"{printable(text)} is not a URL of {' or '.join(schemes)}", f"write it as {shape}")
    if parts.path.strip("/") or parts.query or parts.fragment or port == 0:
        raise BadValue(f"{printable(text)} is not just scheme, host and port", f"write it as {shape}")
    host = check_host(host, allow_address=True)
    port = port or port_default
    return f"{parts.scheme}://{join_host_port(host, port)}"


def parse_redirect_host(text: str) -> str:
    """``host`` or ``host:port`` that a peer's artifact redirects may name."""
    if ":" in text and not text.endswith("]"):
        return str(Address.parse(text))
    host = text[1:-1] if text.startswith("[") and ":" in text else text
    return join_host_port(check_host(host, allow_address=True), None)
