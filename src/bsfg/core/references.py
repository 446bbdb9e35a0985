"""Which artifacts the facts of a page name (runbook 7.1): in a JSON fact or, for opaque payloads, in its headers.

The page is looked through once, as bytes; only a fact that has the word is taken apart. What facts say is a peer's
word: a reference that is not well-formed is reported and wanted by nobody.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bsfg.errors import BsfgError
from bsfg.model.artifact import SHA256_PATTERN, parse_artifact_uri
from bsfg.model.fact import Fact, split_headers
from bsfg.model.names import ZoneId, printable
from bsfg.model.wanted import WantedArtifact

URI_FIELD: Final = "artifact_uri"
SHA256_FIELD: Final = "artifact_sha256"
SIZE_FIELD: Final = "artifact_size"
MEDIA_TYPE_FIELD: Final = "artifact_media_type"
WORD: Final = URI_FIELD.encode()
FACT_REFERENCES_MAX: Final = 1_000
"""In one fact; what is beyond is reported."""
DEPTH_MAX: Final = 32
SIZE_MAX: Final = 2**62
MEDIA_TYPE_LENGTH_MAX: Final = 255


@dataclass(frozen=True, slots=True)
class Found:
    """What a page names: each distinct artifact with how many facts name it, and what is wrong with the rest."""

    wanted: Counter[WantedArtifact] = field(default_factory=Counter)
    problems: tuple[str, ...] = ()


def find_references(peer: ZoneId, bucket: str, facts: Sequence[Fact]) -> Found:
    """The artifacts of this peer's bucket that these facts name.

    Names in another bucket are not this peer's to serve, and so none of ours to ask it for (I40).
    """
    if not _has_word(facts):
        return Found()
    wanted: Counter[WantedArtifact] = Counter()
    problems: list[str] = []
    for fact in facts:
        if WORD not in fact.payload and WORD not in fact.headers:
            continue
        named: set[WantedArtifact] = set()
        for count, fields in enumerate(_claims(fact)):
            if count == FACT_REFERENCES_MAX:
                problems.append(f"fact {fact.sequence}: it names more than {FACT_REFERENCES_MAX} artifacts")
                break
            try:
                artifact = _artifact(peer, fields)
            except (ValueError, BsfgError) as error:
                problems.append(f"fact {fact.sequence}: {error}")
                continue
            if artifact.uri.bucket == bucket:
                named.add(artifact)
        wanted.update(named)
    return Found(wanted, tuple(problems))


def _has_word(facts: Sequence[Fact]) -> bool:
    return WORD in b"\n".join([fact.payload for fact in facts]) or WORD in b"".join(
        [fact.headers for fact in facts]
    )


def _claims(fact: Fact) -> Iterator[dict[str, Any]]:
    """Every object of the fact, or its headers, that name an artifact."""
    if WORD in fact.headers:
        headers = {
            name.decode("latin-1"): value.decode("utf-8", "replace")
            for name, value in split_headers(fact.headers)
        }
        if URI_FIELD in headers:
            yield headers | {SIZE_FIELD: _number(headers.get(SIZE_FIELD))}
    if WORD in fact.payload:
        try:
            body = json.loads(fact.payload)
        except (ValueError, RecursionError):
            return
        yield from _objects(body)


def _objects(body: Any) -> Iterator[dict[str, Any]]:
    level, depth = [body], 0
    while level and depth < DEPTH_MAX:
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                if URI_FIELD in value:
                    yield value
                below += value.values()
            elif isinstance(value, list):
                below += value
        level, depth = [value for value in below if isinstance(value, dict | list)], depth + 1


def _number(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 20 else text


def _artifact(peer: ZoneId, fields: dict[str, Any]) -> WantedArtifact:
    uri, sha256, size = fields[URI_FIELD], fields.get(SHA256_FIELD), fields.get(SIZE_FIELD)
    media_type = fields.get(MEDIA_TYPE_FIELD)
    if not isinstance(uri, str):
        raise ValueError(f"{URI_FIELD} is not text")
    if sha256 is not None and not (isinstance(sha256, str) and SHA256_PATTERN.fullmatch(sha256)):
        raise ValueError(f"{SHA256_FIELD} is {printable(str(sha256))}, not 64 lower-case hexadecimal digits")
    if size is not None and not (type(size) is int and 0 <= size <= SIZE_MAX):
        raise ValueError(f"{SIZE_FIELD} is {printable(str(size))}, not a number of bytes")
    is_plain = isinstance(media_type, str) and media_type.isprintable() and media_type.isascii()
    if not is_plain or len(str(media_type)) > MEDIA_TYPE_LENGTH_MAX:
        media_type = None
    return WantedArtifact(peer, parse_artifact_uri(uri), sha256, size, media_type)
