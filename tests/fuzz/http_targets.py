# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 against h11: what we take, h11 takes in the same way; what we refuse beyond h11, a rule explains.

Each target also cuts its input in two ways, since bytes arrive as the network likes, and sends what it read through our
own next hop, since two of our own readers must not disagree either.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

import h11
from mooring.wire import http1_request, http1_response
from mooring.wire.headers import (
    BadMessage,
    Headers,
    RequestHead,
    ResponseHead,
    parse_request_head,
    parse_response_head,
    serialize_request,
    serialize_response,
)
from mooring.wire.http1_request import ChunkedDecoder, Request, RequestReader
from mooring.wire.http1_response import Response, ResponseReader
from mooring.wire.http1_writer import FramingError, ResponseWriter

from fuzz.rules import HEAD_MAX, HEADERS_MAX, REQUEST, RESPONSE, Rule, Seen, explain
from fuzz.source import Source, pieces

MESSAGES = 4  # pipelined requests that are compared


class Disagreement(AssertionError):
    """Two readers of one message see different things, and no rule says why."""


@dataclass(slots=True)
class Read:
    """One request as our reader gave it out."""

    request: Request
    body: bytes = b""
    complete: bool = False


@dataclass(slots=True)
class Outcome:
    """What a reader made of an input: its messages, and why it stopped, if it did."""

    messages: list[Read] = field(default_factory=list)
    error: str = ""


# -- requests ----------------------------------------------------------------------------------------------------------


def read_requests(parts: list[bytes]) -> Outcome:
    """Our reader, as the edge drives it: on to the next request when one is complete."""
    reader = RequestReader(head_max=HEAD_MAX, headers_max=HEADERS_MAX)
    out = Outcome()
    try:
        for part in parts:
            events = reader.feed(part)
            while events:
                for event in events:
                    if isinstance(event, Request):
                        out.messages.append(Read(event))
                    elif isinstance(event, http1_request.Body):
                        out.messages[-1].body += event.data
                    else:
                        out.messages[-1].complete = True
                last = out.messages[-1]
                if not last.complete or not last.request.keep_alive or len(out.messages) >= MESSAGES:
                    break
                events = reader.resume()
    except BadMessage as error:
        out.error = error.reason
        assert error.status in (400, 417, 431, 501, 505)
    return out


class H11Requests:
    """h11 as a server: the requests of a connection, in as many parts as one likes."""

    def __init__(self) -> None:
        self.connection = _server()
        self.messages: list[Seen] = []
        self.seen = Seen(b"")
        self.refused = ""

    def twin(self) -> H11Requests:
        """Another one that has read the same."""
        new = copy.copy(self)
        new.connection = _twin(self.connection)
        new.messages = list(self.messages)
        new.seen = replace(self.seen)
        return new

    def feed(self, data: bytes) -> H11Requests:
        """Read on, up to MESSAGES requests, or to an error."""
        self.seen.raw += data
        self.seen.left = 0
        if self.refused or len(self.messages) >= MESSAGES:
            return self
        if data:
            self.connection.receive_data(data)
        try:
            while len(self.messages) < MESSAGES and self._next():
                pass
        except h11.RemoteProtocolError as error:
            self.refused = str(error) or "error"
        return self

    @property
    def all(self) -> list[Seen]:
        """Those that are complete, and what was read of the next one."""
        return [*self.messages, self.seen]

    def _next(self) -> bool:
        """One event. False: h11 waits."""
        connection, seen = self.connection, self.seen
        event = connection.next_event()
        if isinstance(event, h11.Request):
            seen.started = True
            seen.method, seen.target, seen.version = event.method, event.target, event.http_version
            seen.headers = list(event.headers)
        elif isinstance(event, h11.Data):
            seen.body += event.data
        elif isinstance(event, h11.EndOfMessage):
            seen.trailers = list(event.headers)
            seen.complete = True
            self.messages.append(seen)
            connection.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            rest = bytes(connection.trailing_data[0])
            self.seen = Seen(rest)
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                # h11 closes here (HTTP/1.0, Connection: close); we read on, so it has to begin again.
                self.connection = _server()
                if rest:
                    self.connection.receive_data(rest)
            else:
                connection.start_next_cycle()
        else:  # NEED_DATA or PAUSED
            seen.left = left_in_chunk(connection)
            return False
        return True


def _server() -> h11.Connection:
    return h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)


