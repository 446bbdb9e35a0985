"""Where a NATS server is, and how we prove to it who we are: an NKey seed, or a credentials file with JWT and seed."""

from __future__ import annotations

import base64
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import nkeys

from bsfg.errors import BsfgError, Code

PORT_DEFAULT: Final = 4222
SCHEMES: Final = ("nats", "tls")
SECRET_BYTES_MAX: Final = 64 * 1024

_SECTION: Final = re.compile(r"-----BEGIN ([A-Z ]+)-----\s+(\S+)\s+-+END \1-+")


@dataclass(frozen=True, slots=True)
class NatsTarget:
    """The servers of one NATS system, tried in turn, and our credentials there; TLS is demanded if it is given."""

    urls: tuple[str, ...]
    seed_file: Path | None = None
    credentials_file: Path | None = None
    tls: ssl.SSLContext | None = None


class Address(NamedTuple):
    host: str
    port: int
    wants_tls: bool


def parse_url(url: str) -> Address:
    """Host, port and whether TLS is demanded; ``configuration`` if it is no ``nats://`` or ``tls://`` address."""
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _configuration(f"the NATS address {url!r} can't be read: {error}") from None
    if parts.scheme not in SCHEMES or not host:
        raise _configuration(f"the NATS address {url!r} is not nats://host:port or tls://host:port")
    return Address(host, port or PORT_DEFAULT, parts.scheme == "tls")


def authentication(target: NatsTarget, nonce: str | None) -> dict[str, Any]:
    """The fields of CONNECT that prove who we are by signing the server's nonce; none without credentials.

    Reads the secret each time, so that a rotated one works at the next connection. Raises ``configuration`` if it
    can't be read.
    """
    if target.credentials_file is not None:
        sections = _sections(target.credentials_file)
        try:
            jwt, seed = sections["NATS USER JWT"], sections["USER NKEY SEED"]
        except KeyError as missing:
            raise _configuration(f"{target.credentials_file} has no section {missing}") from None
        return {"jwt": jwt} | _signed(target.credentials_file, seed, nonce)
    if target.seed_file is not None:
        seed = _secret(target.seed_file).strip()
        return _signed(target.seed_file, seed, nonce, with_key=True)
    return {}


def _signed(file: Path, seed: str, nonce: str | None, with_key: bool = False) -> dict[str, str]:
    if nonce is None:
        # A server that asks for no proof sends no nonce, and needs no signature.
        return {}
    try:
        pair = nkeys.from_seed(bytearray(seed.encode()))
        signature = base64.urlsafe_b64encode(pair.sign(nonce.encode())).rstrip(b"=").decode()
        fields = {"sig": signature}
        if with_key:
            fields["nkey"] = pair.public_key.decode()
        pair.wipe()
    except (nkeys.NkeysError, ValueError):
        raise _configuration(f"{file} does not hold a NATS user's NKey seed") from None
    return fields


def _sections(file: Path) -> dict[str, str]:
    return dict(_SECTION.findall(_secret(file)))


def _secret(file: Path) -> str:
    try:
        with file.open(encoding="ascii") as stream:
            return stream.read(SECRET_BYTES_MAX)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise _configuration(f"the NATS credentials {file} can't be read: {reason}") from None


def _configuration(message: str) -> BsfgError:
    return BsfgError(Code.CONFIGURATION, message, hint="see substrate in zone.yaml")
