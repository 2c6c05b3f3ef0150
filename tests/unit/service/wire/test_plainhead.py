# SPDX-License-Identifier: Apache-2.0
"""A head that is passed on as it came is the same head, byte for byte, as one that was taken apart at both hops."""

from __future__ import annotations

import importlib
import pkgutil
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mooring
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mooring.agent.dispatch import response_head
from mooring.proxy.forward import response_headers
from mooring.wire.headers import MAX_HEAD, MAX_HEADERS, BadMessage, ResponseHead, parse_response_head
from mooring.wire.http1_response import Body, End, Response, ResponseReader, Whole
from mooring.wire.http1_writer import FramingError, ResponseWriter
from mooring.wire.plainhead import PlainHead, read_plain, without_keep_alive

OURS = b"X-Request-Id: 0123\r\n"
KUBERNETES = (
    b"HTTP/1.1 200 OK\r\nAudit-Id: 0e54b0a5\r\nCache-Control: no-cache, private\r\nContent-Type: application/json\r\n"
    b"X-Kubernetes-Pf-Flowschema-Uid: 7\r\nDate: Sat, 28 Nov 2026 21:00:00 GMT\r\nContent-Length: 3000\r\n\r\n"
)

NAMES = st.sampled_from(
    [
        b"Content-Length", b"content-length", b"CONTENT-LENGTH", b"Transfer-Encoding", b"Connection", b"connection",
        b"Keep-Alive", b"Upgrade", b"TE", b"Trailer", b"Proxy-Authenticate", b"Proxy-Status",
        b"Set-Cookie", b"sEt-cOOkie2",
        b"Set_Cookie", b"Alt-Svc", b"Refresh", b"Clear-Site-Data", b"Access-Control-Allow-Origin", b"X-Request-Id",
        b"x_request_id", b"Strict-Transport-Security", b"Public-Key-Pins", b"Content-Type", b"content-type", b"Date",
        b"ETag", b"Location", b"Warning", b"Audit-Id", b"Te-st", b"Content-Length-Not", b"X", b"bad name",
        b"", b"n\xe4me",
    ]
)  # fmt: skip
VALUES = st.sampled_from(
    [
        b"3", b"0", b"03", b"+3", b"3, 3", b"3 ", b" 3", b"1" * 19, b"", b"chunked", b"close", b"keep-alive",
        b"keep-alive, X", b"text/HTML; charset=utf-8", b"application/json", b"a\tb", b"\xe9", b"a\rb",
        b"a\nb", b"a\x00b",
        b"/api/v1", b"date",
    ]
)  # fmt: skip
SEPARATORS = st.sampled_from([b": ", b": ", b": ", b":", b":  ", b" : ", b":\t"])
LINES = st.lists(st.tuples(NAMES, SEPARATORS, VALUES), max_size=6)
FIRST = st.sampled_from(
    [
        b"HTTP/1.1 200 OK", b"HTTP/1.1 200 ", b"HTTP/1.1 200", b"HTTP/1.1 404 Not Found", b"HTTP/1.1 204 No Content",
        b"HTTP/1.1 304 Not Modified", b"HTTP/1.1 101 Switching Protocols", b"HTTP/1.1 503 \xe9", b"HTTP/1.0 200 OK",
        b"HTTP/1.1  200 OK", b"http/1.1 200 OK", b"HTTP/1.1 600 No",
    ]
)  # fmt: skip


def facts(event: object) -> tuple[object, ...]:
    """What a head, or a whole response, says."""
    if isinstance(event, Whole):
        return *facts(event.head), event.body
    assert isinstance(event, PlainHead)
    return event.status, event.length, event.raw


def agents_way(raw: bytes) -> bytes | None:
    """What goes back when the agent takes the head apart, if it is a counted response on a connection that stays."""
    reader = ResponseReader(b"GET")
    try:
        events = reader.feed(raw)
    except BadMessage:
        return None
    if not events or not isinstance(events[0], Response) or events[0].body != "length" or not reader._persistent:
        return None
    return response_head(events[0].head)


