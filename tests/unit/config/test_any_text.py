"""Whatever the files hold, loading them ends in a configuration or in ``ConfigurationError``, in nothing else."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from bsfg.config.describe import describe
from bsfg.config.load import load
from bsfg.config.names_in_use import NamesInUse
from bsfg.config.schema import CursorSection, PeerSection, ZoneFile
from bsfg.errors import ConfigurationError
from bsfg.model.names import StreamName, colliding

MINIMAL = b"zone: plant-a\nidentity: plant-a-bsfg\n"
KEYS = [*ZoneFile.model_fields, *PeerSection.model_fields, *CursorSection.model_fields, "peers", "cursors"]
WORDS = [
    *KEYS,
    "name",
    "max_age",
    "embedded",
    "url",
    "7d",
    "1GB",
    "0",
    "-1",
    "1.5",
    ".nan",
    ".inf",
    "true",
    "no",
    "~",
]
MARKS = [
    "\n",
    "\n  ",
    "\n- ",
    "  - ",
    ": ",
    ":",
    "[",
    "]",
    "{",
    "}",
    ",",
    "&a ",
    "*a",
    "!!str ",
    "? ",
    "| ",
    ">\n",
    "'",
    '"',
]
MARKS += [
    "<<: ",
    "%YAML 1.1\n",
    "---\n",
    "...\n",
    "\t",
    "#",
    "@",
    "\\",
    "\\ud800",
    "\u2028",
    "\x85",
    "\ufeff",
    "\x00",
    "§",
    "\U0001f600",
]

tokens = st.lists(st.sampled_from(WORDS + MARKS) | st.text(max_size=5), max_size=30).map("".join)
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS)
)


def flow(value: object) -> str:
    """YAML flow text of a tree; texts go in as they are, so that they may also break it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow(entry) for entry in value) + "]"
    return "~" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=20,
).map(flow)
contents = (tokens | trees).map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=60)


def load_these(zone: bytes, peers: bytes, cursors: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        config = Path(name) / "config"
        config.mkdir()
        for file, content in (("zone", zone), ("peers", peers), ("cursors", cursors)):
            (config / f"{file}.yaml").write_bytes(content)
        try:
            describe(load(Path(name)))
        except ConfigurationError as error:
            assert error.problems
            for problem in error.problems:
                assert problem.line >= 1
                assert problem.column >= 1
                assert "\n" not in str(problem)
                str(problem).encode()


@settings(max_examples=150, deadline=None)
@given(contents, contents, contents)
@example(b"a: &x [*x]", b"? {a: 1}\n: 2", b"'\\ud800': 1")
@example(b"zone: !<tag:x> 1", b"peers: [[[]]]", b"cursors: {cursors: {}}")
def test_any_text(zone: bytes, peers: bytes, cursors: bytes) -> None:
    load_these(zone, peers, cursors)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(list(ZoneFile.model_fields)), trees, max_size=8),
    st.lists(st.dictionaries(st.sampled_from(list(PeerSection.model_fields)), trees, max_size=8), max_size=4),
    st.lists(
        st.dictionaries(st.sampled_from(list(CursorSection.model_fields)), trees, max_size=8), max_size=4
    ),
)
def test_any_values_under_known_keys(
    zone: dict[str, str], peers: list[dict[str, str]], cursors: list[dict[str, str]]
) -> None:
    load_these(
        MINIMAL
        + flow({key: value for key, value in zone.items() if key != "zone"}).encode("utf-8", "surrogatepass"),
        f"peers: {flow(list(peers))}".encode("utf-8", "surrogatepass"),
        f"cursors: {flow(list(cursors))}".encode("utf-8", "surrogatepass"),
    )


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "a_b", "c"]), min_size=1, max_size=3).map(".".join), max_size=6
    )
)
def test_names_in_use_collide_as_the_model_says(names: list[str]) -> None:
    in_use = NamesInUse()
    taken: list[StreamName] = []
    for name in map(StreamName, names):
        other = in_use.add(name, 1)
        expected = colliding([*taken, name])
        assert (other is None) == (expected is None)
        if other is None:
            taken.append(name)
        else:
            assert colliding([other, name]) == (other, name)
    assert in_use.names == taken
