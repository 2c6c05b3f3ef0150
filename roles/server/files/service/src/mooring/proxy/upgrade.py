# SPDX-License-Identifier: Apache-2.0
"""Upgrades: `exec`, `attach` and `port-forward` over WebSocket and SPDY/3.1.

Why: after the 101 a connection is raw bytes that nobody here understands, so everything that can be checked has to be
checked before: the protocol asked for, where a browser comes from, and that the cluster switches to what was asked.

It must not: let a protocol through that the request reader does not know, or a bearer token in a subprotocol.
Sources: RFC 9110 section 7.8, RFC 6455 sections 4 and 10.2.
"""

from __future__ import annotations

import re
from typing import Final

from mooring.proxy.answers import Refused
from mooring.wire.headers import Headers, ResponseHead, get, get_all

# A serialised origin (RFC 6454 section 6.2). Not urlsplit: it drops tabs and takes user names and paths.
_ORIGIN: Final = re.compile(rb"(?:https|wss)://([A-Za-z0-9._~\-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", re.IGNORECASE)


def protocol(headers: Headers) -> bytes:
    """What a request that asks for an upgrade wants to switch to."""
    return get(headers, b"upgrade") or b""


def check_origin(headers: Headers) -> None:
    """Refuse a page of another site: browsers let any page open a WebSocket, and say only here where it came from.

    Programs send no `Origin`, or their own idea of the server's address. Raises Refused(403).
    """
    origins = get_all(headers, b"origin")
    if not origins:
        return
    match = _ORIGIN.fullmatch(origins[0])
    here = (
        len(origins) == 1
        and match is not None
        and _authority(match[1] + (match[2] or b"")) == _authority(get(headers, b"host") or b"")
    )
    if not here:
        raise Refused(403, "the Origin of this request is not this server; pages of other sites may not connect")


def request_headers(kept: Headers, wanted: bytes) -> Headers:
    """The end-to-end headers of a request, with the upgrade added again."""
    return [*kept, (b"Connection", b"Upgrade"), (b"Upgrade", wanted)]


def switched(head: ResponseHead, wanted: bytes) -> bytes | None:
    """The protocol that a 101 switches to, or None if it is not what was asked for."""
    answer = get_all(head.headers, b"upgrade")
    return answer[0] if wanted and len(answer) == 1 and answer[0].lower() == wanted.lower() else None


def _authority(netloc: bytes) -> bytes:
    return netloc.lower().removesuffix(b":443")
