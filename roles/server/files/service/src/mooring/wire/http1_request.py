# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 requests from a byte stream, one at a time, strictly.

Why: the edge is the security surface. A request that two parsers could read in two ways is how smuggling starts, so
this reader takes a narrow dialect: one Host, one way of framing, no folding, no chunk extensions, no trailers, targets
in origin form only. llhttp (httptools) splits the head; our own checks come before and after it, and both must agree.

It must not: know about sockets, time, routes or users; give out a second request before `resume()`; read anything after
a request that asks for an upgrade (`trailing()` gives those bytes back).

Sources: RFC 9112 (sections 2.2, 3.2, 6, 7.1, 9.6), RFC 9110 (sections 7.8, 10.1.1).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Literal, TypeVar

import httptools

from mooring.wire.headers import (
    MAX_HEAD,
    MAX_HEADERS,
    BadMessage,
    Headers,
    RequestHead,
    check_head,
    is_target,
    is_token,
)

METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"))
"""What is spoken here. CONNECT and TRACE have no meaning for this server and are refused with the unknown ones."""
UPGRADES: Final = frozenset((b"websocket", b"spdy/3.1"))
"""Protocols that a client may switch to; another one is ignored, as RFC 9110 section 7.8 allows."""
READ_AHEAD: Final = 64 * 1024
"""Bytes kept of what follows a request; the shell stops reading the socket at this mark (see `backlog`)."""

_REMEMBER_MAX: Final = 4 * 1024
"""Bytes of header lines that a connection remembers for the next request."""

_KEPT_LINE_MAX: Final = 512
"""Bytes of a request line that is kept for the next time."""

_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~\-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_DIGITS: Final = re.compile(rb"[0-9]{1,18}")
_CHUNK_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,15}")
_CHUNK_LINE_MAX: Final = 17  # 15 digits and CRLF

BodyKind = Literal["none", "length", "chunked"]
Notes = dict[Any, Any]
Found = TypeVar("Found")


@dataclass(slots=True)
class Request:
    """A request head and what follows it. `length` is in bytes and counts only when `body` is "length".

    `notes` is shared by the requests of a connection whose header lines are the same, byte for byte; see `once`.
    """

    head: RequestHead
    upgrade: bool
    expect_continue: bool
    keep_alive: bool
    body: BodyKind
    length: int
    notes: Notes = field(default_factory=dict)


def once(notes: Notes, find: Callable[[Headers], Found], headers: Headers) -> Found:
    """What `find` makes of these headers, worked out for the first of the requests that share the notes only.

    `find` must be a pure function of the headers: no identity, time or state may go into its answer.
    """
    found: Found | None = notes.get(find)
    if found is None:
        found = notes[find] = find(headers)
    return found


@dataclass(slots=True)
class Body:
    """Bytes of the body, already without chunk framing."""

    data: bytes


@dataclass(slots=True)
class End:
    """The request is complete."""


Event = Request | Body | End

_END: Final = End()


