"""The handoff as JSON, Markdown and HTML: schema, golden text, and that nothing given becomes markup."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import pytest
from markdown_it import MarkdownIt
from tests.support.run_records import MADE_AT, check_result, run_record

from bsfg.checks.handoff import RECORD, Bundle, compose
from bsfg.checks.handoff_document import decode_handoff, encode, json_schema, shipped_schema
from bsfg.checks.model import Evidence, Outcome, RunRecord, Waiver
from bsfg.errors import BsfgError

GOLDEN: Final = Path(__file__).parents[2] / "golden"
COMMAND: Final = "openssl cms -verify -purpose any -in manifest.json.p7s"
HOSTILE: Final = (
    "<script>alert(1)</script> <img src=x onerror=alert(1)> [link](javascript:x) ![i](http://x.example/i) | cell | "
    "**bold** _em_ `code` ~~gone~~ https://x.example www.x.example a@x.example &lt; "
    "\x1b[2J\r\n# heading\n\n- item\u202e"
)


def bundle_of(record: RunRecord) -> Bundle:
    return compose(record, MADE_AT, [COMMAND])


def mixed_record() -> RunRecord:
    """One of each outcome."""
    waiver = Waiver("change freeze", "A. Approver", "CHG-1")
    results = [
        check_result(
            "cursor.monotonic", Outcome.PASSED_WITH_EXCEPTION, summary="every ack fsynced, one node"
        ),
        check_result("preconditions.monitoring", Outcome.ATTESTED, summary="Lab Operator, LAB-6"),
        check_result("trust.clock", Outcome.WARNED, summary="12 s apart"),
        check_result("replay.duplicates", Outcome.SKIPPED, summary="skipped", waiver=waiver, evidence=()),
        check_result(
            "denial.expired",
            Outcome.NOT_RUN,
            summary="no certificate",
            needs="endpoint.reachable",
            evidence=(),
        ),
        check_result("artifact.verified", Outcome.FAILED, summary="another sha-256"),
    ]
    return run_record(changed={result.id: result for result in results})


def test_the_markdown_reads_as_agreed() -> None:
    text = bundle_of(mixed_record()).files["handoff.md"].decode()
    assert text == (GOLDEN / "handoff.md").read_text(encoding="utf-8")


def test_the_same_record_makes_the_same_bytes() -> None:
    first, second = bundle_of(mixed_record()), bundle_of(mixed_record())
    assert first.files == second.files
    assert first.manifest() == second.manifest()


def test_the_record_read_back_is_the_record() -> None:
    bundle = bundle_of(mixed_record())
    assert decode_handoff(bundle.files[RECORD], RECORD) == bundle.document


def test_the_shipped_schema_is_what_the_types_say() -> None:
    assert shipped_schema() == json_schema()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda document: document.pop("accepted"), "missing required field `accepted`"),
        (lambda document: document.update(accepted="yes"), "$.accepted"),
        (lambda document: document.update(note="signed off"), "unknown field `note`"),
        (lambda document: document.update(format_version=2), "$.format_version"),
        (lambda document: document["criteria"].pop(), "$.criteria"),
        (lambda document: document["criteria"][0].update(status="great"), "$.criteria[0].status"),
        (lambda document: document["sides"][0].update(zone="../evil"), "$.sides[0].zone"),
    ],
)
def test_a_record_changed_by_hand_is_told_apart_with_its_place(change: Any, told: str) -> None:
    document = json.loads(bundle_of(run_record()).files[RECORD])
    change(document)
    with pytest.raises(BsfgError) as caught:
        decode_handoff(json.dumps(document).encode(), RECORD)
    assert told in caught.value.message


@pytest.mark.parametrize("content", [b"", b"\x00", b"[]", b"{", b'"\xff"', b"[" * 100_000])
def test_what_is_no_record_is_an_error(content: bytes) -> None:
    with pytest.raises(BsfgError):
        decode_handoff(content, RECORD)


def hostile_record() -> RunRecord:
    result = check_result(
        "fetch.first", summary=HOSTILE, title=HOSTILE, waiver=Waiver(HOSTILE, HOSTILE, HOSTILE)
    )
    seen = Evidence(HOSTILE, {HOSTILE: HOSTILE}, 0, HOSTILE)
    warned = check_result("trust.clock", Outcome.WARNED, summary=HOSTILE, needs=HOSTILE, evidence=(seen,))
    record = run_record(changed={result.id: result, warned.id: warned})
    return replace(
        record,
        peer_version=HOSTILE,
        approver=HOSTILE,
        inputs={HOSTILE: HOSTILE},
        policies={
            "cursors": [{"peer": HOSTILE, "stream": HOSTILE, "init_mode": HOSTILE, "justification": HOSTILE}],
            "authorization": {
                "here": {"streams": [HOSTILE]},
                "peer": {"streams": HOSTILE, "artifacts": [HOSTILE]},
            },
            "certificates": {"here": {HOSTILE: HOSTILE}, "peer": HOSTILE},
            "versions": {HOSTILE: [HOSTILE]},
            HOSTILE: {HOSTILE: [{HOSTILE: HOSTILE}]},
        },
    )


def test_nothing_given_becomes_markdown() -> None:
    hostile = bundle_of(hostile_record())
    reader = MarkdownIt("gfm-like", {"html": True, "linkify": False}).enable("table")
    tokens = [
        token
        for block in reader.parse(hostile.files["handoff.md"].decode())
        for token in (block, *(block.children or ()))
    ]
    kinds = {token.type for token in tokens}
    unwanted = {
        "html_inline",
        "html_block",
        "link_open",
        "image",
        "em_open",
        "s_open",
        "code_inline",
        "ordered_list_open",
    }
    assert not kinds & unwanted
    assert [token.tag for token in tokens if token.type == "heading_open"].count("h1") == 1
    text = hostile.files["handoff.md"].decode()
    assert "https://x" not in text
    assert "www.x" not in text
    assert "a@x" not in text
    assert all(line.isprintable() for line in text.split("\n"))


class Tags(HTMLParser):
    """Every element and attribute of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen |= {tag, *(f"{tag}@{name}" for name, _ in attrs)}


