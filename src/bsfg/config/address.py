"""Where something listens or is reached: a host and a port, ``[v6]:port`` included."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final

from bsfg.model.names import printable

HOST_LENGTH_MAX: Final = 253
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)
_SCOPE: Final = re.compile(r"[A-Za-z0-9_.-]{1,15}", re.ASCII)
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)
_SHAPE: Final = "write host:port, a.b.c.d:port or [v6]:port"


class BadValue(ValueError):
    """A value that can't be used: what is wrong with it, and what to write instead."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Address:
    """A host (name, IPv4 or IPv6 address without brackets) and a TCP port from 1 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return join_host_port(self.host, self.port)

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that a text like ``10.1.1.10:9443`` or ``[::1]:9443`` names; BadValue if it names none."""
        host, separator, port = text.rpartition(":")
        if not separator:
            raise BadValue(f"{printable(text)} has no port", _SHAPE)
        if not _PORT.fullmatch(port) or not 1 <= int(port) <= 65_535:
            raise BadValue(f"{printable(text)} has no port from 1 to 65535", _SHAPE)
        bracketed = host.startswith("[") and host.endswith("]")
        if bracketed != (":" in host):
            raise BadValue(f"{printable(text)} is not an address", _SHAPE)
        return cls(check_host(host[1:-1] if bracketed else host, allow_address=True), int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can reach it; a name other than ``localhost`` never counts."""
        if self.host == "localhost":
            return True
        return _is_ip(self.host) and ip_address(self.host).is_loopback

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for every address of this host."""
        return _is_ip(self.host) and ip_address(self.host).is_unspecified

    def overlaps(self, other: Address) -> bool:
        """Whether two listeners on these addresses would take each other's place."""
        if self.port != other.port:
            return False
        return self.host == other.host or self.is_wildcard or other.is_wildcard


def join_host_port(host: str, port: int | None) -> str:
    """``host:port`` with brackets around an IPv6 address; without a port, the host alone."""
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"


def check_host(text: str, *, allow_address: bool) -> str:
    """The host if it is a DNS name or, where allowed, an IP address (in its usual spelling); else BadValue."""
    if _is_ip(text):
        if allow_address:
            return str(ip_address(text))
    elif _is_dns_name(text):
        return text
    raise BadValue(f"{printable(text)} is not a host", "use a DNS name or an IP address")


def _is_ip(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    scope = address.scope_id if isinstance(address, IPv6Address) else None
    return scope is None or _SCOPE.fullmatch(scope) is not None


def _is_dns_name(text: str) -> bool:
    labels = text.split(".")
    # A last label of digits alone would be read as an address by some resolvers.
    return (
        0 < len(text) <= HOST_LENGTH_MAX
        and all(_LABEL.fullmatch(label) for label in labels)
        and not labels[-1].isdigit()
    )
