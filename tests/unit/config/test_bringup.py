"""config/bringup.yaml: what is there is checked in its place, what is missing is None."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from bsfg.config.address import Address
from bsfg.config.bringup import KEYS, Grant, Inputs, NamedZone, Word, load_inputs
from bsfg.config.home import Home
from bsfg.errors import ConfigurationError
from bsfg.lab import homes, templates
from bsfg.lab.templates import Addresses

ADDRESSES: Final = {
    "enterprise": Addresses("127.1.1.10:9443", "127.0.0.1:1", 2),
    "plant-a": Addresses("127.3.1.10:9443", "127.0.0.1:3", 4),
}


def parsed(tmp_path: Path, text: str) -> Inputs:
    (tmp_path / "config").mkdir(exist_ok=True)
    (tmp_path / "config" / "bringup.yaml").write_text(text)
    return load_inputs(Home(tmp_path))


def problems(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parsed(tmp_path, text)
    return [str(problem) for problem in caught.value.problems]


def test_a_labs_inputs_are_complete(tmp_path: Path) -> None:
    text = templates.bringup_yaml(homes.ENTERPRISE, homes.PLANT_A, ADDRESSES, Path("/x/ca.crt"))
    inputs = parsed(tmp_path, text)
    assert set(KEYS) <= set(inputs.lines)
    assert inputs.identities["a"] == NamedZone("enterprise", "enterprise-bsfg")  # type: ignore[arg-type]
    assert inputs.endpoints["b"] == Address("127.3.1.10", 9443)
    assert inputs.authorization_matrix is not None
    assert inputs.authorization_matrix.grants["enterprise"] == Grant(  # type: ignore[index]
        ("facts.orders", "facts.shipments"), ("order-files",)  # type: ignore[arg-type]
    )
    assert inputs.commissioning["a"] == Word("Lab Operator", "LAB-2", "Passed")
    streams = ("facts.operational", "facts.batch_completed", "facts.orders", "facts.shipments")
    assert inputs.required_history == dict.fromkeys(streams, 86_400)
    assert inputs.place("trust_chain") == "config/bringup.yaml:6"


def test_without_the_file_there_are_no_inputs(tmp_path: Path) -> None:
    inputs = load_inputs(Home(tmp_path))
    assert inputs.lines == {} and inputs.approver is None
    assert inputs.place("approver") == "config/bringup.yaml"
    with pytest.raises(ConfigurationError, match="there is no file"):
        load_inputs(Home(tmp_path), tmp_path / "other.yaml")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("zone_a_identity: {zone: hq}\n", "1:18: zone_a_identity: identity is missing"),
        ("zone_b_endpoint: 1\n", "1:18: zone_b_endpoint: must be text, not the number 1"),
        ("approver: {by: me}\n", "1:11: approver: reference is missing"),
        ("commissioning: {zone_a: {result: Failed, by: x, reference: y}}\n", "1:34: result: must be one of Passed"),
        ("authorization_matrix: {by: x, reference: y, hq: {streams: [Bad]}}\n", "1:60: entry of streams: stream name"),
        ("authorization_matrix: {by: x, reference: y, Hq: {}}\n", "1:45: zone id 'Hq'"),
        ("authorization_matrix: {by: x, reference: y, hq: 5}\n", "1:49: hq must be a mapping"),
        ("artifact_access_rules: {a: write}\n", "1:28: a: must be one of read"),
        ("required_history: {facts.x: 24}\n", "1:29: facts.x: must be a duration"),
        ("required_history: {Q: 1h}\n", "1:20: stream name 'Q'"),
        ("cursor_init_mode: bounded\n", "1:19: init_mode is not one of"),
        ("aprover: {by: x, reference: y}\n", "1:1: unknown key 'aprover' (did you mean approver?)"),
        ("approver: {by: x, reference: y}\napprover: {by: x, reference: y}\n", "2:1: "),
        ("- 1\n", "1:1: "),
    ],
)
def test_each_problem_has_its_place(tmp_path: Path, text: str, problem: str) -> None:
    found = problems(tmp_path, text)
    assert len(found) == 1, found
    assert found[0].startswith(f"config/bringup.yaml:{problem}"), found