def servers_way(raw: bytes, keep_alive: bool) -> tuple[bytes, int] | None:
    """What a client gets when the server takes the head apart, and how many bytes of body follow."""
    writer = ResponseWriter(b"GET", keep_alive=keep_alive)
    try:
        head = parse_response_head(raw)
        headers = [*response_headers(head.headers), (b"X-Request-Id", b"0123")]
        return writer.head(ResponseHead(head.status, head.reason, headers)), writer._left
    except (BadMessage, FramingError, ValueError):
        return None


def check(raw: bytes) -> bool:
    """Whether the head is plain; if so, both hops must do the same with it as when they take it apart."""
    short = without_keep_alive(raw)
    back = read_plain(short)
    if back is not None:
        assert agents_way(raw) == back.raw
    head = read_plain(raw)
    if head is None:
        return back is not None
    for keep_alive in (True, False):
        writer = ResponseWriter(b"GET", keep_alive=keep_alive)
        assert servers_way(raw, keep_alive) == (writer.plain(head, OURS), writer._left)
    assert head.full().status == head.status
    return True


@given(FIRST, LINES)
def test_both_ways_make_the_same_of_any_head(first: bytes, lines: list[tuple[bytes, bytes, bytes]]) -> None:
    check(b"\r\n".join([first, *map(b"".join, lines)]) + b"\r\n\r\n")


@given(LINES, st.integers(0, 6))
def test_both_ways_make_the_same_of_heads_that_have_a_length(lines: list[tuple[bytes, bytes, bytes]], at: int) -> None:
    lines.insert(at, (b"Content-Length", b": ", b"3"))
    check(b"\r\n".join([b"HTTP/1.1 200 OK", *map(b"".join, lines)]) + b"\r\n\r\n")


@given(st.binary(max_size=3), st.integers(0, len(KUBERNETES)), st.integers(0, 3))
def test_both_ways_make_the_same_of_damaged_heads(what: bytes, at: int, cut: int) -> None:
    check(KUBERNETES[:at] + what + KUBERNETES[at + cut :])


def test_what_api_servers_and_nginx_send_is_plain() -> None:
    assert check(KUBERNETES)
    assert facts(read_plain(KUBERNETES)) == (200, 3000, KUBERNETES)
    nginx = KUBERNETES.replace(b"Audit-Id: 0e54b0a5\r\n", b'Connection: keep-alive\r\nETag: "65-bb8"\r\n')
    assert check(nginx)
    assert read_plain(nginx) is None


@pytest.mark.parametrize(
    "line",
    [
        b"Set-Cookie: a=b", b"SET-COOKIE: a=b", b"Set_Cookie: a=b", b"Connection: close", b"Transfer-Encoding: chunked",
        b"Content-Length: 3000", b"Access-Control-Allow-Origin: *", b"Content-Type: text/html",
        b"content-type: a; HtMl",
        b"X-Request-Id: theirs", b"Alt-Svc: h3", b"Keep-Alive: timeout=5", b"Upgrade: websocket", b"Folded: a\r\n b",
        b"Bare: a\nSet-Cookie: b", b"Bare: a\rSet-Cookie: b", b"No colon", b"Space : a", b"Empty:", b"Empty: ",
        b"End: a ",
        b"Proxy-Connection: keep-alive", b"Trailer: X", b"TE: x", b"Refresh: 0; url=/",
    ],
)  # fmt: skip
def test_a_line_that_needs_a_closer_look_gets_it(line: bytes) -> None:
    for at in (b"Audit-Id", b"Content-Length"):  # before and after the length
        raw = KUBERNETES.replace(at, line + b"\r\n" + at, 1)
        assert read_plain(raw) is None
        check(raw)


def test_no_pattern_uses_what_python_3_11_matches_wrongly() -> None:
    """Possessive quantifiers and atomic groups (python/cpython#106052, #100061): on Debian 12 no head was plain."""

    def operations(parsed: Any) -> Iterator[object]:
        for operation, argument in parsed:
            yield operation
            for inner in argument if isinstance(argument, (tuple, list)) else [argument]:
                for branch in inner if isinstance(inner, list) else [inner]:
                    if isinstance(branch, re._parser.SubPattern):  # type: ignore[attr-defined]
                        yield from operations(branch)

    found = 0
    for package in ("wire", "net", "tunnel", "edge", "proxy", "agent", "authn", "lib", "kube", "policy"):
        for module in pkgutil.walk_packages([str(Path(mooring.__file__).parent / package)], f"mooring.{package}."):
            for name, pattern in vars(importlib.import_module(module.name)).items():
                if isinstance(pattern, re.Pattern):
                    used = {str(what) for what in operations(re._parser.parse(pattern.pattern, pattern.flags))}  # type: ignore[attr-defined]
                    assert not used & {"POSSESSIVE_REPEAT", "ATOMIC_GROUP"}, f"{module.name}.{name}"
                    found += 1
    assert found > 20


