# SPDX-License-Identifier: Apache-2.0
"""Header lines that come again are not read again, and nothing gets through because its neighbour did."""

from __future__ import annotations

import pytest
from mooring.agent.dispatch import Refused, check_head, passed
from mooring.agent.heads import SEEN_MAX, Checked, Heads
from mooring.wire.headers import BadMessage, RequestHead, parse_request_head

ID = b"Impersonate-Extra-mooring.fleet%%2frequest-id: %032x\r\n\r\n"
LINES = b"Host: apiserver\r\nAccept: */*\r\nTE: trailers\r\nImpersonate-User: mooring:bob\r\n"


def check(head: RequestHead) -> Checked:
    return passed(head, check_head(head))


class Counted:
    def __init__(self) -> None:
        self.checks = 0

    def __call__(self, head: RequestHead) -> Checked:
        self.checks += 1
        return check(head)


def test_same_lines_are_checked_once_and_mean_the_same() -> None:
    counted = Counted()
    heads = Heads(counted)
    for number, line in enumerate((b"GET /a HTTP/1.1\r\n", b"DELETE /b?c=%20d HTTP/1.1\r\n", b"PUT / HTTP/1.1\r\n")):
        raw = line + LINES + ID % number
        assert heads.read(raw) == check(parse_request_head(raw))
    assert counted.checks == 1


@pytest.mark.parametrize(
    ("lines", "framing"),
    [
        (b"Content-Length: 3\r\n", (False, "length", 3)),
        (b"Transfer-Encoding: chunked\r\n", (False, "chunked", 0)),
        (b"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n", (True, "upgrade", 0)),
        (b"Upgrade: SPDY/3.1\r\n", (False, "ended", 0)),
    ],
)
def test_known_lines_keep_the_framing_of_their_request(lines: bytes, framing: object) -> None:
    counted = Counted()
    heads = Heads(counted)
    heads.read(b"POST /a HTTP/1.1\r\n" + LINES + ID % 0)
    for number in range(1, 4):
        raw = b"POST /a HTTP/1.1\r\n" + LINES + lines + ID % number
        request = heads.read(raw)
        assert request == check(parse_request_head(raw))
        assert request.framing == framing
        assert request.lines.endswith(ID[:-2] % number)
    assert counted.checks == 2


def test_a_body_of_unclear_length_is_refused_each_time() -> None:
    heads = Heads(check)
    both = b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"
    for number in range(2):
        with pytest.raises(Refused, match="length twice"):
            heads.read(b"POST /a HTTP/1.1\r\n" + LINES + both + ID % number)


@pytest.mark.parametrize(
    "line",
    [b"GET //a HTTP/1.1", b"GET a HTTP/1.1", b"CONNECT /a HTTP/1.1", b"TRACE /a HTTP/1.1", b"GET /a#b HTTP/1.1",
     b"GET /a HTTP/1.0", b"GET /a\x7f HTTP/1.1", b"GET /a b HTTP/1.1", b"GET /\xe9 HTTP/1.1", b"GET  /a HTTP/1.1",
     b"GET /a HTTP/1.1\nX: y", b"GET /a\rHTTP/1.1", b""],
)  # fmt: skip
def test_known_lines_do_not_let_a_bad_first_line_through(line: bytes) -> None:
    heads = Heads(check)
    heads.read(b"GET /a HTTP/1.1\r\n" + LINES + ID % 1)
    with pytest.raises((BadMessage, Refused)):
        heads.read(line + b"\r\n" + LINES + ID % 2)


@pytest.mark.parametrize(
    "last",
    [b"Authorization: Bearer x\r\n\r\n", b"Impersonate-User: mooring:eve\r\n\r\n", b"X-Remote-User: eve\r\n\r\n",
     ID[:-2] % 1 + b"Impersonate-User: mooring:eve\r\n\r\n", ID[:-4] % 1 + b"\nCookie: a\r\n\r\n", ID[:-2] % 1],
)  # fmt: skip
def test_known_lines_do_not_let_another_last_line_through(last: bytes) -> None:
    heads = Heads(check)
    heads.read(b"GET /a HTTP/1.1\r\n" + LINES + ID % 1)
    with pytest.raises((BadMessage, Refused)):
        heads.read(b"GET /a HTTP/1.1\r\n" + LINES + last)


def test_refused_lines_stay_refused() -> None:
    heads = Heads(check)
    for number in range(2):
        with pytest.raises(Refused):
            heads.read(b"GET /a HTTP/1.1\r\n" + LINES + b"Impersonate-Group: system:masters\r\n" + ID % number)


def test_memory_of_lines_is_bounded() -> None:
    counted = Counted()
    heads = Heads(counted)
    for number in range(3 * SEEN_MAX):
        heads.read(b"GET /a HTTP/1.1\r\n" + LINES + b"X-Number: %d\r\n" % number + ID % number)
    assert len(heads._seen) <= SEEN_MAX
    heads.read(b"GET /a HTTP/1.1\r\n" + LINES + b"X-Long: " + b"a" * 8000 + b"\r\n" + ID % 0)
    heads.read(b"GET /a HTTP/1.1\r\n" + LINES + b"X-Long: " + b"a" * 8000 + b"\r\n" + ID % 0)
    assert counted.checks == 3 * SEEN_MAX + 2
