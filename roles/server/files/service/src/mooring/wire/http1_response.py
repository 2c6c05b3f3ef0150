# SPDX-License-Identifier: Apache-2.0
"""One HTTP/1.1 response as seen by a client, without any input or output: bytes in, events out.

Why: the agent reads what kube-apiserver answers, and the edge what the REST API answers, with the same code. The head
goes through the strict parser of `wire.headers`; counted and until-close bodies are passed on as they came; chunked
bodies are decoded by llhttp.

It must not: accept a response whose length two parsers could read in two ways (RFC 9112 section 6.3), hold more than
one head, or know about sockets or time. One reader reads one response: make a new one for the next.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import httptools

from mooring.wire.headers import (
    CODING,
    LENGTH,
    MAX_HEAD,
    BadMessage,
    ResponseHead,
    connection_tokens,
    parse_response_head,
    role,
)
from mooring.wire.plainhead import PlainHead, read_plain, without_keep_alive

BodyKind: TypeAlias = Literal["none", "length", "chunked", "close", "raw"]
"""How the body ends: there is none, by Content-Length, by chunks, when the peer closes; `raw` after a 101."""

MAX_INFORMATIONAL: Final = 16
"""1xx responses that may come before the final one; they are dropped."""
MAX_CHUNK_OVERHEAD: Final = 64 * 1024
"""Bytes of chunk framing, extensions and trailers between two pieces of body."""

LAST_CHUNK: Final = b"0\r\n\r\n"
"""What ends a chunked body without trailers."""

_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_LAST_BYTES: Final = 5  # the empty line that ends a message, the line end before it, and what stands before that


@dataclass(slots=True)
class Response:
    """The head has come. `length` is set only for `body == "length"`."""

    head: ResponseHead
    body: BodyKind
    length: int


@dataclass(slots=True)
class Body:
    """A piece of the decoded body, never empty."""

    data: bytes


@dataclass(slots=True)
class End:
    """The response is complete."""


class Whole:
    """A plain response that came to its end with its head: all of it, possibly with an empty body."""

    __slots__ = ("body", "head")

    def __init__(self, head: PlainHead, body: bytes) -> None:
        self.head = head
        self.body = body


Event: TypeAlias = Response | PlainHead | Body | End | Whole


def encode_chunk(data: bytes) -> bytes:
    """`data` as one chunk (RFC 9112 section 7.1); nothing for no data, since an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


