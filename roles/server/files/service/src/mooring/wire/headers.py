# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 message heads as plain data: parse strictly, serialise safely.

Why: every hop (edge, tunnel, agent) rebuilds the head of a message instead of relaying the bytes of the one before,
so that what one parser read is what the next one gets. This module turns bytes into a head and back.

It must not: accept what two parsers could read in two ways (RFC 9112 section 11.2, request smuggling), know about
sockets or time, or decide who may do what. Names stay as they were received; comparisons are in lower case.
"""

from __future__ import annotations

import re
from typing import Final

Headers = list[tuple[bytes, bytes]]

MAX_HEAD: Final = 64 * 1024
"""Bytes in a head: first line, headers and the empty line."""
MAX_HEADERS: Final = 256
"""Header lines in a head."""

HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers that speak of one connection only (RFC 9110 section 7.6.1; `Keep-Alive`, `Proxy-Connection` are older)."""

PLAIN: Final = 0
LENGTH: Final = 1
CODING: Final = 2
CONNECTION: Final = 3
HOP: Final = 4
"""What a header is to the message that it is part of (see `role`)."""
_NEVER_NAMED: Final = frozenset((b"content-length", b"host"))
_ROLES: Final = {b"content-length": LENGTH, b"transfer-encoding": CODING, b"connection": CONNECTION}
_CACHE_MAX: Final = 1024
_CACHED_NAME_MAX: Final = 64
_roles: Final[dict[bytes, int]] = {}

# Sets of allowed bytes; `data.translate(None, SET)` deletes them at C speed and leaves what is not allowed.
_TOKEN_BYTES: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TARGET_BYTES: Final = bytes(range(0x21, 0x7F))
_VALUE_BYTES: Final = b"\t " + _TARGET_BYTES + bytes(range(0x80, 0x100))
_HEAD_BYTES: Final = _VALUE_BYTES + b"\r\n"
_DOT_SEGMENT: Final = re.compile(rb"/\.\.?(?:/|$)")
_HEADER_LINE: Final = re.compile(rb"^([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)\r$", re.MULTILINE)
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?")


