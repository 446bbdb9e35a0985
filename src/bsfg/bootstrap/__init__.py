"""Puts a gateway together from its configuration: the only package that knows all the others."""

from bsfg.bootstrap.run import serve
from bsfg.bootstrap.trust import build_trust

__all__ = ["build_trust", "serve"]