class ResponseReader:
    """Reads the response to one request of the method `method`.

    `upgrade` says whether the request asked for one: a 101 that nobody asked for is an error. After a 101 there is no
    End; the bytes after the head are in `trailing()` and all later ones belong to the caller. `plain`: a head that can
    be passed on as it came is given out as a `PlainHead` in place of a `Response`, or as a `Whole` in place of all
    events when nothing is missing.
    """

    __slots__ = (
        "_chunks",
        "_head",
        "_informational",
        "_kind",
        "_left",
        "_method",
        "_persistent",
        "_plain",
        "_state",
        "_trailing",
        "_upgrade",
    )

    def __init__(self, method: bytes, *, upgrade: bool = False, plain: bool = False) -> None:
        self._method = method
        self._upgrade = upgrade
        self._plain = plain and method != b"HEAD"
        self._head = bytearray()
        self._state: Literal["head", "body", "raw", "done", "failed"] = "head"
        self._kind: BodyKind = "none"
        self._left = 0
        self._informational = 0
        self._chunks: _ChunkedDecoder | None = None
        self._trailing = b""
        self._persistent = False

    @property
    def started(self) -> bool:
        """Whether any byte of the response has come."""
        return self._state != "head" or bool(self._head) or self._informational > 0

    @property
    def answered(self) -> bool:
        """Whether the head of the final response has come."""
        return self._state != "head"

    @property
    def complete(self) -> bool:
        """Whether End, or a Whole, was given out."""
        return self._state == "done"

    @property
    def upgraded(self) -> bool:
        """Whether the answer was a 101."""
        return self._state == "raw"

    @property
    def keep_alive(self) -> bool:
        """Whether the connection can carry another request: complete, persistent, and nothing unasked for after it."""
        return self._state == "done" and self._persistent and not self._trailing

    def trailing(self) -> bytes:
        """Bytes that came after the end of this response (or after the head of a 101)."""
        return self._trailing

    def feed(self, data: bytes) -> list[Event]:
        """Takes the next bytes of the connection. Raises BadMessage; the reader is of no more use after that."""
        events: list[Event] = []
        try:
            while data and self._state == "head":
                data = self._feed_head(data, events)
            if data:
                self._feed_rest(data, events)
        except BadMessage:
            self._state = "failed"
            raise
        return events

    def eof(self) -> list[Event]:
        """The peer has closed. Raises BadMessage when the response was not complete."""
        if self._state == "body" and self._kind == "close":
            self._state = "done"
            return [End()]
        if self._state in ("done", "raw", "failed"):
            return []
        started = self.started
        self._state = "failed"
        raise BadMessage(502, "connection closed in the middle of a response" if started else "connection closed")

    def _feed_rest(self, data: bytes, events: list[Event]) -> None:
        if self._state == "body":
            self._feed_body(data, events)
        elif self._state == "failed":
            raise BadMessage(502, "the response was already refused")
        elif self._state == "done":
            # One byte is enough to know that the connection cannot be used again.
            self._trailing = self._trailing or data[:1]
        else:
            self._trailing += data

    def _feed_head(self, data: bytes, events: list[Event]) -> bytes:
        """Takes what belongs to the head; gives back the rest."""
        seen = len(self._head)
        if not seen:  # nearly always the whole head is there at once
            end = data.find(b"\r\n\r\n", 0, MAX_HEAD)
            if end >= 0:
                return self._begin(data[: end + 4], data[end + 4 :], events)
        self._head += data[: MAX_HEAD + 1 - seen]
        end = self._head.find(b"\r\n\r\n", max(0, seen - 3))
        if end < 0:
            if len(self._head) > MAX_HEAD:
                raise BadMessage(502, f"the response head is larger than {MAX_HEAD} bytes")
            # Its sender may have ended this head already, and would wait, as we would, until a deadline.
            if _BARE_LF.search(self._head, seen):
                raise BadMessage(502, "bad response: bare LF in the head")
            return b""
        raw = bytes(self._head[: end + 4])
        self._head.clear()
        return self._begin(raw, data[len(raw) - seen :], events)

    def _begin(self, raw: bytes, rest: bytes, events: list[Event]) -> bytes:
        """The head is there. Gives back what is left of the `rest` behind it."""
        if self._plain:
            plain = read_plain(without_keep_alive(raw))
            if plain is not None:
                self._persistent = True
                if len(rest) >= plain.length:
                    self._state = "done"
                    events.append(Whole(plain, rest[: plain.length]))
                    return rest[plain.length :]
                self._state, self._kind, self._left = "body", "length", plain.length
                events.append(plain)
                return rest
        try:
            head = parse_response_head(raw)
        except BadMessage as error:
            raise BadMessage(502, f"bad response: {error.reason}") from None
        http_1_0 = raw.startswith(b"HTTP/1.0")
        kind, left = self._framing(head, http_1_0)
        if head.status == 101:
            if not self._upgrade:
                raise BadMessage(502, "the server switched protocols without being asked")
            self._state, self._kind = "raw", "raw"
            events.append(Response(head, "raw", 0))
            return rest
        if head.status < 200:
            self._informational += 1
            if self._informational > MAX_INFORMATIONAL:
                raise BadMessage(502, "too many informational responses")
            return rest
        self._kind, self._left = kind, left
        # Keep-alive of HTTP/1.0 is by agreement of both sides, and by proxies' mistake (RFC 9112 appendix C.2.2).
        self._persistent = self._kind != "close" and not http_1_0 and b"close" not in connection_tokens(head.headers)
        events.append(Response(head, self._kind, self._left))
        if self._kind == "chunked":
            self._chunks = _ChunkedDecoder()
        if self._kind == "none" or (self._kind == "length" and self._left == 0):
            self._finish(events)
        else:
            self._state = "body"
        return rest

    def _framing(self, head: ResponseHead, http_1_0: bool) -> tuple[BodyKind, int]:
        """RFC 9112 section 6.3, with every doubtful case refused instead of repaired."""
        codings: list[bytes] = []
        lengths: list[bytes] = []
        for name, value in head.headers:
            what = role(name)
            if what == LENGTH:
                lengths.append(value)
            elif what == CODING:
                codings.append(value)
        status = head.status
        if codings and lengths:
            raise BadMessage(502, "bad response: both Transfer-Encoding and Content-Length")
        if len(lengths) > 1:
            raise BadMessage(502, "bad response: repeated Content-Length")
        if lengths and not (lengths[0].isdigit() and len(lengths[0]) <= 18):
            raise BadMessage(502, "bad response: malformed Content-Length")
        if codings and (http_1_0 or len(codings) > 1 or codings[0].lower() != b"chunked"):
            raise BadMessage(502, "bad response: unknown Transfer-Encoding")
        if codings and status < 200:
            raise BadMessage(502, "bad response: Transfer-Encoding in an informational response")
        if self._method == b"HEAD" or status < 200 or status in (204, 304):
            return "none", 0
        if codings:
            return "chunked", 0
        if lengths:
            return "length", int(lengths[0])
        return "close", 0

    def _feed_body(self, data: bytes, events: list[Event]) -> None:
        if self._kind == "close":
            events.append(Body(data))
        elif self._kind == "length":
            if len(data) > self._left:
                self._trailing = data[self._left : self._left + 1]
                data = data[: self._left]
            self._left -= len(data)
            events.append(Body(data))
            if self._left == 0:
                self._finish(events)
        else:
            assert self._chunks is not None
            events += [Body(piece) for piece in self._chunks.feed(data)]
            if self._chunks.complete:
                self._trailing = b"?" if self._chunks.excess else b""
                self._finish(events)

    def _finish(self, events: list[Event]) -> None:
        self._state = "done"
        self._chunks = None
        events.append(End())