@pytest.mark.parametrize(
    "raw",
    [
        KUBERNETES.replace(b"0e54b0a5", b"x" * 60_000 + b" "),
        KUBERNETES.replace(b"0e54b0a5", b"x " * 30_000 + b"\x00"),
        KUBERNETES.replace(b"Audit-Id: 0e54b0a5\r\n", (b"X: " + b"y" * 240 + b"\r\n") * 250)[:-2] + b"Z:\r\n\r\n",
        KUBERNETES.replace(b"200 OK", b"200 " + b"a" * 60_000 + b"\x00"),
        KUBERNETES.replace(b"application/json", b"h" * 60_000 + b"\x00"),
        KUBERNETES.replace(b"Content-Length: 3000", b"Content-Length: " + b"1" * 60_000),
    ],
)
def test_a_head_that_is_not_plain_is_told_in_linear_time(raw: bytes) -> None:
    begin = time.process_time()
    assert read_plain(raw) is None
    assert time.process_time() - begin < 1.0


def test_bounds_hold() -> None:
    many = KUBERNETES.replace(b"Audit-Id: 0e54b0a5\r\n", b"X: y\r\n" * (MAX_HEADERS - 5))
    assert check(many)
    assert read_plain(many) is not None
    assert read_plain(many.replace(b"X: y", b"X: y\r\nX: y", 1)) is None
    assert read_plain(KUBERNETES.replace(b"0e54b0a5", b"x" * MAX_HEAD)) is None


def test_a_response_that_cannot_keep_its_length_is_refused() -> None:
    head = read_plain(KUBERNETES)
    assert head is not None
    with pytest.raises(FramingError):
        ResponseWriter(b"GET", keep_alive=True).plain(head, OURS, fin=True)
    with pytest.raises(ValueError, match="HEAD"):
        ResponseWriter(b"HEAD", keep_alive=True).plain(head, OURS)


def test_the_reader_gives_plain_heads_out_only_when_asked_and_never_for_head() -> None:
    data = KUBERNETES + bytes(3000)
    (whole,) = ResponseReader(b"GET", plain=True).feed(data)
    assert facts(whole) == (200, 3000, KUBERNETES, bytes(3000))
    assert isinstance(ResponseReader(b"GET").feed(data)[0], Response)
    (only, _end) = ResponseReader(b"HEAD", plain=True).feed(KUBERNETES)
    assert isinstance(only, Response)
    reader = ResponseReader(b"GET", plain=True)
    empty = KUBERNETES.replace(b"3000", b"0")
    (whole,) = reader.feed(empty)
    assert facts(whole) == (200, 0, empty, b"")
    assert reader.keep_alive


@pytest.mark.parametrize("cut", [1, len(KUBERNETES) - 1, len(KUBERNETES), len(KUBERNETES) + 1, len(KUBERNETES) + 2999])
def test_a_plain_response_in_pieces_is_the_same_response(cut: int) -> None:
    data = KUBERNETES + bytes(3000)
    reader = ResponseReader(b"GET", plain=True)
    events = reader.feed(data[:cut]) + reader.feed(data[cut:])
    if cut < len(KUBERNETES):
        assert [facts(event) for event in events] == [(200, 3000, KUBERNETES, bytes(3000))]
    else:
        assert (facts(events[0]), events[-1]) == ((200, 3000, KUBERNETES), End())
        assert b"".join(event.data for event in events if isinstance(event, Body)) == bytes(3000)
    assert reader.complete
    assert reader.keep_alive


def test_bytes_behind_a_whole_plain_response_are_not_of_it_and_end_its_connection() -> None:
    for body in (bytes(3000), b""):
        head = KUBERNETES.replace(b"3000", b"%d" % len(body))
        reader = ResponseReader(b"GET", plain=True)
        (whole,) = reader.feed(head + body + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert facts(whole) == (200, len(body), head, body)
        assert not reader.keep_alive