class BadMessage(Exception):
    """The peer sent what HTTP/1.1 does not allow, or more than our bounds.

    `status` is what a server answers before it closes the connection (400, 417, 431, 501, 505); `reason` is for people.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason


# Heads are written out instead of made dataclasses, whose constructors stay Python in a compiled build: each hop makes
# one for each message.
class RequestHead:
    """First line and headers of a request; the version is always HTTP/1.1."""

    __slots__ = ("headers", "method", "target")

    def __init__(self, method: bytes, target: bytes, headers: Headers) -> None:
        self.method = method
        self.target = target
        self.headers = headers

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RequestHead):
            return NotImplemented
        return (self.method, self.target, self.headers) == (other.method, other.target, other.headers)

    def __repr__(self) -> str:
        return f"RequestHead({self.method!r}, {self.target!r}, {self.headers!r})"


class ResponseHead:
    """First line and headers of a response; the version is always HTTP/1.1."""

    __slots__ = ("headers", "reason", "status")

    def __init__(self, status: int, reason: bytes, headers: Headers) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ResponseHead):
            return NotImplemented
        return (self.status, self.reason, self.headers) == (other.status, other.reason, other.headers)

    def __repr__(self) -> str:
        return f"ResponseHead({self.status!r}, {self.reason!r}, {self.headers!r})"


def is_token(name: bytes) -> bool:
    """Whether `name` can be a method or a header name (RFC 9110 section 5.6.2)."""
    return bool(name) and not name.translate(None, _TOKEN_BYTES)


def is_value(value: bytes) -> bool:
    """Whether `value` can be a header value: no control character but tab, no space at its ends (RFC 9110 5.5)."""
    return not value.translate(None, _VALUE_BYTES) and value == value.strip(b" \t")


def is_target(target: bytes) -> bool:
    """Whether `target` is visible ASCII only, as a request target must be (RFC 9112 3.2, RFC 3986 2)."""
    return bool(target) and not target.translate(None, _TARGET_BYTES)


def has_dot_segments(target: bytes) -> bool:
    """Whether a path segment of `target` is `.` or `..`, also when written with `%2e` (RFC 3986 section 5.2.4)."""
    path = target.split(b"?", 1)[0]
    if b"%2" in path:
        path = path.replace(b"%2e", b".").replace(b"%2E", b".")
    return b"/." in path and _DOT_SEGMENT.search(path) is not None


def get(headers: Headers, name: bytes) -> bytes | None:
    """The first value of `name` (any case), or None."""
    name = name.lower()
    for key, value in headers:
        if key.lower() == name:
            return value
    return None


def get_all(headers: Headers, name: bytes) -> list[bytes]:
    """All values of `name` (any case) in their order."""
    name = name.lower()
    return [value for key, value in headers if key.lower() == name]


def role(name: bytes) -> int:
    """Whether a header of this name (any case) is the length, the coding, the connection's, another hop-by-hop one, or
    PLAIN. Spellings are kept, up to a bound, so that a pass over a head costs one look-up per header."""
    known = _roles.get(name)
    if known is None:
        plain = name.lower()
        known = _ROLES.get(plain, HOP if plain in HOP_BY_HOP else PLAIN)
        if len(_roles) < _CACHE_MAX and len(name) <= _CACHED_NAME_MAX:
            _roles[name] = known
    return known


def connection_tokens(headers: Headers) -> set[bytes]:
    """The options of every `Connection` header, in lower case."""
    tokens: set[bytes] = set()
    for key, value in headers:
        if len(key) == 10 and role(key) == CONNECTION:
            tokens.update(token.strip(b" \t").lower() for token in value.split(b","))
    tokens.discard(b"")
    return tokens


def strip_hop_by_hop(headers: Headers) -> Headers:
    """The headers that may travel on: without the hop-by-hop ones and without those that `Connection` names.

    `Content-Length` and `Host` are kept also when named in `Connection`: a peer must not be able to take the framing or
    the address off a message by naming them.
    """
    kept = [pair for pair in headers if role(pair[0]) <= LENGTH]
    named = connection_tokens(headers)
    if named:
        drop = named - _NEVER_NAMED
        kept = [pair for pair in kept if pair[0].lower() not in drop]
    return kept


def serialize_request(head: RequestHead, ready: bytes = b"") -> bytes:
    """The head as bytes, with the empty line. `ready`: more header lines, from `header_lines`.

    Raises ValueError when a part holds a line break or another control character: that is our bug, never sent.
    """
    return _lines(b"%b %b HTTP/1.1\r\n" % (head.method, head.target), head.headers) + ready + b"\r\n"


def serialize_response(head: ResponseHead) -> bytes:
    """The head as bytes, with the empty line. Raises ValueError as `serialize_request` does."""
    return _lines(b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason), head.headers) + b"\r\n"


def header_lines(headers: Headers) -> bytes:
    """The headers as bytes, each line with its end. Raises ValueError as `serialize_request` does."""
    return _lines(b"", headers)


def _lines(first: bytes, headers: Headers) -> bytes:
    data = first + b"".join([b"%b: %b\r\n" % pair for pair in headers])
    # One look over the whole head instead of one per value: as many line ends as we wrote, and no control characters.
    breaks = len(headers) + (1 if first else 0)
    if data.count(b"\n") != breaks or data.count(b"\r") != breaks or data.translate(None, _HEAD_BYTES):
        raise ValueError("control character in a message head")
    return data


def parse_request_head(data: bytes) -> RequestHead:
    """A whole request head, empty line included. Raises BadMessage. HTTP/1.1 only."""
    first, headers = _parse(data)
    parts = first.split(b" ")
    if len(parts) != 3 or not is_token(parts[0]) or not is_target(parts[1]):
        raise BadMessage(400, "malformed request line")
    if parts[2] != b"HTTP/1.1":
        raise BadMessage(505, "only HTTP/1.1 is spoken here")
    return RequestHead(parts[0], parts[1], headers)


def parse_response_head(data: bytes) -> ResponseHead:
    """A whole response head, empty line included. Raises BadMessage (its status means nothing to the peer here)."""
    first, headers = _parse(data)
    match = _STATUS_LINE.fullmatch(first)
    if match is None:
        raise BadMessage(400, "malformed status line")
    return ResponseHead(int(match[1]), match[2] or b"", headers)


def check_head(data: bytes, *, head_max: int = MAX_HEAD) -> None:
    """The checks that need no splitting: size, line ends, folding, control characters.

    `data` is a whole head including the empty line. Raises BadMessage(431) when too large, else BadMessage(400).
    """
    if len(data) > head_max:
        raise BadMessage(431, f"the head is larger than {head_max} bytes")
    if not data.endswith(b"\r\n\r\n"):
        raise BadMessage(400, "the head does not end with an empty line")
    breaks = data.count(b"\r\n")
    if data.count(b"\n") != breaks or data.count(b"\r") != breaks:
        raise BadMessage(400, "bare CR or LF in the head")
    if data.translate(None, _HEAD_BYTES):
        raise BadMessage(400, "control character in the head")
    if b"\r\n " in data or b"\r\n\t" in data:
        raise BadMessage(400, "folded header line")


def _parse(data: bytes) -> tuple[bytes, Headers]:
    check_head(data)
    start = data.index(b"\r\n")
    lines = data.count(b"\r\n", start + 2) - 1
    if lines > MAX_HEADERS:
        raise BadMessage(431, f"more than {MAX_HEADERS} headers")
    # All line ends are CRLF by now, so that as many matches as lines means that every line matched as a whole.
    headers: Headers = _HEADER_LINE.findall(data, start + 2)
    if len(headers) != lines:
        raise BadMessage(400, "malformed header line")
    if b" \r\n" in data or b"\t\r\n" in data:
        headers = [(name, value.rstrip(b" \t")) for name, value in headers]
    return data[:start], headers