class _ChunkedDecoder:
    """Decodes a chunked body with llhttp, which is given a head of ours first. Trailers are read and dropped, but for
    those that frame a message, which are refused (RFC 9110 section 6.5.1)."""

    # "close" makes llhttp report any byte after the end as an error instead of starting the next message.
    _HEAD = b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"

    def __init__(self) -> None:
        self.complete = False
        self.excess = False
        self._overhead = 0
        self._last = b""
        self._pieces: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)
        self._trailing = False  # whether headers that llhttp sees are trailers
        self._parser.feed_data(self._HEAD)
        self._trailing = True

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        self._pieces.append(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser; what is raised here is a HttpParserError of its own."""
        if self._trailing and role(name) in (LENGTH, CODING):
            raise ValueError("a trailer that frames")

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self.complete = True

    def feed(self, data: bytes) -> list[bytes]:
        """The pieces of body in `data`. Raises BadMessage."""
        self._last = (self._last + data[-_LAST_BYTES:])[-_LAST_BYTES:]
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if not self.complete:
                raise BadMessage(502, "bad response: malformed chunk") from None
            self.excess = True
        if self.complete and (not self._last.endswith(b"\r\n\r\n") or self._last[0] in b"\r\n"):
            self.excess = True  # llhttp passes over CR and LF after a message in silence, in any number and order
        pieces, self._pieces = self._pieces, []
        self._overhead = 0 if pieces else self._overhead + len(data)
        if self._overhead > MAX_CHUNK_OVERHEAD and not self.complete:
            raise BadMessage(502, "bad response: too much chunk framing")
        return pieces
