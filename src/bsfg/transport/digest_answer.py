"""What a peer answers to ``POST /v1/digests``, held against what was asked: it is hostile until then (decision 9)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bsfg.model.digests import EMPTY_DIGEST, DigestAnswer, DigestCall, PartDigest, split
from bsfg.transport.page_check import bad_answer
from bsfg.transport.wire import DIGEST_PATTERN, SEQUENCE_MAX

DIGESTS_BYTES_MAX: Final = 64 * 1024
"""256 parts take half of it."""
DIGESTS_WAIT_SECONDS: Final = 15.0
"""Longer than a sender reads for one answer."""


def parse_digest_answer(call: DigestCall, fields: Mapping[str, Any]) -> DigestAnswer:
    """The answer; ``bad_answer`` for parts that were not asked for, or that no range can have."""
    if (fields.get("stream"), fields.get("epoch")) != (call.stream, call.epoch):
        raise bad_answer("its digests are of another stream or epoch")
    parts, asked = fields.get("parts"), split(call.first, call.last, call.parts)
    if not isinstance(parts, list) or not 1 <= len(parts) <= len(asked):
        raise bad_answer(f"it has not between 1 and {len(asked)} parts")
    first_sequence = fields.get("first_sequence")
    if type(first_sequence) is not int or not 0 <= first_sequence <= SEQUENCE_MAX:
        raise bad_answer("its first_sequence is not a sequence")
    return DigestAnswer(
        [_part(part, last - first + 1) for part, (first, last) in zip(parts, asked, strict=False)],
        first_sequence,
    )


def _part(part: Any, width: int) -> PartDigest:
    if not isinstance(part, dict):
        raise bad_answer("a part is not an object")
    count, digest = part.get("count"), part.get("digest")
    if type(count) is not int or not 0 <= count <= width:
        raise bad_answer(f"the count of a part is not between 0 and {width}")
    if not isinstance(digest, str) or not DIGEST_PATTERN.fullmatch(digest):
        raise bad_answer("the digest of a part is not a sha-256")
    if (count == 0) != (digest == EMPTY_DIGEST):
        raise bad_answer("count and digest of a part contradict each other")
    return PartDigest(count, digest)