def _twin(connection: h11.Connection) -> h11.Connection:
    """A connection of h11 in the same state, for a tenth of what it costs to bring a new one there."""
    new = copy.copy(connection)
    new._cstate = copy.copy(connection._cstate)
    new._cstate.states = dict(connection._cstate.states)
    new._reader = copy.copy(connection._reader)
    new._receive_buffer = copy.copy(connection._receive_buffer)
    new._receive_buffer._data = bytearray(connection._receive_buffer._data)
    return new


def h11_requests(data: bytes) -> tuple[list[Seen], str]:
    """What h11 makes of the requests of a connection, and why it refused."""
    read = H11Requests().feed(data)
    return (read.messages if len(read.messages) >= MESSAGES else read.all), read.refused


def plain(headers: Headers) -> Headers:
    """Headers in the form in which h11 gives them."""
    out = []
    for name, value in headers:
        name = name.lower()
        out.append((name, value.lower() if name == b"transfer-encoding" else value))
    return out


def http1_requests(data: bytes) -> None:
    """Requests on one connection: RequestReader against h11, whole against cut, and against the agent's parser."""
    cuts, data = (data[0], data[1:]) if data else (0, b"")
    if not data:
        return
    ours = read_requests([data])
    if cuts:
        same_in_pieces(ours, read_requests(pieces(data, cuts)))
    read = H11Requests().feed(data)
    theirs, refused = read.all, read.refused
    for index, mine in enumerate(ours.messages):
        head = mine.request.head
        if index >= len(theirs) or not theirs[index].started:
            raise Disagreement(f"we take request {index}, h11 does not: {refused or 'incomplete'}")
        other = theirs[index]
        if (head.method, head.target, plain(head.headers)) != (other.method, other.target, other.headers):
            raise Disagreement(f"request {index} has another head in h11: {head} / {other}")
        next_hop(head)
        if mine.request.upgrade:
            return
        if mine.complete and not other.complete:
            raise Disagreement(f"request {index} is complete for us, not for h11 {refused}")
        if mine.body != other.body and not (ours.error and mine is ours.messages[-1]):
            raise Disagreement(f"request {index} has another body in h11: {mine.body!r} / {other.body!r}")
    done = sum(message.complete for message in ours.messages)
    if done >= MESSAGES or (done and not ours.messages[done - 1].request.keep_alive):
        return
    if ours.error:
        if not (refused and done >= len(theirs) - 1):
            missing = unexplained(REQUEST, ours.error, lambda more: read.twin().feed(more).all[done:][:1])
            if missing is not None:
                raise Disagreement(
                    f"we refuse request {done} ({ours.error}), h11 does not (+{missing!r}), and no rule says why"
                )
    elif done < len(theirs) and theirs[done].complete:
        raise Disagreement(f"we wait for more of request {done}, h11 has it complete")


def unexplained(rules: tuple[Rule, ...], reason: str, read: Callable[[bytes], list[Seen]]) -> bytes | None:
    """What is to be added so that h11 takes it whole, while no rule says why we refused it; else None.

    We often refuse before h11 has all that it waits for. What counts is whether it could have gone on to be whole:
    `read` says what h11 makes of the input with something added.
    """
    begun = read(b"")
    if begun:
        rule = explain(rules, reason, begun[0])
        if begun[0].complete:
            return None if rule else b""
        if rule is not None and rule.stays:
            return None
    left = begun[0].left if begun else 0
    for ending in ENDINGS:
        suffix = b"a" * left + ending
        whole = read(suffix)
        if whole and whole[0].complete and explain(rules, reason, whole[0]) is None:
            return suffix
    return None


ENDINGS = (
    b"", b"\n", b"\r\n", b"\n\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"\r\n0\r\n\r\n", b"\n0\r\n\r\n", b": a\r\n\r\n",
    b"\r\nHost: a\r\n\r\n", b" / HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\na\r\n0\r\n\r\n",
)  # fmt: skip


def left_in_chunk(connection: h11.Connection) -> int:
    """How many bytes h11 still wants of a chunk, or of a counted body; 0 when they are too many to be given."""
    reader = connection._reader
    left: int = getattr(reader, "_bytes_in_chunk", 0) or getattr(reader, "_remaining", 0)
    return left if left < 5000 else 0


def same_in_pieces(whole: Outcome, cut: Outcome) -> None:
    if bool(whole.error) != bool(cut.error):
        raise Disagreement(f"cut in pieces, it ends otherwise: {whole.error!r} / {cut.error!r}")
    mine = [m for m in whole.messages if m.complete]
    other = [m for m in cut.messages if m.complete]
    if [(m.request, m.body) for m in mine] != [(m.request, m.body) for m in other]:
        raise Disagreement("cut in pieces, it reads otherwise")