def tags(page: bytes) -> set[str]:
    parser = Tags()
    parser.feed(page.decode())
    return parser.seen


def test_nothing_given_becomes_html() -> None:
    page = bundle_of(hostile_record()).files["handoff.html"]
    seen = tags(page)
    assert seen <= tags(bundle_of(mixed_record()).files["handoff.html"]) | {"p@class"}
    assert not {"script", "img", "a", "link", "iframe"} & seen
    assert b"\x1b" not in page
    assert "\u202e" not in page.decode()


def test_the_page_needs_no_script_and_nothing_from_elsewhere() -> None:
    page = bundle_of(run_record()).files["handoff.html"].decode()
    assert "default-src 'none'" in page
    for word in ("http://", "https://", "src=", "href=", "url(", "@import"):
        assert word not in page
    for wanted in ("prefers-color-scheme: dark", "@media print", "width=device-width"):
        assert wanted in page


@pytest.mark.parametrize("ids", [("../../x",), ("a/b",), ("",), ("A",), ("x", "x")])
def test_an_ambiguous_or_unsafe_check_id_makes_no_handoff(ids: tuple[str, ...]) -> None:
    results = tuple(check_result(name) for name in ids)
    with pytest.raises(BsfgError, match="handoff was not made"):
        compose(run_record(results=results), MADE_AT, [COMMAND])


def test_evidence_holds_all_that_was_seen() -> None:
    seen = Evidence("dates", {"path": Path("/x"), "n": 1}, MADE_AT, "openssl")
    bundle = bundle_of(run_record(changed={"fetch.first": check_result("fetch.first", evidence=(seen,))}))
    told = json.loads(bundle.files["evidence/fetch.first.json"])
    assert told["evidence"] == [
        {"what": "dates", "seen": {"path": "/x", "n": 1}, "at": bundle.document.made_at, "source": "openssl"}
    ]
    assert (told["id"], told["outcome"]) == ("fetch.first", "passed")


def test_encoding_ends_with_a_newline() -> None:
    assert encode({"a": 1}) == b'{\n  "a": 1\n}\n'
