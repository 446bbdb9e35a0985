"""NATS protocol frames, cut out of the byte stream by position and length.

A payload may contain bytes that look like frames, so nothing is ever searched for inside one: the control line says
how long header and payload are. The parser is fed whatever the socket gave and holds back an incomplete end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, overload

from bsfg.substrates.even_frames import Shape, even_frames

CONTROL_LINE_BYTES_MAX: Final = 8 * 1024
"""The server takes lines of 4 KiB from publishers and adds an acknowledgement subject of some hundred bytes."""
INFO_LINE_BYTES_MAX: Final = 256 * 1024
FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
STATUS_LINE: Final = b"NATS/1.0 "
HEADER_FRAME_BYTES: Final = len(b"NATS/1.0\r\n\r\n")
"""What a header block costs beside its lines."""

_CRLF: Final = b"\r\n"
_MESSAGES: Final = frozenset((b"H", b"M"))
_HMSG: Final = b"HMSG "
_MSG: Final = b"MSG "
_LF: Final = b"\n"
_CR: Final = ord("\r")
_NEVER: Final = CONTROL_LINE_BYTES_MAX + 1
_NO_LINE: Final = _CRLF
"""What no line begins or ends with."""
_I: Final = ord("I")
_OPERATIONS: Final = frozenset((b"INFO", b"PING", b"PONG", b"+OK", b"-ERR"))
_TOKENS_SHOWN_MAX: Final = 40
_EVEN_LOOKS_MAX: Final = 2
"""How often one chunk is searched in vain for frames of equal length."""


class FrameError(ValueError):
    """The bytes are not the NATS protocol; the connection that carried them is of no more use."""


class Frame(NamedTuple):
    """One delivered message; ``header`` is the raw block with its ``NATS/1.0`` line, empty if there is none."""

    subject: bytes
    reply: bytes
    header: bytes
    payload: bytes


class Messages(Sequence[Frame]):
    """Messages of one subscription in a row, all of them ``MSG`` or ``HMSG``, with reply subjects or without.

    Who moves pages takes the columns, which are lists of equal length; all others take frames.
    """

    __slots__ = ("headers", "lines", "payloads")

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        """The control lines, without their line ends."""
        self.headers: list[bytes] = []
        """The raw header blocks; the list is empty where the messages are ``MSG``."""
        self.payloads: list[bytes] = []

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[Frame]:
        for index in range(len(self.lines)):
            yield self[index]

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> list[Frame]: ...
    def __getitem__(self, index: int | slice) -> Frame | list[Frame]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        target, _, reply, _, _ = _control(self.lines[index])
        header = self.headers[index] if self.headers else b""
        return Frame(target, reply, header, self.payloads[index])


class Operation(NamedTuple):
    """One protocol line that is no message: ``PING``, ``PONG``, ``INFO``, ``+OK`` or ``-ERR``."""

    name: bytes
    argument: bytes


class Parsed(NamedTuple):
    """What one chunk of bytes completed: messages in order as runs of one subscription, and the other lines."""

    runs: list[tuple[int, Messages]]
    operations: list[Operation]


class FrameParser:
    """Cuts chunks of bytes into frames; keeps the incomplete end of one chunk for the next."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._wanted_bytes = 0

    @property
    def is_empty(self) -> bool:
        """Whether no incomplete frame is held."""
        return not self._held

    def feed(self, chunk: bytes) -> Parsed:
        """Everything that is complete with this chunk; :class:`FrameError` if it can't be the protocol.

        Chunks are joined only when the frame in progress is complete, so a large payload is copied once.
        """
        parsed = Parsed([], [])
        if not self._held:
            self._keep(chunk, self._cut(chunk, parsed))
            return parsed
        self._held.append(chunk)
        self._held_bytes += len(chunk)
        if self._held_bytes >= self._wanted_bytes:
            whole = b"".join(self._held)
            self._held.clear()
            self._keep(whole, self._cut(whole, parsed))
        return parsed

    def _keep(self, buffer: bytes, position: int) -> None:
        if position < len(buffer):
            rest = buffer[position:] if position else buffer
            self._held.append(rest)
            self._held_bytes = len(rest)

    def _cut(self, buffer: bytes, parsed: Parsed) -> int:
        """Cut complete frames; returns where the first incomplete one begins.

        A message that has the operation, the subject, the subscription and the lengths of the one before it, and a
        reply subject as that one has, needs no look at its line but at both of its ends; many in a row whose lines are
        of one length, too, are cut at once.
        """
        position, end, find = 0, len(buffer), buffer.find
        looks_left, line_bytes = _EVEN_LOOKS_MAX, 0
        beginning = lengths = _NO_LINE
        header_bytes = total_bytes = line_bytes_min = 0
        run, run_key, has_header = Messages(), (_NO_LINE, _NO_LINE, False), False
        while position < end:
            line_end = find(_LF, position, position + CONTROL_LINE_BYTES_MAX) - 1
            if line_end < position:
                line_end = self._long_line(buffer, position)
                if line_end < 0:
                    break
            line = buffer[position:line_end]
            is_alike = len(line) >= line_bytes_min and line.startswith(beginning)
            if not is_alike or not line.endswith(lengths):
                if buffer[line_end] != _CR:
                    raise FrameError("a line that ends without a carriage return")
                other = _other_lengths(line, len(beginning), has_header) if is_alike else None
                if other is not None:
                    header_bytes, total_bytes, lengths = other
                    line_bytes_min = len(beginning) + len(lengths)
                elif line[:1] not in _MESSAGES:
                    parsed.operations.append(_operation(line))
                    position = line_end + 2
                    continue
                else:
                    target, sid, reply, header_bytes, total_bytes = _control(line)
                    has_header = line.startswith(_HMSG)
                    operation = _HMSG if has_header else _MSG
                    beginning = b"%b%b %b " % (operation, target, sid)
                    lengths = b" %d %d" % (header_bytes, total_bytes) if has_header else b" %d" % total_bytes
                    # A line without a reply subject is as long as both ends that share one space, and none is like it.
                    line_bytes_min = len(beginning) + len(lengths) if reply else _NEVER
                    if (key := (operation, sid, not reply)) != run_key:
                        run, run_key = Messages(), key
                        parsed.runs.append((int(sid), run))
            body = line_end + 2
            frame_end = body + total_bytes
            if frame_end + 2 > end:
                self._wanted_bytes = frame_end + 2 - position
                if not run.lines and parsed.runs:
                    parsed.runs.pop()
                break
            if buffer[frame_end : frame_end + 2] != _CRLF:
                raise FrameError("a message does not end where its length says")
            if has_header:
                body += header_bytes
                run.headers.append(buffer[body - header_bytes : body])
            run.lines.append(line)
            run.payloads.append(buffer[body:frame_end])
            position = frame_end + 2
            if len(line) != line_bytes or not looks_left:
                line_bytes = len(line)
                continue
            shape = Shape(beginning, lengths, line_bytes, header_bytes, total_bytes)
            even = even_frames(buffer, position, shape)
            looks_left = _EVEN_LOOKS_MAX if even.lines else looks_left - 1
            run.lines += even.lines
            run.headers += even.headers
            run.payloads += even.payloads
            position += len(even.lines) * shape.frame_bytes
        return position

    def _long_line(self, buffer: bytes, position: int) -> int:
        """The end of a line that the first look did not find; -1 if it may still come."""
        limit = INFO_LINE_BYTES_MAX if buffer[position] == _I else CONTROL_LINE_BYTES_MAX
        line_end = buffer.find(_CRLF, position, position + limit)
        if line_end < 0 and len(buffer) - position >= limit:
            raise FrameError(f"a control line is longer than {limit} bytes")
        self._wanted_bytes = len(buffer) - position + 1
        return line_end


