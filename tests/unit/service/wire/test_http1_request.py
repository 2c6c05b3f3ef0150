# SPDX-License-Identifier: Apache-2.0
"""The request reader against h11, and against what attackers send.

Whatever the reader takes, h11 must read in the same way. What h11 takes and the reader does not is listed, with the
reason, in `STRICTER`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import h11
import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mooring.wire.headers import BadMessage, RequestHead
from mooring.wire.http1_request import READ_AHEAD, Body, ChunkedDecoder, End, Event, Request, RequestReader

Message = tuple[bytes, bytes, tuple[tuple[bytes, bytes], ...], bytes]


def ours(pieces: Iterable[bytes]) -> list[Message]:
    """The messages that the reader makes of the bytes, on one connection. Raises BadMessage."""
    reader = RequestReader()
    messages: list[Message] = []
    head: RequestHead | None = None
    body = b""

    def take(events: list[Event]) -> None:
        nonlocal head, body
        for event in events:
            if isinstance(event, Request):
                assert head is None, "a second request before the end of the first"
                head, body = event.head, b""
            elif isinstance(event, Body):
                assert event.data, "an empty piece of body"
                body += event.data
            else:
                assert head is not None
                messages.append((head.method, head.target, tuple((n.lower(), v) for n, v in head.headers), body))
                head = None
                take(reader.resume())

    for piece in pieces:
        take(reader.feed(piece))
    return messages


def theirs(data: bytes) -> list[Message]:
    """The same by h11, up to where it refuses."""
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    messages: list[Message] = []
    request: h11.Request | None = None
    body = b""
    server.receive_data(data)
    while True:
        try:
            event = server.next_event()
        except h11.RemoteProtocolError:
            return messages
        if event in (h11.NEED_DATA, h11.PAUSED):
            return messages
        if isinstance(event, h11.Request):
            request, body = event, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            headers = tuple((bytes(n), bytes(v)) for n, v in request.headers)
            messages.append((bytes(request.method), bytes(request.target), headers, body))
            server.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            server.send(h11.EndOfMessage())
            if server.our_state is h11.DONE and server.their_state is h11.DONE:
                server.start_next_cycle()


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


NAMES = st.sampled_from([b"Accept", b"X-A", b"x_b", b"Kubectl-Command", b"Authorization", b"Warning", b"Expires"])
VALUES = st.binary(max_size=20).filter(lambda v: not any(b == 127 or (b < 32 and b != 9) for b in v))
PATHS = st.text("abc/?=&%2f.-_~!:@", max_size=30).map(lambda text: b"/" + text.encode())


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request in the dialect that Kubernetes clients speak."""
    headers = [(b"Host", b"mooring.test:8443"), *draw(st.lists(st.tuples(NAMES, VALUES), max_size=5))]
    body = draw(st.binary(max_size=200))
    kind = draw(st.sampled_from(["none", "length", "chunked"]))
    method = draw(st.sampled_from([b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"]))
    rest = b""
    if kind == "length":
        headers.append((b"Content-Length", b"%d" % len(body)))
        rest = body
    elif kind == "chunked":
        headers.append((b"Transfer-Encoding", b"chunked"))
        for piece in cut(body, draw(st.lists(st.integers(0, 300), max_size=4))):
            rest += b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
        rest += b"0\r\n\r\n"
    lines = b"".join(b"%b:%b%b\r\n" % (n, draw(st.sampled_from([b"", b" ", b"\t "])), v) for n, v in headers)
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method, draw(PATHS), lines, rest)


@given(st.lists(requests(), min_size=1, max_size=4), st.lists(st.integers(0, 4000), max_size=12))
def test_valid_requests_are_read_as_h11_reads_them_however_they_are_cut(
    messages: list[bytes], places: list[int]
) -> None:
    data = b"".join(messages)
    whole = ours([data])
    assert len(whole) == len(messages)
    assert ours(cut(data, places)) == whole
    assert whole == theirs(data)


MUTATIONS = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.sampled_from(
            [
                *[b"\r", b"\n", b"\0", b" ", b"\t", b":", b"\r\n", b"\r\n ", b"\x7f", b"%", b"-", b"f", b","],
                *[b"chunked", b"0\r\n\r\n", b";x=1", b"\r\nContent-Length: 3", b"\r\nHost: b", b"HTTP/1.0"],
                b"\r\nTransfer-Encoding: chunked",
            ]
        ),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=200)
@given(requests(), MUTATIONS, st.lists(st.integers(0, 500), max_size=4))
def test_what_is_taken_of_damaged_requests_h11_reads_in_the_same_way(
    message: bytes, mutations: list[tuple[int, bytes, bool]], places: list[int]
) -> None:
    for place, what, replace in mutations:
        at = place % (len(message) + 1)
        message = message[:at] + what + message[at + (len(what) if replace else 0) :]
    try:
        read = ours([message])
    except BadMessage:
        with pytest.raises(BadMessage):
            ours([*cut(message, places), b"\r\n\r\n"])
        return
    assert ours(cut(message, places)) == read
    if read:
        assert theirs(message)[: len(read)] == read


def feed_all(feed: Callable[[bytes], object], pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        feed(piece)


def one(raw: bytes) -> Request:
    event = RequestReader().feed(raw)[0]
    assert isinstance(event, Request)
    return event


def head(*lines: str, first: str = "GET / HTTP/1.1", host: str | None = "Host: a") -> bytes:
    return "\r\n".join([first, *([host] if host else []), *lines, "", ""]).encode("latin-1")


SMUGGLING = {
    "two lengths that differ": (head("Content-Length: 1", "Content-Length: 2"), 400),
    "two lengths that agree": (head("Content-Length: 1", "Content-Length: 1"), 400),
    "two lengths in one line": (head("Content-Length: 1, 1"), 400),
    "length with a sign": (head("Content-Length: +1"), 400),
    "length in hexadecimal": (head("Content-Length: 0x1"), 400),
    "length with an underscore": (head("Content-Length: 1_0"), 400),
    "length in other digits": (head("Content-Length: \xb2"), 400),
    "length that is empty": (head("Content-Length: "), 400),
    "length beyond 64 bits": (head("Content-Length: 99999999999999999999"), 400),
    "length and coding": (head("Content-Length: 1", "Transfer-Encoding: chunked"), 400),
    "coding and length": (head("Transfer-Encoding: chunked", "Content-Length: 1"), 400),
    "coding twice": (head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), None),
    "coding list": (head("Transfer-Encoding: gzip, chunked"), None),
    "coding after chunked": (head("Transfer-Encoding: chunked, identity"), None),
    "coding identity": (head("Transfer-Encoding: identity"), None),
    "coding with a vertical tab": (head("Transfer-Encoding: \x0bchunked"), 400),
    "coding with a parameter": (head("Transfer-Encoding: chunked;a=b"), None),
    "space before the colon": (head("Content-Length : 1"), 400),
    "name with a space": (head("Content Length: 1"), 400),
    "folded value": (head("X: a", " b"), 400),
    "folded first header": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "bare LF between headers": (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
    "bare LF at the end": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    "bare CR in a value": (head("X: a\rb"), 400),
    "NUL in a value": (head("X: a\0b"), 400),
    "DEL in a value": (head("X: a\x7fb"), 400),
    "no Host": (head(host=None), 400),
    "two Hosts": (head("Host: b"), 400),
    "Host that is empty": (head(host="Host: "), 400),
    "Host with a path": (head(host="Host: a/b"), 400),
    "Host with a user": (head(host="Host: a@b"), 400),
    "Host list": (head(host="Host: a, b"), 400),
    "absolute form": (head(first="GET http://a/ HTTP/1.1"), 400),
    "absolute form, own scheme": (head(first="GET mooring:/k8s HTTP/1.1"), 400),
    "authority form": (head(first="GET a:443 HTTP/1.1"), 400),
    "asterisk form": (head(first="OPTIONS * HTTP/1.1"), 400),
    "fragment": (head(first="GET /a#b HTTP/1.1"), 400),
    "target not ASCII": (head(first="GET /\xe4 HTTP/1.1"), 400),
    "two spaces": (head(first="GET  / HTTP/1.1"), 400),
    "tab for a space": (head(first="GET\t/ HTTP/1.1"), 400),
    "no version": (head(first="GET /"), 400),
    "CONNECT": (head(first="CONNECT a:1 HTTP/1.1"), 501),
    "TRACE": (head(first="TRACE / HTTP/1.1"), 501),
    "method in lower case": (head(first="get / HTTP/1.1"), 501),
    "empty line before the request": (b"\r\n" + head(), 400),
    "HTTP/1.0": (head(first="GET / HTTP/1.0"), 505),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "unknown expectation": (head("Expect: 200-ok"), 417),
    "body on an upgrade": (head("Connection: upgrade", "Upgrade: websocket", "Content-Length: 1"), 400),
    "257 headers": (head(*["X: y"] * 256), 431),
    "head over 64 KiB": (head("X: " + "y" * 65536), 431),
}


@pytest.mark.parametrize("name", SMUGGLING)
def test_smuggling_table(name: str) -> None:
    raw, status = SMUGGLING[name]
    single = [raw[i : i + 1] for i in range(len(raw))] if len(raw) < 2000 else cut(raw, [7, 1000, 60000])
    for pieces in ([raw], single):
        reader = RequestReader()
        with pytest.raises(BadMessage) as refused:
            feed_all(reader.feed, pieces)
        # llhttp refuses some codings before our own check gives them their own status.
        assert refused.value.status == status if status else refused.value.status in (400, 501)
        assert refused.value.reason


class Lenient:
    """In the place of llhttp: takes anything."""

    def __init__(self, sink: Any) -> None:
        self.sink = sink

    def feed_data(self, raw: bytes) -> None:
        first, *lines = raw[:-4].split(b"\r\n")
        pairs = [line.partition(b":")[::2] for line in lines]
        self.sink.on_url(b"".join(first.split(b" ")[1:2]))
        for name, value in pairs:
            self.sink.on_header(name, value)
        framing = {name.lower(): value.strip() for name, value in pairs}
        if b"transfer-encoding" not in framing and framing.get(b"content-length", b"0") == b"0":
            self.sink.on_message_complete()


NAMES_ARE_LLHTTPS = {"space before the colon", "name with a space"}


@pytest.mark.parametrize("name", sorted(set(SMUGGLING) - NAMES_ARE_LLHTTPS))
def test_our_own_checks_refuse_it_also_beside_a_parser_that_takes_anything(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llhttp refuses most of it too: neither of the two is there because the other one is not."""
    monkeypatch.setattr(httptools, "HttpRequestParser", Lenient)
    assert one(head("X: y")).head.headers == [(b"Host", b"a"), (b"X", b"y")]
    with pytest.raises(BadMessage):
        RequestReader().feed(SMUGGLING[name][0])


@pytest.mark.parametrize("differs", ["header", "target"])
def test_what_two_parsers_read_differently_is_refused(differs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Lenient):
        def feed_data(self, raw: bytes) -> None:
            super().feed_data(raw)
            if differs == "header":
                self.sink.headers.pop()
            else:
                self.sink.target += b"/other"

    monkeypatch.setattr(httptools, "HttpRequestParser", Other)
    with pytest.raises(BadMessage, match="parsers disagree"):
        RequestReader().feed(head("X: y"))


@pytest.mark.parametrize("first", [b"\r\n", b"\n", b"\r"])
def test_an_empty_line_before_a_request_is_refused_at_once(first: bytes) -> None:
    with pytest.raises(BadMessage, match="an empty line before"):
        RequestReader().feed(first)


def test_endless_head_is_refused_before_it_ends() -> None:
    reader = RequestReader(head_max=1000)
    with pytest.raises(BadMessage) as refused:
        feed_all(reader.feed, [b"X: " + b"a" * 50] * 100)
    assert refused.value.status == 431


CHUNK_ATTACKS = {
    "extension": b"1;a=b\r\nx\r\n0\r\n\r\n",
    "extension that hides a line end": b"1;\n\r\nx\r\n0\r\n\r\n",
    "trailer": b"1\r\nx\r\n0\r\nX: y\r\n\r\n",
    "space after the size": b"1 \r\nx\r\n0\r\n\r\n",
    "sign": b"+1\r\nx\r\n0\r\n\r\n",
    "prefix": b"0x1\r\nx\r\n0\r\n\r\n",
    "underscore": b"1_0\r\nx\r\n0\r\n\r\n",
    "empty size": b"\r\nx\r\n0\r\n\r\n",
    "size of 17 digits": b"00000000000000001\r\nx\r\n0\r\n\r\n",
    "bare LF after the size": b"1\nx\r\n0\r\n\r\n",
    "bare LF after the data": b"1\r\nx\n0\r\n\r\n",
    "data longer than its size": b"1\r\nxy\r\n0\r\n\r\n",
    "bare LF at the end": b"1\r\nx\r\n0\r\n\n",
    "bare CR after the size": b"1\rx\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", CHUNK_ATTACKS)
def test_chunk_framing_is_strict(name: str) -> None:
    raw = CHUNK_ATTACKS[name]
    for pieces in ([raw], [raw[i : i + 1] for i in range(len(raw))]):
        decoder = ChunkedDecoder()
        with pytest.raises(BadMessage) as refused:
            feed_all(decoder.feed, pieces)
        assert refused.value.status == 400


# What h11 takes and we refuse, with the reason. Kubernetes clients send none of it.
STRICTER = {
    "chunk extensions: no use, and parsers differ on their line ends": (
        head("Transfer-Encoding: chunked") + b"1;a=b\r\nx\r\n0\r\n\r\n"
    ),
    "trailers: a header after the body was checked is a header unchecked": (
        head("Transfer-Encoding: chunked") + b"0\r\nX: y\r\n\r\n"
    ),
    "the same length twice: RFC 9112 lets a server refuse it": head("Content-Length: 0", "Content-Length: 0"),
    "a Host that names no host: routing by it would differ": head(host="Host: a b"),
    "folding: obsolete, a proxy must refuse or replace it": head("X: a", " b"),
    "absolute form: names a server that may not be us": head(first="GET http://b/ HTTP/1.1"),
    "unknown methods: none of ours": head(first="PURGE / HTTP/1.1"),
    "bare LF: RFC 9112 allows it for leniency only": b"GET / HTTP/1.1\nHost: a\n\n",
    "HTTP/1.0: no Host, no chunks, other keep-alive": head(first="GET / HTTP/1.0"),
}


@pytest.mark.parametrize("why", STRICTER)
def test_stricter_than_h11_on_purpose(why: str) -> None:
    assert len(theirs(STRICTER[why])) == 1
    with pytest.raises(BadMessage):
        ours([STRICTER[why]])


def test_second_request_waits_for_resume() -> None:
    reader = RequestReader()
    first, end = reader.feed(head(first="GET /1 HTTP/1.1") + head(first="GET /2 HTTP/1.1"))
    assert isinstance(first, Request)
    assert isinstance(end, End)
    assert reader.feed(b"GET /3") == []
    assert reader.backlog == len(head(first="GET /2 HTTP/1.1")) + 6
    second = reader.resume()[0]
    assert isinstance(second, Request)
    assert second.head.target == b"/2"
    assert reader.resume() == []
    assert reader.begun


def test_nothing_comes_after_a_refusal() -> None:
    reader = RequestReader()
    with pytest.raises(BadMessage):
        reader.feed(b"BAD\r\n\r\n")
    assert reader.feed(head()) == []


def test_upgrade_gives_back_what_follows_unread() -> None:
    reader = RequestReader()
    raw = head("Connection: keep-alive, Upgrade", "Upgrade: SPDY/3.1", "Content-Length: 0")
    (event,) = reader.feed(raw + b"\x80\x03GET / HTTP")
    assert isinstance(event, Request)
    assert event.upgrade
    assert reader.feed(b"/1.1\r\n\r\n") == []
    assert (reader.raw_head, reader.trailing()) == (raw, b"\x80\x03GET / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("lines", [("Upgrade: h2c", "Connection: upgrade"), ("Upgrade: websocket",)])
def test_upgrade_that_is_not_ours_is_an_ordinary_request(lines: tuple[str, ...]) -> None:
    raw = head(*lines)
    assert len(ours([raw + raw])) == 2
    assert not one(raw).upgrade


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "web\x88ocket"])
def test_a_body_on_an_upgrade_to_an_unknown_protocol_was_refused_as_ambiguous(protocol: str) -> None:
    for body in ("Content-Length: 5", "Transfer-Encoding: chunked"):
        with pytest.raises(BadMessage, match="asks for an upgrade must not have a body"):
            one(head("Connection: Upgrade", f"Upgrade: {protocol}", body))


def test_keep_alive_and_expectations_are_read() -> None:
    assert one(head()).keep_alive
    assert not one(head("Connection: Close")).keep_alive
    assert one(head("Expect: 100-Continue", "Content-Length: 1")).expect_continue
    assert not one(head("Expect: 100-continue")).expect_continue


def test_read_ahead_is_a_bound_that_shells_can_keep() -> None:
    reader = RequestReader()
    reader.feed(head())
    reader.feed(b"x" * READ_AHEAD)
    assert reader.backlog >= READ_AHEAD


def test_same_header_lines_again_are_the_same_request_with_another_line() -> None:
    lines = b"Host: a\r\nAuthorization: Bearer x\r\nContent-Length: 3\r\n\r\n"
    reader = RequestReader()
    requests = []
    for line in (b"POST /one HTTP/1.1\r\n", b"PUT /two?a=b HTTP/1.1\r\n"):
        events = reader.feed(line + lines + b"abc")
        requests.append(events[0])
        assert [type(event) for event in events] == [Request, Body, End]
        assert not reader.resume()
    first, second = requests
    assert isinstance(first, Request)
    assert isinstance(second, Request)
    assert (second.head.method, second.head.target, second.length) == (b"PUT", b"/two?a=b", 3)
    assert second.head.headers == first.head.headers
    assert second.notes is first.notes
    other = reader.feed(b"GET / HTTP/1.1\r\nHost: b\r\n\r\n")[0]
    assert isinstance(other, Request)
    assert other.notes is not first.notes
    assert other.head.headers == [(b"Host", b"b")]


@pytest.mark.parametrize(
    "line",
    [b"GET /a b HTTP/1.1", b"GET http://a/ HTTP/1.1", b"GET /\x00 HTTP/1.1", b"GET /#x HTTP/1.1", b"TRACE / HTTP/1.1",
     b"GET / HTTP/1.0", b" GET / HTTP/1.1", b"GET / HTTP/1.1\n", b"GET /\r HTTP/1.1"],
)  # fmt: skip
def test_known_header_lines_do_not_let_a_bad_request_line_through(line: bytes) -> None:
    lines = b"\r\nHost: a\r\n\r\n"
    reader = RequestReader()
    reader.feed(b"GET / HTTP/1.1" + lines)
    reader.resume()
    with pytest.raises(BadMessage):
        reader.feed(line + lines)


def test_known_header_lines_do_not_lift_the_bound_of_a_head() -> None:
    lines = b" HTTP/1.1\r\nHost: a\r\n\r\n"
    reader = RequestReader(head_max=200)
    reader.feed(b"GET /" + lines)
    reader.resume()
    with pytest.raises(BadMessage) as caught:
        reader.feed(b"GET /" + b"a" * 200 + lines)
    assert caught.value.status == 431
