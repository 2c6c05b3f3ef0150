# SPDX-License-Identifier: Apache-2.0
"""Reads the head of an OPEN, with the work done once for header lines that come again.

Why: the head of a user's next request differs from the one before in its first line and in the request id, which the
server writes last. Parsing and checking the lines between is most of what an agent computes for a small request.

It must not: take anything for known but the same bytes, or let a first or last line through that the strict parser and
the check would not pass: what does not fit two narrow patterns goes the long way.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from mooring.wire.headers import Headers, RequestHead, parse_request_head

SEEN_MAX = 256
"""Sets of header lines that are remembered."""
LINES_MAX = 4 * 1024
"""Bytes of header lines that are remembered."""

_FIRST = re.compile(rb'(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/(?!/)[!"$-~]*) HTTP/1\.1')
_LAST = re.compile(rb"(Impersonate-Extra-mooring\.fleet%2frequest-id): ([0-9a-f]{32})\r\n\r\n")


class Heads:
    """Remembers header lines that `check` has let through, and what it made of them."""

    def __init__(self, check: Callable[[RequestHead], Headers]) -> None:
        """`check` gives the headers that may travel on, or raises; it must look at nothing but the head."""
        self._check = check
        self._seen: dict[bytes, tuple[Headers, Headers]] = {}

    def read(self, raw: bytes) -> tuple[RequestHead, Headers]:
        """The head, and its headers that may travel on. Raises BadMessage, and what `check` raises."""
        begin, end = raw.find(b"\r\n"), raw.rfind(b"\r\n", 0, -4)
        last = _LAST.fullmatch(raw, end + 2) if 0 < begin < end else None
        if last is None:
            head = parse_request_head(raw)
            return head, self._check(head)
        lines = raw[begin:end]
        seen = self._seen.get(lines)
        first = _FIRST.fullmatch(raw, 0, begin)
        if seen is None or first is None:
            head = parse_request_head(raw)
            headers = self._check(head)
            if len(lines) <= LINES_MAX and headers and headers[-1] == head.headers[-1]:
                if len(self._seen) >= SEEN_MAX:
                    self._seen.clear()
                self._seen[lines] = (head.headers[:-1], headers[:-1])
            return head, headers
        pair = (last[1], last[2])
        return RequestHead(first[1], first[2], [*seen[0], pair]), [*seen[1], pair]