def next_hop(head: RequestHead) -> None:
    """What one of our readers gave out, written and read by the next one, is the same."""
    again = parse_request_head(serialize_request(head))
    if again != head:
        raise Disagreement(f"the agent would read {again}, the edge read {head}")


def chunks(data: bytes) -> None:
    """Chunk framing alone, both of our decoders against h11, whole and cut."""
    cuts, data = (data[0], data[1:]) if data else (0, b"")
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    http1_requests(bytes([cuts]) + head + data)
    http1_responses(bytes([0, cuts, 0]) + b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    body, done, bad = b"", False, False
    decoder = ChunkedDecoder()
    for part in pieces(data, cuts):
        try:
            got, rest = decoder.feed(part)
        except BadMessage:
            bad = True
            break
        body += got
        if rest is not None:
            done = True
            break
    if done and not bad:
        framed = b"".join(http1_response.encode_chunk(body[at : at + 7]) for at in range(0, len(body), 7))
        got, rest = ChunkedDecoder().feed(framed + http1_response.LAST_CHUNK)
        if (got, rest) != (body, b""):
            raise Disagreement("a body does not survive our own chunk framing")


# -- responses ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Answer:
    """One response as our reader gave it out."""

    head: ResponseHead | None = None
    kind: str = ""
    body: bytes = b""
    complete: bool = False
    reusable: bool = False
    error: str = ""
    trailing: bytes = b""


def read_response(method: bytes, upgrade: bool, parts: list[bytes], closed: bool) -> Answer:
    reader = ResponseReader(method, upgrade=upgrade)
    out = Answer()
    try:
        for part in parts:
            _collect(out, reader.feed(part))
        if closed:
            _collect(out, reader.eof())
    except BadMessage as error:
        out.error = error.reason
        assert error.status == 502
    out.reusable = reader.keep_alive
    out.trailing = reader.trailing()
    return out


def _collect(out: Answer, events: list[http1_response.Event]) -> None:
    for event in events:
        assert not out.complete
        if isinstance(event, Response):
            assert out.head is None
            out.head, out.kind = event.head, event.body
        elif isinstance(event, http1_response.Body):
            assert event.data
            out.body += event.data
        else:
            out.complete = True


@lru_cache
def _asked(method: bytes, upgrade: bool) -> h11.Connection:
    """A client's connection of h11 that has sent its request; to be copied."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    asked = [("Host", "a")] + ([("Connection", "upgrade"), ("Upgrade", "websocket")] if upgrade else [])
    connection.send(h11.Request(method=method, target="/", headers=asked))
    connection.send(h11.EndOfMessage())
    return connection


class H11Response:
    """h11 as a client: what it read, why it refused, whether it would use its connection again, what it left over."""

    def __init__(self, method: bytes, upgrade: bool) -> None:
        self.connection = _twin(_asked(method, upgrade))
        self.seen = Seen(b"")
        self.refused = ""
        self.reusable = False
        self.rest = b""

    def twin(self) -> H11Response:
        """Another one that has read the same."""
        new = copy.copy(self)
        new.connection = _twin(self.connection)
        new.seen = replace(self.seen)
        return new

    def feed(self, data: bytes, closed: bool = False) -> H11Response:
        """Read on; `closed`: nothing comes after it."""
        self.seen.raw += data
        self.seen.left = 0
        if self.refused:
            return self
        connection = self.connection
        if data:
            connection.receive_data(data)
            if closed:
                connection.receive_data(b"")
        try:
            while not self.seen.complete and self._next():
                pass
        except h11.RemoteProtocolError as error:
            self.refused = str(error) or "error"
        if self.refused:
            self.rest, self.reusable = b"", False
            return self
        self.rest = bytes(connection.trailing_data[0])
        self.reusable = connection.their_state is h11.DONE and connection.our_state is h11.DONE and not self.rest
        return self

    def _next(self) -> bool:
        """One event. False: h11 waits, or has handed over."""
        seen = self.seen
        event = self.connection.next_event()
        if isinstance(event, h11.InformationalResponse):
            if event.status_code == 101:
                seen.started, seen.status, seen.headers = True, 101, list(event.headers)
                seen.version = event.http_version
                return False
            seen.informational += 1
        elif isinstance(event, h11.Response):
            seen.started, seen.status, seen.version = True, event.status_code, event.http_version
            seen.headers = list(event.headers)
        elif isinstance(event, h11.Data):
            seen.body += event.data
        elif isinstance(event, h11.EndOfMessage):
            seen.trailers = list(event.headers)
            seen.complete = True
        elif isinstance(event, h11.ConnectionClosed):
            self.refused = "closed"
            return False
        else:
            seen.left = left_in_chunk(self.connection)
            return False
        return True


def h11_response(method: bytes, upgrade: bool, data: bytes, closed: bool) -> tuple[Seen, str, bool, bytes]:
    """What h11 read, why it refused, whether its connection could be used again, and what it left over."""
    read = H11Response(method, upgrade).feed(data, closed)
    return read.seen, read.refused, read.reusable, read.rest


METHODS = (b"GET", b"HEAD", b"POST")


def http1_responses(data: bytes) -> None:
    """One response: ResponseReader against h11, whole against cut, closed or not, and against the server's parser."""
    source = Source(data)
    mode, cuts, how = source.byte(), source.byte(), source.byte()
    method, upgrade, closed = METHODS[mode % 3], bool(how & 1), bool(how & 2)
    raw = source.rest()
    if not raw:
        return
    mine = read_response(method, upgrade, [raw], closed)
    if cuts:
        cut = read_response(method, upgrade, pieces(raw, cuts), closed)
        same = (mine.error != "") == (cut.error != "") and mine.complete == cut.complete
        if not mine.error:
            same = same and (mine.head, mine.body, mine.reusable) == (cut.head, cut.body, cut.reusable)
        if not same:
            raise Disagreement(f"cut in pieces, it reads otherwise: {mine} / {cut}")
    read = H11Response(method, upgrade).feed(raw, closed)
    other, refused = read.seen, read.refused
    if mine.head is not None:
        _same_response(mine, other, refused, read.reusable, read.rest)
    if mine.error and not refused:
        begun = H11Response(method, upgrade).feed(raw) if closed else read
        missing = unexplained(RESPONSE, mine.error, lambda more: [begun.twin().feed(more).seen])
        if missing is not None:
            raise Disagreement(
                f"we refuse the response ({mine.error}), h11 does not (+{missing!r}), and no rule says why"
            )
    elif not mine.error and other.complete and not mine.complete and mine.kind != "raw":
        raise Disagreement("we wait for more of the response, h11 has it complete")


def _same_response(mine: Answer, other: Seen, refused: str, reusable: bool, rest: bytes) -> None:
    head = mine.head
    assert head is not None
    if not other.started:
        raise Disagreement(f"we take the response, h11 does not: {refused or 'incomplete'}")
    if head.status != other.status or plain(head.headers) != other.headers:
        raise Disagreement(f"the response has another head in h11: {head} / {other}")
    if parse_response_head(serialize_response(head)) != head:
        raise Disagreement(f"the server would read another head than {head}")
    if mine.kind == "raw":
        if mine.trailing != rest:
            raise Disagreement("after the 101 h11 leaves other bytes over")
        return
    if mine.complete and not other.complete:
        raise Disagreement(f"the response is complete for us, not for h11 ({refused})")
    if not mine.error and mine.body != other.body:
        raise Disagreement(f"the response has another body in h11: {mine.body!r} / {other.body!r}")
    if mine.reusable and not reusable:
        raise Disagreement("we would use the connection again, h11 would not")


# -- our writer --------------------------------------------------------------------------------------------------------


def http1_writer(data: bytes) -> None:
    """What ResponseWriter writes for any head and body, both readers read back as it was meant."""
    source = Source(data)
    method = source.one_of(METHODS)
    status = source.one_of((200, 201, 204, 301, 304, 404, 500, 999))
    writer = ResponseWriter(method, keep_alive=source.flag())
    headers: Headers = []
    for _unused in range(source.number(0, 4)):
        name = source.one_of((b"Content-Length", b"X-A", b"Content-Type", b"ETag"))
        headers.append((name, source.take(source.number(0, 6))))
    body = [source.take(source.number(0, 9)) for _unused in range(source.number(0, 5))]
    try:
        out = writer.head(ResponseHead(status, b"R", headers), fin=not body)
        for piece in body:
            out += writer.data(piece)
        out += writer.end()
    except (FramingError, ValueError):
        return
    if any(value != value.strip(b" \t") for _unused, value in headers) or status == 999:
        return  # heads that our readers never give out
    want = b"" if method == b"HEAD" or status in (204, 304) else b"".join(body)
    mine = read_response(method, False, [out], closed=True)
    if mine.error or not mine.complete or mine.body != want:
        raise Disagreement(f"our reader reads {mine} where {want!r} was written")
    other, refused, _unused2, _unused3 = h11_response(method, False, out, closed=True)
    if refused or not other.complete or other.body != want:
        raise Disagreement(f"h11 reads {other} ({refused}) where {want!r} was written")
