"""The demo's last lines: the bring-up on both zones, and one signed handoff of it (runbook, sections 1 to 10)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from bsfg.lab import demo_artifacts, program
from bsfg.lab.demo_stage import Evidence, Stage, demand
from bsfg.lab.homes import ENTERPRISE, PLANT_A
from bsfg.lab.processes import LabZone

BRING_UP_SECONDS_MAX: Final = 120.0
HANDOFFS: Final = "handoffs"
"""The note that the handoffs' folders are under."""


async def bring_up(stage: Stage, evidence: Evidence) -> str:
    """Every check of the runbook with its drills, first as plant-a's operator, then as enterprise's."""
    await demo_artifacts.order_with_its_file(stage)
    words, paths = [], []
    for zone, peer in ((stage.plant, ENTERPRISE.zone), (stage.enterprise, PLANT_A.zone)):
        answer = await _bring_up(zone, peer)
        evidence[f"{answer['zone']} with {peer}"] = {"counts": answer["counts"], "record": answer["record"]}
        demand(answer["ok"], f"{answer['zone']}: {_what_is_wrong(answer)}")
        demand(answer.get("handoff"), f"{answer['zone']}: the bring-up left no handoff")
        paths.append(answer["handoff"]["path"])
        words.append(f"{answer['zone']} {answer['counts']['passed']} of {len(answer['results'])}")
    stage.notes[HANDOFFS] = paths
    return f"passed: {', '.join(words)}"


async def _bring_up(zone: LabZone, peer: str) -> dict[str, Any]:
    answer: dict[str, Any] = await asyncio.to_thread(
        program.ask, zone.home, "bringup", "--peer", peer, deadline_seconds=BRING_UP_SECONDS_MAX
    )
    return answer


def _what_is_wrong(answer: dict[str, Any]) -> str:
    bad = [result for result in answer["results"] if result["outcome"] in ("failed", "warned")]
    bad = bad or [result for result in answer["results"] if result["outcome"] == "not run"]
    return "; ".join(f"{result['id']} {result['outcome']}: {result['summary']}" for result in bad[:3])


async def handoff(stage: Stage, evidence: Evidence) -> str:
    """Both zones' records become one, and whoever has it can check who signed it and that nothing was changed."""
    sources: list[str] = stage.notes[HANDOFFS]
    merged = await stage.ask(stage.plant, "handoff", "merge", *sources)
    evidence["merged"] = merged
    demand(merged["accepted"], f"not accepted: {merged['open'] or merged['contradictions']}")
    verified = await stage.ask(stage.plant, "handoff", "verify", merged["path"])
    evidence["verified"] = verified
    demand(not verified["problems"], f"it does not verify: {verified['problems']}")
    return f"accepted, in {Path(merged['path']).name}"