class RequestReader:
    """Feed bytes, get events. After `End` nothing more comes until `resume()`; after `BadMessage` nothing ever."""

    __slots__ = (
        "_buffer",
        "_decoder",
        "_head_max",
        "_headers_max",
        "_known",
        "_known_lines",
        "_left",
        "_parser",
        "_scanned",
        "_sink",
        "_state",
        "raw_head",
    )

    def __init__(self, *, head_max: int = MAX_HEAD, headers_max: int = MAX_HEADERS) -> None:
        self._head_max = head_max
        self._headers_max = headers_max
        self._buffer = b""
        self._scanned = 0
        self._left = 0
        self._state: Literal["head", "length", "chunked", "done", "raw", "dead"] = "head"
        self._decoder = ChunkedDecoder()
        self._sink = _Sink()
        self._parser: httptools.HttpRequestParser | None = None
        self._known_lines = b""
        self._known: Request | None = None
        self.raw_head = b""
        """The bytes of the last head as they came; only for handing a connection over to another parser."""

    @property
    def backlog(self) -> int:
        """Bytes that wait for `resume()` or `trailing()`."""
        return len(self._buffer) if self._state in ("done", "raw") else 0

    @property
    def begun(self) -> bool:
        """Whether bytes of a head that is not complete have arrived."""
        return self._state == "head" and bool(self._buffer)

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes from the peer. Raises BadMessage; the connection has to be closed then."""
        state = self._state
        known = self._known
        if state == "head" and known is not None and not self._buffer:
            # Clients send the same header lines with each request. What was read once, by both parsers, holds again
            # for the same bytes; only the request line is new.
            first = data.find(b"\r\n")
            if data[first:] == self._known_lines and len(data) <= self._head_max:
                return self._again(known, data, first)
        if state == "length" and not self._buffer:
            return self._read_length(data)
        self._buffer = self._buffer + data if self._buffer else data
        if state == "head":
            return self._read()
        if state == "chunked":
            return self._read_chunked()
        return []

    def resume(self) -> list[Event]:
        """Go on to the next request on the connection, which may be in the buffer already. Raises BadMessage."""
        if self._state != "done":
            raise ValueError(f"resume() in state {self._state}")
        self._state = "head"
        self._scanned = 0
        return self._read() if self._buffer else []

    def trailing(self) -> bytes:
        """Take the bytes that came after a request that asked for an upgrade."""
        data, self._buffer = self._buffer, b""
        return data

    # -- head ----------------------------------------------------------------------------------------------------------

    def _read(self) -> list[Event]:
        try:
            head = self._take_head()
            return [] if head is None else self._begin(head)
        except BadMessage:
            self._state = "dead"
            self._buffer = b""
            raise

    def _take_head(self) -> bytes | None:
        buffer = self._buffer
        # Only what is new is looked at, so that a head in single bytes costs no more than one in a piece.
        start = max(0, self._scanned - 3)
        end = buffer.find(b"\r\n\r\n", start)
        if end >= 0:
            self._buffer = buffer[end + 4 :]
            return buffer[: end + 4]
        if len(buffer) > self._head_max:
            raise BadMessage(431, f"the head is larger than {self._head_max} bytes")
        if buffer[0] in b"\r\n":
            raise BadMessage(400, "an empty line before the request")
        if start and buffer[start] == 10:
            start -= 1
        if buffer.count(b"\n", start) != buffer.count(b"\r\n", start):
            raise BadMessage(400, "bare LF in the head")
        self._scanned = len(buffer)
        return None

    def _begin(self, raw: bytes) -> list[Event]:
        first = raw.index(b"\r\n")
        known = self._known
        if known is not None and raw[first:] == self._known_lines and len(raw) <= self._head_max:
            return self._again(known, raw, first)
        return self._follow(raw, self._understood(raw, first))

    def _again(self, known: Request, raw: bytes, first: int) -> list[Event]:
        """Another request with the header lines of one that is known."""
        line = raw[:first]
        try:
            method, target = _kept_line(line) if first <= _KEPT_LINE_MAX else _request_line(line)
        except BadMessage:
            self._state = "dead"
            self._buffer = b""
            raise
        head = RequestHead(method, target, known.head.headers)
        request = Request(
            head, known.upgrade, known.expect_continue, known.keep_alive, known.body, known.length, known.notes
        )
        return self._follow(raw, request)

    def _follow(self, raw: bytes, request: Request) -> list[Event]:
        """The request, and what of its body is there."""
        self.raw_head = raw
        if request.upgrade:
            self._state = "raw"
            return [request]
        if request.body == "none":
            self._state = "done"
            return [request, _END]
        rest, self._buffer = self._buffer, b""
        events: list[Event] = [request]
        if request.body == "length":
            self._state = "length"
            self._left = request.length
            if rest:
                events += self._read_length(rest)
        else:
            self._state = "chunked"
            self._decoder = ChunkedDecoder()
            self._buffer = rest
            if rest:
                events += self._read_chunked()
        return events

    def _understood(self, raw: bytes, first: int) -> Request:
        check_head(raw, head_max=self._head_max)
        lines = raw.count(b"\r\n") - 2
        if lines > self._headers_max:
            raise BadMessage(431, f"more than {self._headers_max} headers")
        method, target = _request_line(raw[:first])
        headers = self._split(raw, target, lines)
        request = _understand(RequestHead(method, target, headers))
        if self._sink.complete is not (request.body == "none"):
            raise BadMessage(400, "ambiguous framing")
        if request.body != "none" or self._sink.upgraded:
            self._parser = None  # llhttp now expects a body or another protocol; the next head takes a new one
        if len(raw) - first <= _REMEMBER_MAX:
            self._known_lines, self._known = raw[first:], request
        return request

    def _split(self, raw: bytes, target: bytes, lines: int) -> Headers:
        sink = self._sink
        sink.clear()
        if self._parser is None:
            self._parser = httptools.HttpRequestParser(sink)
        try:
            self._parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            sink.upgraded = True
            sink.complete = not sink.framed
        except httptools.HttpParserError as error:
            self._parser = None
            raise BadMessage(400, f"malformed request: {error}") from None
        if len(sink.headers) != lines or sink.target != target:
            raise BadMessage(400, "malformed request: parsers disagree")
        return sink.headers

    # -- body ----------------------------------------------------------------------------------------------------------

    def _read_length(self, data: bytes) -> list[Event]:
        size = len(data)
        left = self._left
        if size < left:
            self._left = left - size
            return [Body(data)]
        self._left = 0
        self._state = "done"
        if size == left:
            return [Body(data), _END]
        self._buffer = data[left:]
        return [Body(data[:left]), _END]

    def _read_chunked(self) -> list[Event]:
        data, self._buffer = self._buffer, b""
        try:
            body, rest = self._decoder.feed(data)
        except BadMessage:
            self._state = "dead"
            raise
        events: list[Event] = [Body(body)] if body else []
        if rest is not None:
            self._state = "done"
            self._buffer = rest
            events.append(_END)
        return events


class ChunkedDecoder:
    """Chunk framing off (RFC 9112 section 7.1), without extensions and trailers, which no Kubernetes client sends."""

    __slots__ = ("_buffer", "_left", "_state")

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0
        self._state: Literal["size", "data", "crlf", "last"] = "size"

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """The body bytes in `data`, and the bytes after the last chunk, or None while it has not come.

        Raises BadMessage(400).
        """
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        parts: list[bytes] = []
        at = 0
        while True:
            if self._state == "data":
                part = data[at : at + self._left]
                if not part:
                    break
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                if self._left:
                    break
                self._state = "crlf"
            elif self._state == "size":
                end = data.find(b"\r\n", at, at + _CHUNK_LINE_MAX)
                if end < 0:
                    self._check_size_start(data[at : at + _CHUNK_LINE_MAX])
                    break
                if _CHUNK_SIZE.fullmatch(data, at, end) is None:
                    raise BadMessage(400, "malformed chunk size (chunk extensions are not taken)")
                self._left = int(data[at:end], 16)
                self._state = "data" if self._left else "last"
                at = end + 2
            else:  # the line end after a chunk's data, or the empty line that ends the body
                ending = data[at : at + 2]
                if ending != b"\r\n"[: len(ending)]:
                    what = "chunk data longer than its size" if self._state == "crlf" else "trailers are not taken"
                    raise BadMessage(400, what)
                if len(ending) < 2:
                    break
                at += 2
                if self._state == "last":
                    return b"".join(parts), data[at:]
                self._state = "size"
        self._buffer = data[at:]
        return b"".join(parts), None

    @staticmethod
    def _check_size_start(line: bytes) -> None:
        digits = line[:-1] if line.endswith(b"\r") else line
        if len(line) >= _CHUNK_LINE_MAX or (line and _CHUNK_SIZE.fullmatch(digits) is None):
            raise BadMessage(400, "malformed chunk size (chunk extensions are not taken)")


class _Sink:
    """What llhttp calls while it reads a head."""

    __slots__ = ("complete", "framed", "headers", "target", "upgraded")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.headers: Headers = []
        self.target = b""
        self.complete = False
        self.framed = False
        self.upgraded = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value.strip(b" \t")))

    def on_message_complete(self) -> None:
        self.complete = True


def _request_line(line: bytes) -> tuple[bytes, bytes]:
    parts = line.split(b" ")
    if len(parts) != 3 or not is_token(parts[0]) or not is_target(parts[1]):
        raise BadMessage(400, "malformed request line")
    method, target, version = parts
    if version != b"HTTP/1.1":
        if re.fullmatch(rb"HTTP/[0-9]\.[0-9]", version) is None:
            raise BadMessage(400, "malformed request line")
        raise BadMessage(505, "only HTTP/1.1 is spoken here")
    if method not in METHODS:
        raise BadMessage(501, "this method is not spoken here")
    if not target.startswith(b"/"):
        raise BadMessage(400, "the request target must be a path (origin form)")
    if b"#" in target:
        raise BadMessage(400, "the request target must not hold a fragment")
    return method, target


_kept_line: Final = lru_cache(maxsize=2048)(_request_line)


def _understand(head: RequestHead) -> Request:
    """One pass over the headers that change how the message is read."""
    hosts: list[bytes] = []
    lengths: list[bytes] = []
    codings: list[bytes] = []
    upgrades: list[bytes] = []
    expects: list[bytes] = []
    options: set[bytes] = set()
    for name, value in head.headers:
        bucket = None
        match len(name):  # most headers are told apart by their length alone, without a copy in lower case
            case 4 if name.lower() == b"host":
                bucket = hosts
            case 6 if name.lower() == b"expect":
                bucket = expects
            case 7 if name.lower() == b"upgrade":
                bucket = upgrades
            case 10 if name.lower() == b"connection":
                options.update(option.strip(b" \t").lower() for option in value.split(b","))
            case 14 if name.lower() == b"content-length":
                bucket = lengths
            case 17 if name.lower() == b"transfer-encoding":
                bucket = codings
        if bucket is not None:
            bucket.append(value)
    if len(hosts) != 1 or _HOST.fullmatch(hosts[0]) is None:
        raise BadMessage(400, "exactly one valid Host header is needed")
    body, length = _framing(lengths, codings)
    if expects and (len(expects) > 1 or expects[0].lower() != b"100-continue"):
        raise BadMessage(417, "the only expectation met here is 100-continue")
    asks = bool(upgrades) and b"upgrade" in options  # of whatever protocol: other readers go by that
    if asks and body != "none":
        raise BadMessage(400, "a request that asks for an upgrade must not have a body")
    return Request(
        head,
        upgrade=asks and len(upgrades) == 1 and upgrades[0].lower() in UPGRADES,
        expect_continue=bool(expects) and body != "none",
        keep_alive=b"close" not in options,
        body=body,
        length=length,
    )


def _framing(lengths: list[bytes], codings: list[bytes]) -> tuple[BodyKind, int]:
    if not lengths and not codings:
        return "none", 0
    if lengths and codings:
        raise BadMessage(400, "Content-Length and Transfer-Encoding together")
    if codings:
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise BadMessage(501, "the only transfer coding spoken here is chunked, given once")
        return "chunked", 0
    if len(lengths) > 1:
        raise BadMessage(400, "repeated Content-Length")
    if _DIGITS.fullmatch(lengths[0]) is None:
        raise BadMessage(400, "malformed Content-Length")
    length = int(lengths[0])
    return ("length", length) if length else ("none", 0)
