"""Section 7 of the runbook: a fact names an artifact, it can be fetched, it is what was named, and a missing one waits.

Nothing of this exists where the policy allows no type, or while a gateway has no artifacts: that is not run.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, Final

from bsfg.checks import looks
from bsfg.checks.check import Check, Context, Finding, excepted, failed, not_run, passed
from bsfg.checks.model import Judgement, Severity, Side
from bsfg.config.values import LinkConfig
from bsfg.errors import BsfgError, Code
from bsfg.model.artifact import SHA256_PATTERN, ArtifactUri, parse_artifact_uri

FACTS_LOOKED_AT: Final = 20_000
"""Of each link, the last of them first."""
FACTS_READ: Final = 2_000
"""At once."""
REFERENCE: Final = "artifact.referenced: reference"
FETCHED: Final = "artifact.fetched: answer"
FETCH: Final = "/v1/artifacts/fetch"
ABSENT_KEY: Final = "bsfg-bringup/never-stored"
FETCH_SECONDS: Final = 120.0
_DEPTH_MAX: Final = 32


def references(facts: Sequence[Mapping[str, Any]], bucket: str) -> Iterator[tuple[ArtifactUri, str | None]]:
    """The artifacts of a bucket that JSON facts name, each with the sha-256 that the fact names beside it."""
    for fact in facts:
        try:
            body = json.loads(fact.get("data") or "null")
        except (ValueError, RecursionError):
            continue
        for named in _objects(body):
            try:
                uri = parse_artifact_uri(str(named["artifact_uri"]))
            except BsfgError:
                continue
            sha256 = named.get("artifact_sha256")
            is_digest = isinstance(sha256, str) and SHA256_PATTERN.fullmatch(sha256) is not None
            if uri.bucket == bucket:
                yield uri, sha256 if is_digest else None


def _objects(value: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    if depth > _DEPTH_MAX:
        return
    if isinstance(value, dict) and "artifact_uri" in value:
        yield value
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        yield from _objects(child, depth + 1)


def judge_integrity(named: str | None, said: str, computed: str | None) -> Judgement:
    """What the fact named, what the gateway says it has, and what the file's bytes are: one digest."""
    if named is None:
        return excepted(f"the fact names no digest; the file's is {said[:16]}…")
    if computed is None:
        return not_run("the fetched bytes lie in no file that could be read here")
    if not named == said == computed:
        return failed("the bytes are not those that were named", f"{computed} (gateway: {said})", named)
    return passed(f"sha-256 {named[:16]}…")


def judge_missing(code: str | None, row: Mapping[str, Any] | None) -> Judgement:
    """An absent artifact is a clean 404; where a fact wants it, a retry is scheduled."""
    if code is None:
        return failed("something was fetched that nobody stored", "an artifact", "artifact_not_found")
    if code != Code.ARTIFACT_NOT_FOUND.label:
        return failed("the refusal is not artifact_not_found", code, "artifact_not_found")
    if row is None:
        return excepted("artifact_not_found; no fact wants it, so that nothing is retried")
    return passed(f"artifact_not_found, {row.get('state')}; again at {str(row.get('next_retry'))[:19]}")


async def _referenced(context: Context) -> Finding:
    seen, _ = await looks.view(context)
    allowed = set(seen["artifacts"])
    if not allowed:
        return Finding(not_run("the peer lets us read no artifact type: retrieval is not enabled by policy"))
    looked_at = 0
    for link in context.links:
        async for facts in _latest(context, link):
            looked_at += len(facts)
            for uri, sha256 in references(facts, context.peer.artifact_bucket):
                if uri.artifact_type in allowed:
                    context.memory[REFERENCE] = (str(uri), sha256)
                    evidence = context.evidence("reference", {"uri": str(uri), "sha256": sha256}, str(link.name))
                    return Finding(passed(str(uri)), (evidence,))
    return Finding(not_run(f"none of the last {looked_at} facts names an artifact"))


async def _latest(context: Context, link: LinkConfig) -> AsyncIterator[list[dict[str, Any]]]:
    """The link's facts in parts, the last of them first."""
    path, query = looks.route("streams", link.name.stream), {"peer": link.name.peer}
    held = await context.surroundings.local("GET", path, query=query)
    end = held["last_sequence"] + 1
    lowest = max(1, held.get("first_sequence") or 1, end - FACTS_LOOKED_AT)
    while end > lowest:
        start = max(lowest, end - FACTS_READ)
        yield await context.surroundings.facts(link.name.stream, link.name.peer, start, end - start)
        end = start


