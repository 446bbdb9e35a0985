"""Which artifacts a fact names, as generously as it can be read: what may be named must not be removed (contract 6)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from bsfg.core.references import URI_FIELD, WORD


def named_uris(payload: bytes, headers: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Every text under ``artifact_uri``, at any depth of a JSON payload, and in the headers of any."""
    for name, value in headers:
        if name.lower() == URI_FIELD:
            yield value.strip()
    # A name of a field can be written with escapes, so a payload with any is taken apart, too.
    if WORD in payload or b"\\u" in payload:
        try:
            yield from _texts(json.loads(payload))
        except (ValueError, RecursionError):
            return


def _texts(body: Any) -> Iterator[str]:
    left = [body]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            found = value.get(URI_FIELD)
            if isinstance(found, str):
                yield found
            left += value.values()
        elif isinstance(value, list):
            left += value
