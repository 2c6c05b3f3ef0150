# SPDX-License-Identifier: Apache-2.0
"""Who a client wants to act as (`kubectl --as`): a plain value, and its three forms as headers.

    client -> server        Impersonate-User: alice                        read()
    server -> agent         X-Mooring-As-User: alice                       to_wire(), from_wire()
    agent -> API server     Impersonate-User: alice                        impersonation()

Why: between server and agent `Impersonate-*` names the real user, so the wanted identity needs names of its own, which
no client's header can have (docs/protocol/tunnel.md section 4). Each form is written from the value, never copied.

It must not: decide who may act as whom (the cluster does), or let through what two readers could understand in two
ways: unknown or repeated headers, empty values, anything but printable ASCII, keys of ours.
Source: https://kubernetes.io/docs/reference/access-authn-authz/user-impersonation/
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from mooring.wire.headers import Headers, connection_tokens

TARGET: Final = "apiserver-as"
"""The target of an OPEN whose head also names a wanted identity. An agent that does not know it refuses the stream."""
FEATURE: Final = "act-as"
"""What an agent that serves TARGET says in its HELLO."""
RESERVED: Final = "mooring.fleet/"
"""Extra keys that begin so are ours: a client cannot set them."""

MAX_VALUES: Final = 128
"""Groups and extra values together: each is a question to the cluster."""
MAX_BYTES: Final = 1024
"""Bytes of one name, key or value."""
MAX_TOTAL: Final = 16 * 1024
"""Bytes of them all."""

_UNKNOWN: Final = "a header looks like one for impersonation and is none that Kubernetes knows"
_CLIENT: Final = b"impersonate-"
_WIRE: Final = b"x-mooring-as-"
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9a-f]{2})")
_PRINTABLE: Final = bytes(range(0x20, 0x7F))
_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-._~")


class BadActAs(Exception):
    """Not an identity that can be acted as. `status`: 400, 403 for a key of ours, 431 over a bound.

    `reason` names what is wrong and holds nothing of what was sent.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ActAs:
    """The wanted identity as it was asked for: what the API server adds by itself (groups of a service account,
    `system:authenticated`) is not in it. `extra` are pairs of key and value in their order."""

    user: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, str], ...] = ()

    def texts(self) -> list[str]:
        """Every name, key and value in it."""
        return [self.user, self.uid, *self.groups, *(text for pair in self.extra for text in pair)]


def read(headers: Headers) -> ActAs:
    """The identity in a client's `Impersonate-*` headers. Raises BadActAs.

    Stricter than the API server, which ignores headers that it does not know and takes the first of several users: here
    what cannot be meant in one way only is refused.
    """
    if any(is_client(name) for name in connection_tokens(headers)):
        raise BadActAs(400, "Connection names an impersonation header")
    return _collect(headers, _CLIENT)


def from_wire(headers: Headers) -> ActAs:
    """The wanted identity that a server tells an agent. Raises BadActAs."""
    return _collect(headers, _WIRE)


def is_client(name: bytes) -> bool:
    """Whether a client's header of this name speaks of impersonation, in whatever spelling."""
    return _is(name, _CLIENT)


def is_wire(name: bytes) -> bool:
    """Whether a header of this name is part of a wanted identity between server and agent."""
    return _is(name, _WIRE)


def to_wire(wanted: ActAs) -> Headers:
    """The headers from which `from_wire` makes the same value."""
    return _headers(wanted, b"X-Mooring-As-")


def impersonation(wanted: ActAs) -> Headers:
    """The headers that make the API server run a request as this identity."""
    return _headers(wanted, b"Impersonate-")


def extra_header(key: str) -> bytes:
    """The name of the header that sets an extra for the API server."""
    return b"Impersonate-Extra-" + _escape(key)


def extra_key(name: bytes) -> str | None:
    """The key that a header `Impersonate-Extra-<key>` sets, as the API server reads it; None for another header.

    Raises BadActAs for a key that is empty or not printable ASCII.
    """
    lower = name.lower()
    if not lower.startswith(b"impersonate-extra-"):
        return None
    return _key(lower[len(b"impersonate-extra-") :])


def _collect(headers: Headers, prefix: bytes) -> ActAs:
    users: list[str] = []
    uids: list[str] = []
    groups: list[str] = []
    extra: list[tuple[str, str]] = []
    total = 0
    for name, value in headers:
        lower = name.lower()
        if not lower.startswith(prefix):
            if _is(name, prefix):
                raise BadActAs(400, _UNKNOWN)
            continue
        kind = lower[len(prefix) :]
        text = _text(value, "a value")
        total += len(value)
        if kind == b"user":
            users.append(text)
        elif kind == b"uid":
            uids.append(text)
        elif kind == b"group":
            groups.append(text)
        elif kind.startswith(b"extra-"):
            key = _key(kind[len(b"extra-") :])
            if key.lower().startswith(RESERVED):
                raise BadActAs(403, f"extras that begin with {RESERVED} are set by the server only")
            total += len(key)
            extra.append((key, text))
        else:
            raise BadActAs(400, _UNKNOWN)
    if len(groups) + len(extra) > MAX_VALUES:
        raise BadActAs(431, f"more than {MAX_VALUES} groups and extras to impersonate")
    if total > MAX_TOTAL:
        raise BadActAs(431, f"more than {MAX_TOTAL} bytes of names to impersonate")
    if not users:
        raise BadActAs(400, "requested groups, a uid or extras without impersonating a user name")
    if len(users) > 1 or len(uids) > 1:
        raise BadActAs(400, "more than one user or uid to impersonate")
    return ActAs(users[0], uids[0] if uids else "", tuple(groups), tuple(extra))


def _headers(wanted: ActAs, prefix: bytes) -> Headers:
    headers: Headers = [(prefix + b"User", wanted.user.encode("ascii"))]
    if wanted.uid:
        headers.append((prefix + b"Uid", wanted.uid.encode("ascii")))
    headers += [(prefix + b"Group", group.encode("ascii")) for group in wanted.groups]
    headers += [(prefix + b"Extra-" + _escape(key), value.encode("ascii")) for key, value in wanted.extra]
    return headers


def _is(name: bytes, prefix: bytes) -> bool:
    """Whether a header name begins so, or is that much, for a reader that takes underscores for hyphens."""
    return (name.lower().replace(b"_", b"-") + b"-").startswith(prefix)


def _text(value: bytes, what: str) -> str:
    if not value:
        raise BadActAs(400, f"{what} to impersonate is empty")
    if len(value) > MAX_BYTES:
        raise BadActAs(431, f"{what} to impersonate is longer than {MAX_BYTES} bytes")
    if value.translate(None, _PRINTABLE):
        raise BadActAs(400, f"{what} to impersonate holds something else than printable ASCII characters")
    return value.decode("ascii")


def _key(escaped: bytes) -> str:
    """The key behind an escaped one, as the API server has it: in lower case first, then unescaped; a malformed escape
    leaves it as it is (kubernetes, `unescapeExtraKey`)."""
    raw = escaped if _BAD_ESCAPE.search(escaped) else unquote_to_bytes(escaped)
    return _text(raw, "the key of an extra")


def _escape(key: str) -> bytes:
    """A key as part of a header name. Upper case is escaped too: unescaping comes after the change to lower case."""
    return b"".join(b"%c" % byte if byte in _PLAIN else b"%%%02x" % byte for byte in key.encode("ascii"))
