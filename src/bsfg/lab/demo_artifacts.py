"""The demo's lines about artifacts: they come by themselves, missing ones are awaited, spoilt ones set aside."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bsfg.errors import BsfgError, Code
from bsfg.lab.demo_stage import Evidence, Stage, demand, wait_until
from bsfg.lab.example_facts import BATCH_EVENTS, ORDERS
from bsfg.lab.homes import ENTERPRISE
from bsfg.lab.processes import LabZone

PEER: Final = ENTERPRISE.zone
BUCKET: Final = f"{ENTERPRISE.identity}-artifacts"
BATCH_FILES: Final = "batch-files"
DOCUMENTS: Final = "documents"
ORDER_FILES: Final = "order-files"
RECORDS: Final = 3
MANUAL: Final = b"How to run line 1.\n" * 20_000
NAMED_TIMES: Final = 200
COMES_SECONDS: Final = 30.0
"""On a busy machine a pause between two attempts may have grown to half of this."""
FETCHES: Final = "bsfg_artifact_fetches_total"
SPOILT_KEY: Final = "2025/001/batch-spoilt.json"
SPOILT_CONTENT: Final = b'{"batch": "spoilt", "record": "as it was put"}'
SPOILT_BYTES: Final = b'{"batch": "spoilt", "record": "and as it is"} '

Reference = dict[str, Any]


async def come_by_themselves(stage: Stage, evidence: Evidence) -> str:
    """Batch records and a document that facts name are at plant-a, verified; what many facts name moved once."""
    before = await stage.counted(stage.plant, FETCHES)
    puts = [_put(stage, BATCH_FILES, f"2025/001/batch-{number}.json", _record(number)) for number in range(RECORDS)]
    puts.append(_put(stage, DOCUMENTS, "manuals/line-1.txt", MANUAL))
    *records, manual = references = await asyncio.gather(*puts)
    facts = [{"batch": number} | record for number, record in enumerate(records)]
    await _tell(stage, *facts, *[{"line": 1, "order": number} | manual for number in range(NAMED_TIMES)])
    rows = await _all_reach(stage, references, "verified")
    for reference, row in zip(references, rows, strict=True):
        found = await asyncio.to_thread(_sha256, object_path(stage.plant, reference["artifact_sha256"]))
        demand(found == reference["artifact_sha256"], f"the bytes of {row['uri']} have sha-256 {found}")
        evidence[row["uri"]] = {"state": row["state"], "sha256": found, "size": row["size"]}
    fetched = await _fetch(stage, manual["artifact_uri"])
    by_hand = await asyncio.to_thread(_sha256, Path(fetched["path"]))
    evidence["fetched by hand"] = fetched
    demand(by_hand == manual["artifact_sha256"], f"{fetched['path']} has sha-256 {by_hand}")
    moved = await stage.counted(stage.plant, FETCHES) - before
    evidence["transfers"] = moved
    demand(moved == len(rows), f"{len(rows)} artifacts took {moved:.0f} transfers")
    return f"{len(rows)} verified, one of them named {NAMED_TIMES} times"


async def order_with_its_file(stage: Stage) -> None:
    """plant-a's facts name artifacts, too: one command puts the file and appends the fact that refers to it."""
    with tempfile.NamedTemporaryFile(dir=stage.scratch) as file:
        file.write(_record(RECORDS))
        file.flush()
        arguments = ("append", "--stream", ORDERS.stream, "--artifact", file.name, "--type", ORDER_FILES)
        await stage.ask(stage.plant, *arguments, "--key", "2025/order-1.json", "-", stdin=b'{"order": 1}')


async def missing_is_awaited(stage: Stage, evidence: Evidence) -> str:
    """A fact names what is not there yet: facts go on, somebody is told once, and it comes when it is there."""
    content = b'{"batch": "late"}'
    reference = _reference(BATCH_FILES, "2025/001/batch-late.json", content)
    uri = reference["artifact_uri"]
    await _tell(stage, {"batch": "late"} | reference)
    (row,) = await _all_reach(stage, [reference], "missing")
    evidence["missing"] = row
    demand(row["next_retry"] is not None, "nothing says when it is tried again")
    status = await stage.ask(stage.plant, "status")
    demand(status["health"] == "ok", f"plant-a calls itself {status['health']}")
    try:
        await _fetch(stage, uri)
    except BsfgError as error:
        evidence["fetched by hand"] = {"code": error.code.label, "message": error.message, "hint": error.hint}
        demand(error.code is Code.ARTIFACT_NOT_FOUND, f"by hand it is {error.code.label}")
    else:
        demand(False, "it was fetched, and is not there")
    put = await _put(stage, BATCH_FILES, "2025/001/batch-late.json", content)
    demand(put == reference, "what was put is not what the fact names")
    began = time.monotonic()
    evidence["verified"] = await _all_reach(stage, [reference], "verified")
    seconds = time.monotonic() - began
    told = await asyncio.to_thread(_told, stage.plant, uri)
    evidence["log"] = told
    demand(told == ["artifact_missing", "artifact_recovered"], f"the log says {told}")
    return f"missing, told once; put, and here {seconds:.1f} s later"


