# SPDX-License-Identifier: Apache-2.0
"""One HTTP/1.1 response as bytes: framing chosen by rule, and kept to.

Why: what a client reads after our response depends on its length being right. The writer decides how the body is framed
(RFC 9112 section 6), adds the headers that speak of the connection, and refuses bytes that do not fit what it promised.

It must not: touch other headers, or know about sockets. It expects heads without hop-by-hop headers.
"""

from __future__ import annotations

from typing import Final, Literal

from mooring.wire.headers import LENGTH, Headers, ResponseHead, role, serialize_response
from mooring.wire.plainhead import PlainHead

BODILESS: Final = frozenset((204, 304))
"""Statuses whose responses never have a body (RFC 9110 section 6.4.1)."""


class FramingError(Exception):
    """The other side of the exchange broke the promise of its own head: too much, too little, or a bad length."""


class ResponseWriter:
    """Turns a head, data and an end into bytes. One writer writes one response."""

    __slots__ = ("_kind", "_left", "_method", "has_body", "keep_alive")

    def __init__(self, method: bytes, *, keep_alive: bool) -> None:
        self._method = method
        self.has_body = method != b"HEAD"
        """Whether a response may have one."""
        self._kind: Literal["none", "length", "chunked", "drop"] = "none"
        self._left = 0
        self.keep_alive = keep_alive
        """Whether the connection goes on after this response; may be set to False until `head` was called."""

    def head(self, head: ResponseHead, *, fin: bool = False) -> bytes:
        """The bytes of the head. `fin`: no data will come. Raises FramingError for a Content-Length that is not one."""
        headers: Headers = list(head.headers)
        self._left = 0  # an earlier head may have been refused half-way
        lengths = [value for name, value in headers if role(name) == LENGTH]
        if len(lengths) > 1 or (lengths and not (lengths[0].isdigit() and len(lengths[0]) <= 18)):
            raise FramingError("bad Content-Length in the response")
        if head.status in BODILESS or self._method == b"HEAD":
            # A body that comes all the same is not for this response; the length in the head speaks of a GET's.
            self._kind = "drop"
            if head.status == 204:
                headers = [pair for pair in headers if role(pair[0]) != LENGTH]
        elif lengths:
            self._kind = "length"
            self._left = int(lengths[0])
            if fin and self._left:
                raise FramingError("the response ended before its Content-Length")
        elif fin:
            headers.append((b"Content-Length", b"0"))
        else:
            self._kind = "chunked"
            headers.append((b"Transfer-Encoding", b"chunked"))
        if not self.keep_alive:
            headers.append((b"Connection", b"close"))
        return serialize_response(ResponseHead(head.status, head.reason, headers))

    def plain(self, head: PlainHead, lines: bytes, *, fin: bool = False) -> bytes:
        """As `head`, for a head that can be passed on as it came; `lines`: header lines of ours, with their ends."""
        if self._method == b"HEAD":
            raise ValueError("a response to HEAD has a length, and no body")
        self._kind = "length"
        self._left = head.length
        if fin and self._left:
            raise FramingError("the response ended before its Content-Length")
        return head.raw[:-2] + lines + (b"\r\n" if self.keep_alive else b"Connection: close\r\n\r\n")

    def data(self, data: bytes) -> bytes:
        """The bytes for a piece of the body. Raises FramingError for more than the head promised."""
        kind = self._kind
        if kind == "chunked":
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        if kind == "drop":
            return b""
        self._left -= len(data)
        if self._left < 0:
            raise FramingError("the response is longer than its Content-Length")
        return data

    def end(self) -> bytes:
        """The bytes that end the body. Raises FramingError for less than the head promised."""
        if self._left:
            raise FramingError("the response ended before its Content-Length")
        return b"0\r\n\r\n" if self._kind == "chunked" else b""


def switching(head: ResponseHead) -> bytes:
    """The head of a 101, to which the caller has added `Connection` and `Upgrade`."""
    return serialize_response(head)
