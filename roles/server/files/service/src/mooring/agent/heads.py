# SPDX-License-Identifier: Apache-2.0
"""Reads the head of an OPEN and makes its lines for kube-apiserver, once for header lines that come again.

Why: the head of a user's next request differs from the one before in its first line and in the request id, which the
server writes last. To parse, check and write the lines between is most of what an agent computes for a small request.

It must not: take anything for known but the same bytes, or let a first or last line through that the strict parser and
the check would not pass: what does not fit two narrow patterns goes the long way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from mooring.net.http1connection import Framing, framing
from mooring.wire.headers import (
    Headers,
    RequestHead,
    connection_tokens,
    get_all,
    header_lines,
    parse_request_head,
)

SEEN_MAX: Final = 256
"""Sets of header lines that are remembered."""
LINES_MAX: Final = 4 * 1024
"""Bytes of header lines that are remembered."""

_FIRST: Final = re.compile(rb'(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/(?!/)[!"$-~]*) HTTP/1\.1')
_LAST: Final = re.compile(rb"(Impersonate-Extra-mooring\.fleet%2frequest-id: [0-9a-f]{32}\r\n)\r\n")


class Checked:
    """A request that was let through. `lines`: all its header lines but Host and Authorization, which are ours."""

    __slots__ = ("framing", "lines", "method", "target")

    def __init__(self, method: bytes, target: bytes, lines: bytes, framing: Framing) -> None:
        self.method = method
        self.target = target
        self.lines = lines
        self.framing = framing

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Checked):
            return NotImplemented
        mine = (self.method, self.target, self.lines, self.framing)
        return mine == (other.method, other.target, other.lines, other.framing)

    __hash__ = None  # type: ignore[assignment]


def checked(head: RequestHead, headers: Headers) -> Checked:
    """The request with `headers`, those of its own that may travel on, and what belongs to the next connection.

    Raises ValueError when its body is declared in no clear way.
    """
    mine: Headers = []
    upgrade = get_all(head.headers, b"upgrade")
    if upgrade and b"upgrade" in connection_tokens(head.headers):
        mine += [(b"Connection", b"Upgrade"), *((b"Upgrade", value) for value in upgrade)]
    mine += [(b"Transfer-Encoding", value) for value in get_all(head.headers, b"transfer-encoding")]
    mine += headers
    return Checked(head.method, head.target, header_lines(mine), framing(mine))


class Heads:
    """Remembers header lines that `check` has let through, and what it made of them."""

    def __init__(self, check: Callable[[RequestHead], Checked]) -> None:
        """`check` raises for what may not pass; it must look at nothing but the head."""
        self._check = check
        self._seen: dict[bytes, tuple[bytes, Framing]] = {}

    def read(self, raw: bytes) -> Checked:
        """The request. Raises BadMessage, and what `check` raises."""
        begin, end = raw.find(b"\r\n"), raw.rfind(b"\r\n", 0, -4)
        last = _LAST.fullmatch(raw, end + 2) if 0 < begin < end else None
        if last is None:
            return self._check(parse_request_head(raw))
        lines = raw[begin:end]
        seen = self._seen.get(lines)
        first = _FIRST.fullmatch(raw, 0, begin)
        if seen is None or first is None:
            request = self._check(parse_request_head(raw))
            if len(lines) <= LINES_MAX and request.lines.endswith(last[1]):
                if len(self._seen) >= SEEN_MAX:
                    self._seen.clear()
                self._seen[lines] = (request.lines.removesuffix(last[1]), request.framing)
            return request
        return Checked(first[1], first[2], seen[0] + last[1], seen[1])
