# SPDX-License-Identifier: Apache-2.0
"""Where Mooring's HTTP readers are stricter than h11 on purpose. docs/fuzzing.md has the table for people.

A rule explains a refusal only when its condition holds for the very bytes that were refused: that is looked up in what
h11 made of them, or in the bytes, and never asked of our own reader. There is no rule for the other direction: what we
take, h11 must take, and read in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Seen:
    """One message as it stands in the input, and as h11 read it (`started` is False when h11 has no head)."""

    raw: bytes
    started: bool = False
    version: bytes = b""
    method: bytes = b""
    target: bytes = b""
    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    complete: bool = False
    informational: int = 0
    left: int = 0

    @property
    def head(self) -> bytes:
        """The bytes up to the first empty line, whatever its line ends are; all of them when there is none."""
        match = _EMPTY_LINE.search(self.raw)
        return self.raw[: match.end()] if match else self.raw

    @property
    def after(self) -> bytes:
        return self.raw[len(self.head) :]

    @property
    def heads(self) -> bytes:
        """For a response: the informational heads and the final one."""
        at = 0
        for _unused in range(self.informational + 1):
            match = _EMPTY_LINE.search(self.raw, at)
            if match is None:
                return self.raw
            at = match.end()
        return self.raw[:at]

    def values(self, name: bytes) -> list[bytes]:
        """Values of a header as the bytes have them: h11 folds equal lengths into one."""
        return re.findall(rb"(?im)^" + re.escape(name) + rb":[ \t]*([^\r\n]*?)[ \t]*\r?$", self.heads)


@dataclass(frozen=True, slots=True)
class Rule:
    """`reason`: what our refusal says. `why`: for people. `holds`: whether the input has what the rule speaks of.

    `stays`: once it holds, it holds whatever follows, so that nothing has to be tried behind such an input.
    """

    name: str
    reason: str
    why: str
    holds: Callable[[Seen], bool]
    stays: bool = False


_EMPTY_LINE = re.compile(rb"\n\r?\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_BARE_CR = re.compile(rb"\r(?!\n)")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_FOLDED = re.compile(rb"\n[ \t]")
_HOST = re.compile(rb"(?:[A-Za-z0-9._~\-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_METHODS = {b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"}

HEAD_MAX = 2048
HEADERS_MAX = 24
"""Small bounds, so that inputs of a few hundred bytes reach them."""


def _trailer_lines(after: bytes) -> bool:
    """Whether what follows the last chunk is not the empty line alone: h11 takes a bare LF for one there."""
    return bool(re.search(rb"(?:^|\n)0+[ \t]*(?:;[^\n]*)?\r\n(?!\r\n)", after))


def _lines(seen: Seen) -> int:
    return seen.heads.count(b"\n") - 2


COMMON = (
    Rule(
        "bare LF",
        "bare CR or LF|bare LF|malformed request|malformed chunk|empty line",
        "RFC 9112 2.2 lets a recipient take a lone LF as a line end; a peer that does not would see other lines.",
        lambda seen: bool(_BARE_LF.search(seen.heads)),
        stays=True,
    ),
    Rule(
        "folded line",
        "folded header line|malformed header line",
        "RFC 9112 5.2 lets a server refuse obs-fold; unfolding changes what the next hop reads.",
        lambda seen: bool(_FOLDED.search(seen.heads)),
        stays=True,
    ),
    Rule(
        "control character",
        "control character|malformed",
        "RFC 9110 5.5 calls control characters in values invalid; h11 lets most of them through.",
        lambda seen: bool(_CONTROL.search(seen.heads)),
        stays=True,
    ),
    Rule(
        "both framings",
        "Content-Length and Transfer-Encoding together|malformed request|both Transfer-Encoding and Content-Length",
        "RFC 9112 6.3: such a message might be an attempt at smuggling and ought to be handled as an error.",
        lambda seen: bool(seen.values(b"content-length")) and bool(seen.values(b"transfer-encoding")),
    ),
    Rule(
        "repeated length",
        "repeated Content-Length|malformed Content-Length|malformed request",
        "RFC 9112 6.3 lets a recipient refuse a length that is given twice, even when both say the same.",
        lambda seen: len(seen.values(b"content-length")) > 1 or any(b"," in v for v in seen.values(b"content-length")),
    ),
    Rule(
        "huge length",
        "malformed Content-Length|malformed request",
        "more than 18 digits: no body has 10^18 bytes, and other parsers overflow there.",
        lambda seen: any(len(v) > 18 for v in seen.values(b"content-length")),
    ),
)

REQUEST = (
    *COMMON,
    Rule(
        "version",
        "only HTTP/1.1 is spoken here",
        "HTTP/1.0 has no chunks and no Host; nothing that we serve needs it.",
        lambda seen: seen.version != b"1.1" and seen.started,
        stays=True,
    ),
    Rule(
        "head too large",
        "the head is larger",
        "a bound of ours; h11 bounds only heads that are not complete yet.",
        lambda seen: len(seen.head) > HEAD_MAX,
    ),
    Rule(
        "too many headers",
        "more than",
        "a bound of ours.",
        lambda seen: _lines(seen) > HEADERS_MAX,
    ),
    Rule(
        "method",
        "this method is not spoken here",
        "only methods that the Kubernetes API and ours have; CONNECT and TRACE not at all.",
        lambda seen: seen.method not in _METHODS and seen.started,
        stays=True,
    ),
    Rule(
        "not a path",
        "the request target must be a path",
        "absolute-form, authority-form and asterisk-form name another host or none: two readers, two routes.",
        lambda seen: seen.started and not seen.target.startswith(b"/"),
        stays=True,
    ),
    Rule(
        "fragment",
        "must not hold a fragment",
        "RFC 9112 3.2: a target has no fragment; some servers cut it off, some do not.",
        lambda seen: b"#" in seen.target,
        stays=True,
    ),
    Rule(
        "host",
        "exactly one valid Host header is needed",
        "RFC 9112 3.2: an invalid Host is a 400; h11 does not look at its value.",
        lambda seen: any(name == b"host" and not _HOST.fullmatch(value) for name, value in seen.headers),
        stays=True,
    ),
    Rule(
        "expectation",
        "the only expectation met here",
        "RFC 9110 10.1.1 lets a server answer 417.",
        lambda seen: [value.lower() for value in seen.values(b"expect")] not in ([], [b"100-continue"]),
    ),
    Rule(
        "upgrade with a body",
        "asks for an upgrade must not have a body",
        "after a 101 the bytes belong to the new protocol: a body between is where readers differ.",
        lambda seen: (
            bool(seen.values(b"upgrade"))
            and bool(seen.values(b"transfer-encoding") or any(v.strip(b"0") for v in seen.values(b"content-length")))
        ),
    ),
    Rule(
        "chunk extension",
        "malformed chunk size",
        "no Kubernetes client sends one, and line ends inside were how recent smuggling worked.",
        lambda seen: bool(re.search(rb"(?:^|\n)[0-9A-Fa-f]+[ \t]*;", seen.after)),
        stays=True,
    ),
    Rule(
        "space after a chunk size",
        "malformed chunk size",
        "RFC 9112 7.1 has no space there; h11 takes it for the sake of old servers.",
        lambda seen: bool(re.search(rb"(?:^|\n)[0-9A-Fa-f]+[ \t]+(?:\r|$)", seen.after)),
    ),
    Rule(
        "long chunk size",
        "malformed chunk size",
        "more than 15 digits (h11: 20); other parsers overflow at 16.",
        lambda seen: bool(re.search(rb"(?:^|\n)[0-9A-Fa-f]{16}", seen.after)),
        stays=True,
    ),
    Rule(
        "trailers",
        "trailers are not taken",
        "no Kubernetes client sends trailers; merged into the head they would be headers that nobody checked.",
        lambda seen: bool(seen.trailers) or _trailer_lines(seen.after),
    ),
)

RESPONSE = (
    *COMMON,
    Rule(
        "status",
        "malformed status line",
        "RFC 9110 15: a status is within 100 and 599; a recipient may treat others as 5xx, we refuse them.",
        lambda seen: bool(re.search(rb"(?m)^HTTP/[0-9.]+ (?:[06-9][0-9][0-9])", seen.heads)),
        stays=True,
    ),
    Rule(
        "version",
        "malformed status line",
        "HTTP/1.0 and HTTP/1.1; h11 takes any two digits.",
        lambda seen: bool(re.search(rb"(?m)^HTTP/(?!1\.[01] )", seen.heads)),
    ),
    Rule(
        "chunks in HTTP/1.0",
        "unknown Transfer-Encoding",
        "RFC 9112 6.1: framing by Transfer-Encoding in HTTP/1.0 is faulty.",
        lambda seen: seen.version != b"1.1" and bool(seen.values(b"transfer-encoding")),
    ),
    Rule(
        "coding of a 1xx",
        "Transfer-Encoding in an informational",
        "RFC 9112 6.1: a server MUST NOT send Transfer-Encoding in a 1xx; whoever heeds it reads other responses.",
        lambda seen: seen.informational > 0 or seen.status == 101,
    ),
    Rule(
        "too many informational",
        "too many informational",
        "a bound of ours.",
        lambda seen: seen.informational > 16,
    ),
    Rule(
        "chunk line or trailer",
        "malformed chunk",
        "llhttp reads these by the grammar of RFC 9112 7.1; h11 takes anything after a semicolon, and spaces.",
        lambda seen: (
            bool(re.search(rb"[0-9A-Fa-f][ \t;]", seen.after)) or bool(seen.trailers) or _trailer_lines(seen.after)
        ),
    ),
    Rule(
        "long chunk size",
        "malformed chunk",
        "more than 16 digits (h11: 20).",
        lambda seen: bool(re.search(rb"(?:^|\n)[0-9A-Fa-f]{16}", seen.after)),
        stays=True,
    ),
)


def explain(rules: tuple[Rule, ...], reason: str, seen: Seen) -> Rule | None:
    """The rule that explains why we refused with `reason` what h11 did not refuse."""
    for rule in rules:
        if re.search(rule.reason, reason) and rule.holds(seen):
            return rule
    return None
