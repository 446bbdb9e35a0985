"""The zones as a picture: this zone, its peers, and a line for each link and export, coloured by its state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

WIDTH: Final = 480
OWN_WIDTH: Final = 92
PEER_WIDTH: Final = 108
LINE_HEIGHT: Final = 26
BOX_PADDING: Final = 9
PEER_GAP: Final = 14
LINES_MAX: Final = 40
"""More lines than this are drawn as one for each peer and direction: the worst of them."""

COLOURS: Final = {
    "level": "good",
    "catching_up": "busy",
    "starting": "busy",
    "backing_off": "bad",
    "denied": "bad",
    "partitioned": "cut",
    "local_unavailable": "bad",
    "local_full": "bad",
    "stalled": "bad",
    "halted": "bad",
}
_WORST_FIRST: Final = ("bad", "cut", "unknown", "busy", "good")


@dataclass(frozen=True, slots=True)
class Line:
    """One direction of one stream, from left to right or back."""

    label: str
    colour: str
    state: str
    is_incoming: bool
    y: int


@dataclass(frozen=True, slots=True)
class PeerBox:
    name: str
    colour: str
    words: str
    y: int
    height: int
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """Boxes and lines with their places, in the picture's own units."""

    zone: str
    height: int
    peers: tuple[PeerBox, ...]
    left: int = OWN_WIDTH
    right: int = WIDTH - PEER_WIDTH
    width: int = WIDTH


def draw(status: Mapping[str, Any]) -> Picture:
    """The picture of a zone's status (``GET /v1/status``)."""
    ends = {peer["id"]: _lines_of(peer["id"], status) for peer in status["peers"]}
    is_crowded = sum(map(len, ends.values())) > LINES_MAX
    boxes, y = [], 0
    for peer in status["peers"]:
        lines = _gathered(ends[peer["id"]]) if is_crowded else ends[peer["id"]]
        height = max(1, len(lines)) * LINE_HEIGHT + 2 * BOX_PADDING
        colour, words = _peer_state(peer, status)
        placed = tuple(
            Line(*line, y + BOX_PADDING + index * LINE_HEIGHT + LINE_HEIGHT // 2)
            for index, line in enumerate(lines)
        )
        boxes.append(PeerBox(peer["id"], colour, words, y, height, placed))
        y += height + PEER_GAP
    return Picture(status["zone"], max(60, y - PEER_GAP), tuple(boxes))


_Unplaced = tuple[str, str, str, bool]


def _lines_of(peer: str, status: Mapping[str, Any]) -> list[_Unplaced]:
    incoming = [
        (row["stream"], COLOURS.get(row["state"], "unknown"), row["state"], True)
        for row in status["links"]
        if row["peer"] == peer
    ]
    outgoing = [
        (row["stream"], *_export_state(row, peer, status), False)
        for row in status["exports"]
        if row["peer"] == peer
    ]
    return incoming + outgoing


def _export_state(row: Mapping[str, Any], peer: str, status: Mapping[str, Any]) -> tuple[str, str]:
    if any(partition["peer"] == peer for partition in status["partitions"]):
        return "cut", "partitioned"
    backlog = row["backlog_facts"]
    if backlog is None:
        return "unknown", "unknown"
    return ("good", "confirmed") if backlog == 0 else ("busy", f"{backlog} to confirm")


def _peer_state(peer: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[str, str]:
    if any(partition["peer"] == peer["id"] for partition in status["partitions"]):
        return "cut", "cut off"
    if not peer["authorized"]:
        return "unknown", "not authorized"
    known = {True: ("good", "reachable"), False: ("bad", "unreachable")}
    return known.get(peer["reachable"], ("unknown", "unknown"))


def _gathered(lines: Iterable[_Unplaced]) -> list[_Unplaced]:
    """One line for each direction, in the colour of the worst."""
    gathered = []
    for is_incoming in (True, False):
        same = [line for line in lines if line[3] is is_incoming]
        if same:
            worst = min(same, key=lambda line: _WORST_FIRST.index(line[1]))
            gathered.append((f"{len(same)} streams", worst[1], worst[2], is_incoming))
    return gathered