def _control(line: bytes) -> tuple[bytes, bytes, bytes, int, int]:
    """Subject, subscription, reply subject, header length and total length of a MSG or HMSG line."""
    tokens = line.split(b" ")
    count, header_token, reply = len(tokens), b"0", b""
    if tokens[0] == b"HMSG" and count == 6:
        _, target, sid, reply, header_token, total_token = tokens
    elif tokens[0] == b"HMSG" and count == 5:
        _, target, sid, header_token, total_token = tokens
    elif tokens[0] == b"MSG" and count == 5:
        _, target, sid, reply, total_token = tokens
    elif tokens[0] == b"MSG" and count == 4:
        _, target, sid, total_token = tokens
    else:
        raise FrameError(f"a line of {count} tokens that begins with {tokens[0][:_TOKENS_SHOWN_MAX]!r}")
    if not (total_token.isdigit() and header_token.isdigit() and sid.isdigit()):
        raise FrameError("a message line with a length or subscription that is no number")
    header_bytes, total_bytes = int(header_token), int(total_token)
    if header_bytes > total_bytes or total_bytes > FRAME_BYTES_MAX:
        raise FrameError(f"a message of {total_bytes} bytes with a header of {header_bytes}")
    return target, sid, reply, header_bytes, total_bytes


def _other_lengths(line: bytes, beginning_bytes: int, has_header: bool) -> tuple[int, int, bytes] | None:
    """Both lengths of a line that begins as the last, and how they stand there; None where it takes a whole look."""
    words = line.rsplit(b" ", 2 if has_header else 1)
    header_token, total_token = words[1] if has_header else b"0", words[-1]
    if len(words[0]) <= beginning_bytes or not (header_token.isdigit() and total_token.isdigit()):
        return None
    header_bytes, total_bytes = int(header_token), int(total_token)
    if header_bytes > total_bytes or total_bytes > FRAME_BYTES_MAX:
        return None
    return header_bytes, total_bytes, line[len(words[0]) :]


def _operation(line: bytes) -> Operation:
    name, _, argument = line.partition(b" ")
    if name not in _OPERATIONS:
        raise FrameError(f"unknown operation {name[:_TOKENS_SHOWN_MAX]!r}")
    return Operation(name, argument)


def status_of(frame: Frame) -> tuple[int, str] | None:
    """Code and description of a status message, which has a header with a code and no payload; else None."""
    if frame.payload or not frame.header.startswith(STATUS_LINE):
        return None
    line = frame.header[len(STATUS_LINE) : frame.header.find(_CRLF)]
    code, _, description = line.partition(b" ")
    if not code.isdigit():
        return None
    return int(code), description.decode("ascii", "backslashreplace").strip()


def encode_publish(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> bytes:
    """One PUB or HPUB frame; ``headers`` is a block of ``Name: value\\r\\n`` lines, empty for none."""
    target = b"%b %b" % (subject, reply) if reply else subject
    if not headers:
        return b"PUB %b %d\r\n%b\r\n" % (target, len(payload), payload)
    header_bytes = len(headers) + HEADER_FRAME_BYTES
    return b"HPUB %b %d %d\r\nNATS/1.0\r\n%b\r\n%b\r\n" % (
        target,
        header_bytes,
        header_bytes + len(payload),
        headers,
        payload,
    )