async def _fetched(context: Context) -> Finding:
    uri, _ = await _reference(context)
    try:
        answer = await _fetch(context, uri)
    except BsfgError as error:
        if _is_absent(error):
            return Finding(not_run("this gateway has no artifact retrieval"))
        return Finding(failed("the artifact can't be fetched", f"{error.code.label}: {error.message}", "its bytes"))
    context.memory[FETCHED] = answer
    evidence = context.evidence("fetched", answer, f"local API POST {FETCH}")
    return Finding(passed(f"{answer['size']:,} bytes"), (evidence,))


async def _verified(context: Context) -> Finding:
    uri, named = await _reference(context)
    answer = context.memory.get(FETCHED) or await _fetch(context, uri)
    computed = await context.surroundings.sha256(answer["path"]) if answer.get("path") else None
    seen = {"named by the fact": named, "gateway": answer["sha256"], "computed here": computed}
    evidence = context.evidence("sha-256", seen, str(answer.get("path") or FETCH))
    return Finding(judge_integrity(named, str(answer["sha256"]), computed), (evidence,))


async def _missing(context: Context) -> Finding:
    seen, _ = await looks.view(context)
    if not seen["artifacts"]:
        return Finding(not_run("the peer lets us read no artifact type: retrieval is not enabled by policy"))
    uri = str(ArtifactUri(context.peer.artifact_bucket, seen["artifacts"][0], ABSENT_KEY))
    code: str | None = None
    try:
        await _fetch(context, uri)
    except BsfgError as error:
        if _is_absent(error):
            return Finding(not_run("this gateway has no artifact retrieval"))
        if error.code in (Code.UNAVAILABLE, Code.TIMED_OUT):
            raise
        code = error.code.label
    listed = await context.surroundings.local("GET", "/v1/artifacts", query={"peer": context.peer.id})
    row = next((each for each in listed["artifacts"] if each.get("uri") == uri), None)
    evidence = context.evidence("absent artifact", {"uri": uri, "code": code, "listed": row}, f"local API {FETCH}")
    return Finding(judge_missing(code, row), (evidence,))


async def _reference(context: Context) -> tuple[str, str | None]:
    """What 7.1 found; looked for again where its result stands from an earlier run."""
    if REFERENCE not in context.memory:
        await _referenced(context)
    found: tuple[str, str | None] | None = context.memory.get(REFERENCE)
    if found is None:
        raise BsfgError(Code.NOT_FOUND, "no fact that is still here names an artifact")
    return found


async def _fetch(context: Context, uri: str) -> Any:
    body = {"uri": uri, "peer": context.peer.id}
    return await context.surroundings.local("POST", FETCH, body, seconds=FETCH_SECONDS)


def _is_absent(error: BsfgError) -> bool:
    """Whether the gateway has no such request at all."""
    return error.code is Code.NOT_FOUND


def _check(section: str, name: str, title: str, probe: Any, hint: str, requires: tuple[str, ...]) -> Check:
    return Check(
        f"artifact.{name}", section, title, Severity.WARN, Side.HERE, probe, hint, requires, seconds=FETCH_SECONDS
    )


CHECKS: Final[tuple[Check, ...]] = (
    _check(
        "7.1",
        "referenced",
        "a fetched fact names an artifact",
        _referenced,
        "the other zone appends one with bsfg append --artifact",
        ("fetch.first",),
    ),
    _check(
        "7.2",
        "fetched",
        "the artifact that a fact names can be fetched",
        _fetched,
        "bsfg artifact fetch --uri U; the peer's config/peers.yaml allows types",
        ("artifact.referenced",),
    ),
    _check(
        "7.3",
        "verified",
        "the fetched bytes are those that the fact names",
        _verified,
        "sha256sum the file; bsfg artifact retry fetches it again",
        ("artifact.fetched",),
    ),
    _check(
        "7.4",
        "missing",
        "a missing artifact is refused cleanly and waits",
        _missing,
        "bsfg artifact list shows what waits",
        ("health.peer",),
    ),
)
