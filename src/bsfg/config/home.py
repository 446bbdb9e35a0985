"""A zone's home directory: where each file of contract section 3 lies, and how the home is found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HOME_DEFAULT: Final = Path("/opt/bsfg")
HOME_VARIABLE: Final = "BSFG_HOME"


def resolve_home(option: str | Path | None = None, environment: Mapping[str, str] | None = None) -> Path:
    """The home named by ``--home``, else by ``BSFG_HOME``, else the default; absolute, links left as they are."""
    variables = os.environ if environment is None else environment
    return Path(option or variables.get(HOME_VARIABLE) or HOME_DEFAULT).absolute()


@dataclass(frozen=True, slots=True)
class Home:
    """The paths below a zone's home; nothing here looks at the disk."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config"

    @property
    def certs(self) -> Path:
        return self.path / "certs"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def zone_file(self) -> Path:
        return self.config / "zone.yaml"

    @property
    def peers_file(self) -> Path:
        return self.config / "peers.yaml"

    @property
    def cursors_file(self) -> Path:
        return self.config / "cursors.yaml"

    @property
    def bringup_file(self) -> Path:
        return self.config / "bringup.yaml"

    @property
    def local_seed(self) -> Path:
        """The NKey seed of local applications, with the embedded server."""
        return self.config / "nats-local.nk"

    @property
    def admin_seed(self) -> Path:
        """The NKey seed that may do all, with the embedded server."""
        return self.config / "nats-admin.nk"

    @property
    def server_certificate(self) -> Path:
        return self.certs / "server.crt"

    @property
    def server_key(self) -> Path:
        return self.certs / "server.key"

    @property
    def anchors(self) -> Path:
        """Every anchor that this zone trusts for peers without one of their own."""
        return self.certs / "ca.crt"

    @property
    def crl(self) -> Path:
        """The revocation list that is used where zone.yaml names none and this file exists."""
        return self.certs / "crl.pem"

    @property
    def socket(self) -> Path:
        """The local API."""
        return self.run / "bsfg.sock"

    def resolve(self, path: Path) -> Path:
        """A path of a configuration value: a relative one is meant from the home."""
        return self.path / path

    def resolve_optional(self, path: Path | None) -> Path | None:
        """The same for a path that may not be configured."""
        return None if path is None else self.resolve(path)