async def spoilt_is_set_aside(stage: Stage, evidence: Evidence) -> str:
    """Bytes that changed at the source are not taken: both digests are named, and the true ones come once mended."""
    reference = await _put(stage, BATCH_FILES, SPOILT_KEY, SPOILT_CONTENT)
    source = object_path(stage.enterprise, reference["artifact_sha256"])
    await asyncio.to_thread(_overwrite, source, SPOILT_BYTES)
    await _tell(stage, {"batch": "spoilt"} | reference)
    (row,) = await _all_reach(stage, [reference], "corrupt")
    evidence["corrupt"] = row
    spoilt = hashlib.sha256(SPOILT_BYTES).hexdigest()
    demand(row["sha256"] == reference["artifact_sha256"], "the digest that was named is not in the list")
    demand(row["found_sha256"] == spoilt, f"the digest that was found is {row['found_sha256']}, not {spoilt}")
    visible = object_path(stage.plant, reference["artifact_sha256"]).exists()
    demand(not visible, "the spoilt bytes are visible at plant-a")
    await asyncio.to_thread(_overwrite, source, SPOILT_CONTENT)
    await stage.ask(stage.plant, "artifact", "retry", "--peer", PEER)
    await _all_reach(stage, [reference], "verified")
    return f"sha-256 {spoilt[:8]}… for {row['sha256'][:8]}…; mended, verified"


def object_path(zone: LabZone, sha256: str) -> Path:
    """Where a zone of the lab has these bytes."""
    return zone.home / "data" / "artifacts" / "objects" / sha256[:2] / sha256


def _record(number: int) -> bytes:
    rows = [{"batch": number, "step": step, "temperature": 60 + step % 7} for step in range(2_000)]
    return json.dumps(rows).encode()


def _reference(kind: str, key: str, content: bytes) -> Reference:
    return {
        "artifact_uri": f"s3://{BUCKET}/{kind}/{key}",
        "artifact_sha256": hashlib.sha256(content).hexdigest(),
        "artifact_size": len(content),
    }


async def _put(stage: Stage, kind: str, key: str, content: bytes) -> Reference:
    """enterprise has it from now on; what a fact says of it."""
    with tempfile.NamedTemporaryFile(dir=stage.scratch) as file:
        file.write(content)
        file.flush()
        arguments = ("artifact", "put", file.name, "--type", kind, "--key", key)
        answer = await stage.ask(stage.enterprise, *arguments)
    return {f"artifact_{name}": answer[name] for name in ("uri", "sha256", "size")}


async def _tell(stage: Stage, *facts: dict[str, Any]) -> None:
    lines = "".join(json.dumps(fact) + "\n" for fact in facts).encode()
    arguments = ("append", "--stream", BATCH_EVENTS.stream, "--subject", BATCH_EVENTS.tail, "--ndjson", "-")
    await stage.ask(stage.enterprise, *arguments, stdin=lines)


async def _fetch(stage: Stage, uri: str) -> dict[str, Any]:
    answer: dict[str, Any] = await stage.ask(stage.plant, "artifact", "fetch", "--uri", uri)
    return answer


async def _all_reach(stage: Stage, references: Sequence[Reference], state: str) -> list[dict[str, Any]]:
    """Wait until all are in this state; their rows in the receiver's list."""
    wanted = [reference["artifact_uri"] for reference in references]
    found: dict[str, dict[str, Any]] = {}

    async def are_there() -> bool:
        answer = await stage.ask(stage.plant, "artifact", "list", "--peer", PEER, "--state", state)
        found.update((row["uri"], row) for row in answer["artifacts"])
        return found.keys() >= set(wanted)

    what = f"{len(wanted)} artifacts are {state}" if len(wanted) > 1 else f"{wanted[0]} is {state}"
    await wait_until(what, COMES_SECONDS, are_there)
    return [found[uri] for uri in wanted]


def _told(zone: LabZone, uri: str) -> list[str]:
    """The events of the zone's log that speak of the artifact, in order."""
    entries = [json.loads(line) for line in zone.log.read_text(encoding="utf-8").splitlines()]
    return [entry["event"] for entry in entries if uri in entry.get("message", "")]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _overwrite(path: Path, content: bytes) -> None:
    """A disk that spoils what it holds asks nobody for leave."""
    path.chmod(0o600)
    path.write_bytes(content)
