# SPDX-License-Identifier: Apache-2.0
"""Response heads that can be passed on as they came, told from the others in one look.

Why: two hops read and write each response head, and taking it apart line by line was a third of what they computed for
a small request. Nearly all heads need none of it: no line speaks of a connection, of the origin, or of a framing other
than Content-Length. One regular expression knows these, and is stricter than the parser: what it does not match is not
wrong, it goes the long way through `wire.headers`.

It must not: take a head for plain that the long way would refuse, or would pass on as other bytes. The tests compare
both ways on heads of all kinds.
"""

from __future__ import annotations

import re
from typing import Final

from mooring.wire.headers import MAX_HEAD, MAX_HEADERS, ResponseHead, parse_response_head

_NOT_PLAIN: Final = (
    # RFC 9110 section 7.6.1, and what else speaks of one connection only
    b"connection:",
    b"keep-alive:",
    b"proxy-",
    b"te:",
    b"trailer:",
    b"transfer-encoding:",
    b"upgrade:",
    # what speaks of the whole origin
    b"access-control-",
    b"alt-svc:",
    b"clear-site-data:",
    b"public-key-pins:",
    b"refresh:",
    b"set-cookie",
    b"strict-transport-security:",
    b"x-request-id:",
    # the framing, which has a place of its own
    b"content-length:",
)
"""How a line begins that needs a closer look."""
_KEPT_ALIVE: Final = b"\r\nConnection: keep-alive\r\n"
"""What servers of both versions of HTTP/1 add. In HTTP/1.1 it says nothing (RFC 9112 section 9.3), and is left out."""


def _any_case(text: bytes) -> bytes:
    """A pattern for the text in any case. Each letter is a set: a branch whose first set does not fit costs nothing."""
    pairs = [b"[%c%c]" % (char, char - 32) if 97 <= char <= 122 else re.escape(bytes((char,))) for char in text]
    return b"".join(pairs)


_VALUE: Final = rb"[\t\x20-\x7e\x80-\xff]"
_LINE: Final = (
    rb"(?!" + b"|".join(map(_any_case, _NOT_PLAIN)) + rb"|" + _any_case(b"content-type:") + rb"[^\r]*"
    # A page is served with a policy of ours (`proxy.forward`).
    + _any_case(b"html") + rb")"
    # No underscore in a name: some readers take it for a hyphen. One space before the value, and none after it.
    rb"[!#$%&'*+\-.^`|~0-9A-Za-z]+: (?![ \t])" + _VALUE + rb"+(?<![ \t])\r\n"
)  # fmt: skip
# No possessive quantifiers: up to 3.11.4 Python matches those wrongly around a group, both ways (python/cpython#106052,
# #100061). Nor is one needed: what can be repeated never fits at two places, so that giving back is linear.
_PLAIN: Final = re.compile(
    rb"HTTP/1\.1 ([245][0-9][0-9]) (" + _VALUE + rb"*)\r\n"
    rb"(?:" + _LINE + rb")*" + _any_case(b"content-length") + rb": ([0-9]{1,18})\r\n(?:" + _LINE + rb")*\r\n"
)  # fmt: skip
_NO_CONTENT: Final = 204


class PlainHead:
    """A final response with a Content-Length. `raw` is the whole head, `length` the Content-Length in bytes."""

    # Not a dataclass: one is made for each answer, and compiled, only a constructor of our own is fast.
    __slots__ = ("length", "raw", "status")

    def __init__(self, status: int, length: int, raw: bytes) -> None:
        self.status = status
        self.length = length
        self.raw = raw

    def full(self) -> ResponseHead:
        """The same, taken apart."""
        return parse_response_head(self.raw)


def read_plain(raw: bytes) -> PlainHead | None:
    """The head (empty line included), or None for one that needs the long way. Not for responses to HEAD."""
    if len(raw) > MAX_HEAD or raw.count(b"\n") > MAX_HEADERS + 2:
        return None
    match = _PLAIN.fullmatch(raw)
    if match is None:
        return None
    status = int(match[1])
    return None if status == _NO_CONTENT else PlainHead(status, int(match[3]), raw)


def without_keep_alive(raw: bytes) -> bytes:
    """A head of HTTP/1.1 without one line `Connection: keep-alive`, if it has it in this spelling."""
    return raw.replace(_KEPT_ALIVE, b"\r\n", 1)
