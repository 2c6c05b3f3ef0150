# SPDX-License-Identifier: Apache-2.0
"""Responses as a client reads them; h11 is the oracle for what a message means."""

from __future__ import annotations

import contextlib

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mooring.wire.headers import MAX_HEAD, BadMessage
from mooring.wire.http1_response import (
    LAST_CHUNK,
    MAX_CHUNK_OVERHEAD,
    Body,
    End,
    Response,
    ResponseReader,
    encode_chunk,
)


def collect(reader: ResponseReader, *pieces: bytes) -> tuple[Response | None, bytes, bool]:
    """Head, joined body, and whether it ended."""
    events = [event for piece in pieces for event in reader.feed(piece)]
    heads = [event for event in events if isinstance(event, Response)]
    assert len(heads) <= 1
    body = b"".join(event.data for event in events if isinstance(event, Body))
    return (heads[0] if heads else None), body, any(isinstance(event, End) for event in events)


def feed_all(reader: ResponseReader, pieces: list[bytes]) -> None:
    """Feeds the pieces, whatever comes out."""
    for piece in pieces:
        reader.feed(piece)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """`data` in pieces of these sizes, the rest in one."""
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


def by_h11(method: str, data: bytes) -> tuple[int, bytes, bool]:
    """What h11 makes of the bytes: status, body, complete."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    status, body = 0, b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return status, body, True
        elif event is h11.NEED_DATA:
            return status, body, False


BODIES = st.binary(max_size=600)
CUTS = st.lists(st.integers(0, 90), max_size=40)


@given(
    body=BODIES, sizes=CUTS, chunk_sizes=st.lists(st.integers(1, 200), max_size=8), how=st.sampled_from(["cl", "te"])
)
def test_however_the_bytes_arrive_the_response_is_the_one_h11_reads(
    body: bytes, sizes: list[int], chunk_sizes: list[int], how: str
) -> None:
    if how == "cl":
        raw = b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    else:
        chunks = b"".join(encode_chunk(piece) for piece in cut(body, chunk_sizes))
        raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n" + chunks + LAST_CHUNK
    reader = ResponseReader(b"GET")
    response, got, ended = collect(reader, *cut(raw, sizes))
    assert response is not None
    assert (response.head.status, got, ended) == by_h11("GET", raw) == (200, body, True)
    assert (b"A", b"b") in response.head.headers
    assert reader.keep_alive


@given(body=BODIES, data=st.data())
def test_a_response_that_is_cut_short_is_never_complete(body: bytes, data: st.DataObject) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + encode_chunk(body) + LAST_CHUNK
    short = raw[: data.draw(st.integers(0, len(raw) - 1))]
    reader = ResponseReader(b"GET")
    _unused, _unused, ended = collect(reader, short)
    assert not ended
    assert not reader.keep_alive
    with pytest.raises(BadMessage, match="connection closed"):
        reader.eof()


@given(noise=st.binary(min_size=1, max_size=300), sizes=CUTS)
def test_noise_raises_nothing_but_bad_message(noise: bytes, sizes: list[int]) -> None:
    prefix = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for start in (b"", prefix):
        reader = ResponseReader(b"GET")
        with contextlib.suppress(BadMessage):
            for piece in cut(start + noise, sizes):
                reader.feed(piece)
            reader.eof()
        assert reader.complete or not reader.keep_alive


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", "repeated Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "both"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n", "malformed Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", "malformed Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % 10**30, "malformed Content-Length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "unknown Transfer-Encoding"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "unknown Transfer"),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "unknown Transfer-Encoding"),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "folded"),
        (b"HTTP/1.1 200 OK\nA: b\r\n\r\n", "bare CR or LF"),
        (b"HTTP/1.1 200 OK\r\nA: b\x00\r\n\r\n", "control character"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "status line"),
        (b"ICY 200 OK\r\n\r\n", "status line"),
    ],
)
def test_a_head_that_two_parsers_could_read_differently_is_refused(head: bytes, reason: str) -> None:
    with pytest.raises(BadMessage, match=reason) as caught:
        ResponseReader(b"GET").feed(head)
    assert caught.value.status == 502


@pytest.mark.parametrize(
    "bad", [b"5\nhello\r\n", b"+5\r\nhello\r\n", b"5 \r\nhello\r\n", b"0x5\r\nhello\r\n", b"5\r\nhello0\r\n\r\n"]
)
def test_sloppy_chunks_are_refused(bad: bytes) -> None:
    reader = ResponseReader(b"GET")
    reader.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    with pytest.raises(BadMessage, match="malformed chunk"):
        reader.feed(bad)


@pytest.mark.parametrize(
    "trailer", [b"Transfer-Encoding: gzip", b"A: b\r\ncontent-length: 7", b"CONTENT-LENGTH: 7\r\nA: b"]
)
def test_a_trailer_that_frames_is_refused(trailer: bytes) -> None:
    """RFC 9110 section 6.5.1: it has no meaning there, and whoever merges it into the head reads another message."""
    reader = ResponseReader(b"GET")
    with pytest.raises(BadMessage):
        reader.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n" + trailer + b"\r\n\r\n")
    assert not reader.complete


def test_an_endless_head_is_cut_at_the_bound() -> None:
    reader = ResponseReader(b"GET")
    reader.feed(b"HTTP/1.1 200 OK\r\nA: ")
    with pytest.raises(BadMessage, match="larger than"):
        feed_all(reader, [b"a" * 4096] * 100)
    assert len(reader._head) <= MAX_HEAD + 1


def test_endless_chunk_framing_is_cut_at_the_bound() -> None:
    reader = ResponseReader(b"GET")
    reader.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;")
    with pytest.raises(BadMessage, match="too much chunk framing"):
        feed_all(reader, [b"x" * 1024] * (MAX_CHUNK_OVERHEAD // 1024 + 1))


def test_endless_informational_responses_are_cut_at_the_bound() -> None:
    reader = ResponseReader(b"GET")
    with pytest.raises(BadMessage, match="too many informational"):
        feed_all(reader, [b"HTTP/1.1 103 Early Hints\r\n\r\n"] * 100)


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 304), (b"DELETE", 204)])
def test_responses_without_a_body_end_with_their_head(method: bytes, status: int) -> None:
    reader = ResponseReader(method)
    response, body, ended = collect(reader, b"HTTP/1.1 %d X\r\nContent-Length: 10\r\n\r\n" % status)
    assert response is not None
    assert (response.body, body, ended, reader.keep_alive) == ("none", b"", True, True)


def test_continue_before_the_final_response_is_dropped() -> None:
    reader = ResponseReader(b"POST")
    raw = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok"
    response, body, ended = collect(reader, *[raw[i : i + 1] for i in range(len(raw))])
    assert response is not None
    assert (response.head.status, body, ended) == (201, b"ok", True)


def test_a_body_without_a_length_ends_when_the_peer_closes_and_not_before() -> None:
    reader = ResponseReader(b"GET")
    _unused, body, ended = collect(reader, b"HTTP/1.0 200 OK\r\n\r\n", b"some", b"thing")
    assert (body, ended) == (b"something", False)
    assert reader.eof() == [End()]
    assert not reader.keep_alive


@pytest.mark.parametrize("extra", [b"x", b"HTTP/1.1 200 OK\r\n\r\n"])
@pytest.mark.parametrize(
    "first",
    [b"Content-Length: 2\r\n\r\nok", b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"],
)
def test_a_connection_with_unasked_bytes_is_not_used_again(first: bytes, extra: bytes) -> None:
    reader = ResponseReader(b"GET")
    _unused, body, ended = collect(reader, b"HTTP/1.1 200 OK\r\n" + first + extra)
    assert (body, ended, reader.keep_alive) == (b"ok", True, False)


def test_connection_close_is_kept_to() -> None:
    reader = ResponseReader(b"GET")
    collect(reader, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: foo, Close\r\n\r\n")
    assert not reader.keep_alive


def test_a_connection_is_not_used_again_after_an_http_1_0_response_that_says_keep_alive() -> None:
    reader = ResponseReader(b"GET")
    _unused, body, ended = collect(reader, b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok")
    assert (body, ended, reader.keep_alive) == (b"ok", True, False)


@pytest.mark.parametrize("extra", [b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\r\r\n\r\n", b"\n\r\n\r\n"])
def test_a_connection_with_line_ends_after_the_last_chunk_is_not_used_again(extra: bytes) -> None:
    """llhttp passes over them in silence."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for trailers in (b"", b"A: b\r\n"):
        for cut in (True, False):
            reader = ResponseReader(b"GET")
            raw = head + b"2\r\nok\r\n0\r\n" + trailers + b"\r\n" + extra
            pieces = [raw[i : i + 1] for i in range(len(raw))] if cut else [raw]
            _unused, body, ended = collect(reader, *pieces)
            assert (body, ended, reader.keep_alive) == (b"ok", True, False)


