"""A handoff's blocks as one HTML file: no script, nothing from elsewhere, on paper, on a phone, dark and light.

The tree is built as elements and serialized by the standard library, so that no text can become markup.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from bsfg.checks.handoff_layout import Block, Bullets, Command, Heading, Paragraph, Table
from bsfg.checks.handoff_markdown import one_line

_CONTENT_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_TONES: Final = {
    "met": "good",
    "passed": "good",
    "not met": "bad",
    "failed": "bad",
    "met with exception": "fair",
    "passed with exception": "fair",
    "attested": "fair",
    "warned": "fair",
    "open": "bad",
    "skipped": "fair",
    "not run": "fair",
    "deferred": "fair",
    "not enabled": "fair",
}
_STYLE: Final = """
:root { color-scheme: light dark; --text: #1b1f24; --back: #ffffff; --line: #c9ced6; --soft: #f3f5f8;
  --good: #116329; --bad: #a40e26; --fair: #7a4a00; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ee; --back: #14171c; --line: #3a414c; --soft: #1d2229;
  --good: #5fce80; --bad: #ff8a8f; --fair: #e8b45a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem; color: var(--text); background: var(--back);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line); }
p, li, td, th, pre { overflow-wrap: anywhere; }
.verdict { font-size: 1.15rem; font-weight: 600; padding: .6rem .8rem; border-left: .35rem solid;
  background: var(--soft); }
.good { color: var(--good); } .bad { color: var(--bad); } .fair { color: var(--fair); }
td.good, td.bad, td.fair { font-weight: 600; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .5rem; border-bottom: 1px solid var(--line); }
th { background: var(--soft); }
th, td.good, td.bad, td.fair, td:first-child, td:nth-child(2) { overflow-wrap: normal; }
table.form { table-layout: fixed; }
table.form td { height: 2.8rem; }
pre { white-space: pre-wrap; padding: .7rem .8rem; background: var(--soft); border: 1px solid var(--line);
  font: .85rem/1.45 ui-monospace, monospace; }
@media screen and (max-width: 44rem) {
  thead { display: none; }
  table, tbody, tr, td { display: block; width: 100%; }
  tr { margin-bottom: .8rem; border: 1px solid var(--line); }
  td, td:first-child, td:nth-child(2) { padding: .3rem .5rem .3rem 8rem; border-bottom: 0; overflow-wrap: anywhere; }
  td::before { content: attr(data-head); float: left; width: 7rem; margin-left: -7.5rem; font-weight: 400;
    color: var(--text); opacity: .7; }
}
@media print {
  :root { color-scheme: light; --text: #000; --back: #fff; --line: #999; --soft: #f3f3f3; --good: #000; --bad: #000;
    --fair: #000; }
  body { max-width: none; padding: 0; font-size: 9.5pt; }
  h2, tr, .verdict { break-inside: avoid; } h2 { break-after: avoid; } thead { display: table-header-group; }
}
"""


def as_html(blocks: Iterable[Block]) -> str:
    """The whole page; its title is the first heading."""
    page = Element("html", lang="en")
    head, main = SubElement(page, "head"), SubElement(SubElement(page, "body"), "main")
    SubElement(head, "meta", charset="utf-8")
    SubElement(head, "meta", {"http-equiv": "Content-Security-Policy", "content": _CONTENT_POLICY})
    SubElement(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    title = _text(SubElement(head, "title"), "Federation handoff")
    SubElement(head, "style").text = _STYLE
    for block in blocks:
        if isinstance(block, Heading) and block.level == 1:
            _text(title, block.text)
        main.append(_element(block))
    return "<!DOCTYPE html>\n" + ElementTree.tostring(page, encoding="unicode", method="html") + "\n"


def _text(element: Element, text: str) -> Element:
    element.text = one_line(text)
    return element


def _element(block: Block) -> Element:
    match block:
        case Heading(text, level):
            return _text(Element(f"h{level}"), text)
        case Paragraph(text, None):
            return _text(Element("p"), text)
        case Paragraph(text, tone):
            return _text(Element("p", {"class": f"verdict {tone}"}), text)
        case Bullets(items):
            bullets = Element("ul")
            for item in items:
                _text(SubElement(bullets, "li"), item)
            return bullets
        case Command(lines):
            command = Element("pre")
            command.text = "\n".join(map(one_line, lines))
            return command
        case Table():
            return _table(block)


def _table(table: Table) -> Element:
    element = Element("table", {"class": "form"} if table.is_form else {})
    heads = SubElement(SubElement(element, "thead"), "tr")
    for name in table.head:
        _text(SubElement(heads, "th", scope="col"), name)
    body = SubElement(element, "tbody")
    for row in table.rows:
        line = SubElement(body, "tr")
        for column, cell in enumerate(row):
            attributes = {"data-head": table.head[column]}
            if column == table.status_column and cell in _TONES:
                attributes["class"] = _TONES[cell]
            _text(SubElement(line, "td", attributes), cell)
    return element
