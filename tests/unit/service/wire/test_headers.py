# SPDX-License-Identifier: Apache-2.0
"""Message heads: what is refused, and that writing and reading are inverse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mooring.wire.headers import (
    BadMessage,
    RequestHead,
    ResponseHead,
    connection_tokens,
    get,
    get_all,
    has_dot_segments,
    is_target,
    is_token,
    is_value,
    parse_request_head,
    parse_response_head,
    serialize_request,
    serialize_response,
    strip_hop_by_hop,
)

TOKENS = st.text("abcXYZ019!#$%&'*+-.^_`|~", min_size=1, max_size=20).map(str.encode)
VALUES = (
    st.binary(max_size=40)
    .filter(lambda value: not any(byte in b"\x7f" or (byte < 32 and byte != 9) for byte in value))
    .map(lambda value: value.strip(b" \t"))
)
TARGETS = st.text([chr(c) for c in range(0x21, 0x7F)], min_size=1, max_size=60).map(str.encode)
HEADERS = st.lists(st.tuples(TOKENS, VALUES), max_size=10)


@given(TOKENS, TARGETS, HEADERS)
def test_request_head_survives_a_round_trip(method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    head = RequestHead(method, target, headers)
    assert parse_request_head(serialize_request(head)) == head


@given(st.integers(100, 599), VALUES, HEADERS)
def test_response_head_survives_a_round_trip(status: int, reason: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    head = ResponseHead(status, reason, headers)
    assert parse_response_head(serialize_response(head)) == head


@pytest.mark.parametrize("evil", [b"a\r\nX: y", b"a\nb", b"a\rb", b"a\0b", b"a\x7fb", b"\x1b[0m"])
def test_line_break_in_any_part_is_never_written(evil: bytes) -> None:
    for head in (
        RequestHead(evil, b"/", []),
        RequestHead(b"GET", evil, []),
        RequestHead(b"GET", b"/", [(evil, b"v")]),
        RequestHead(b"GET", b"/", [(b"n", evil)]),
    ):
        with pytest.raises(ValueError, match="control character"):
            serialize_request(head)
    with pytest.raises(ValueError, match="control character"):
        serialize_response(ResponseHead(200, b"", [(b"Location", evil)]))


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\r\n\tc\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n A: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nA: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA(: b\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\n\r\n", 400),
        (b"GET / a HTTP/1.1\r\n\r\n", 400),
        (b"GET /\x80 HTTP/1.1\r\n\r\n", 400),
        (b"G@T / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n", 400),
        (b"", 400),
        (b"GET / HTTP/1.0\r\n\r\n", 505),
        (b"GET / http/1.1\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 257 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 65536 + b"\r\n\r\n", 431),
    ],
)
def test_request_head_that_could_be_read_in_two_ways_is_refused(raw: bytes, status: int) -> None:
    with pytest.raises(BadMessage) as refused:
        parse_request_head(raw)
    assert refused.value.status == status


@pytest.mark.parametrize(
    "first",
    [b"HTTP/1.1 200", b"HTTP/1.1 200 ", b"HTTP/1.1 404 Not Found", b"HTTP/1.0 200 OK", b"HTTP/1.1 200 \xe4"],
)
def test_usual_status_lines_are_read(first: bytes) -> None:
    assert parse_response_head(first + b"\r\n\r\n").status in (200, 404)


@pytest.mark.parametrize("first", [b"HTTP/2 200", b"HTTP/1.1 20", b"HTTP/1.1 600 X", b"HTTP/1.1  200 OK", b"200 OK"])
def test_odd_status_lines_are_refused(first: bytes) -> None:
    with pytest.raises(BadMessage):
        parse_response_head(first + b"\r\n\r\n")


def test_exactly_256_headers_are_taken() -> None:
    assert len(parse_request_head(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 256 + b"\r\n").headers) == 256


def test_hop_by_hop_goes_also_when_connection_names_it() -> None:
    headers = [
        (b"Connection", b"close, X-Secret"),
        (b"connection", b"x-other,Content-Length, host"),
        (b"X-SECRET", b"1"),
        (b"X-Other", b"2"),
        (b"TE", b"trailers"),
        (b"Keep-Alive", b"5"),
        (b"Upgrade", b"h2c"),
        (b"Proxy-Authorization", b"x"),
        (b"Content-Length", b"3"),
        (b"Host", b"a"),
        (b"Accept", b"*/*"),
    ]
    assert connection_tokens(headers) == {b"close", b"x-secret", b"x-other", b"content-length", b"host"}
    assert strip_hop_by_hop(headers) == [(b"Content-Length", b"3"), (b"Host", b"a"), (b"Accept", b"*/*")]


def test_lookup_ignores_case_and_keeps_order() -> None:
    headers = [(b"A", b"1"), (b"b", b"2"), (b"a", b"3")]
    assert (get(headers, b"a"), get(headers, b"B"), get(headers, b"c")) == (b"1", b"2", None)
    assert get_all(headers, b"A") == [b"1", b"3"]


@pytest.mark.parametrize(
    ("target", "dots"),
    [
        (b"/a/../b", True),
        (b"/a/..", True),
        (b"/./a", True),
        (b"/.", True),
        (b"/a/%2e%2E/b", True),
        (b"/a/.%2e", True),
        (b"/a/%2e", True),
        (b"/a..b/c", False),
        (b"/.well-known/x", False),
        (b"/a/...", False),
        (b"/a?b=/../c", False),
        (b"/a%2fb", False),
    ],
)
def test_dot_segments_are_seen_also_when_encoded(target: bytes, dots: bool) -> None:
    assert has_dot_segments(target) is dots


def test_small_checks() -> None:
    assert is_token(b"Impersonate-Extra-a%2fb")
    assert not is_token(b"")
    assert not is_token(b"a b")
    assert is_value(b"")
    assert is_value(b"a \tb\xff")
    assert not is_value(b" a")
    assert not is_value(b"a\n")
    assert is_target(b"/a?b#c")
    assert not is_target(b"")
    assert not is_target(b"/a b")