@pytest.mark.parametrize("cut", [False, True])
def test_a_head_that_ended_with_a_bare_line_feed_is_refused_and_not_waited_for(cut: bool) -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n"
    with pytest.raises(BadMessage, match="bare LF"):
        collect(ResponseReader(b"GET"), *([raw[i : i + 1] for i in range(len(raw))] if cut else [raw]))


@pytest.mark.parametrize(
    "framing", [b"Transfer-Encoding: chunked", b"Transfer-Encoding: x", b"Content-Length: 1\r\nContent-Length: 2"]
)
@pytest.mark.parametrize("status", [b"100 Continue", b"103 Early Hints", b"101 Switching Protocols"])
def test_an_informational_response_that_frames_a_body_is_refused(status: bytes, framing: bytes) -> None:
    with pytest.raises(BadMessage, match=r"Transfer-Encoding|Content-Length"):
        ResponseReader(b"GET", upgrade=True).feed(b"HTTP/1.1 " + status + b"\r\n" + framing + b"\r\n\r\n")


def test_after_a_101_the_rest_is_raw() -> None:
    reader = ResponseReader(b"POST", upgrade=True)
    raw = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n\x80\x03"
    response, body, ended = collect(reader, raw)
    assert response is not None
    assert (response.body, body, ended, reader.upgraded, reader.trailing()) == ("raw", b"", False, True, b"\x80\x03")


def test_a_101_that_nobody_asked_for_is_refused() -> None:
    with pytest.raises(BadMessage, match="without being asked"):
        ResponseReader(b"GET").feed(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")


def test_an_empty_chunk_is_never_written_by_accident() -> None:
    assert encode_chunk(b"") == b""
    assert encode_chunk(b"a" * 16) == b"10\r\n" + b"a" * 16 + b"\r\n"
