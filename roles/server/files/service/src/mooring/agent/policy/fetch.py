# SPDX-License-Identifier: Apache-2.0
"""The signed bundle, fetched from the server with a JWT as for a tunnel, over TLS by the pinned CA.

It must not: follow a redirect, ask an address that is not the server's of the registration, or hold more than can be
kept. What comes is only bytes here; the signature says what they are worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from mooring.agent.identity import Identity
from mooring.agent.policy.vault import LARGEST
from mooring.lib.errors import MooringError
from mooring.lib.version import VERSION
from mooring.net.fetch import Answer, FetchError, fetch
from mooring.net.http1client import Http1Pool, PoolLimits
from mooring.net.sockets import tcp_connector
from mooring.net.tls import client_context
from mooring.wire.headers import RequestHead, get

DEADLINE: Final = 30.0
"""Seconds for the whole answer."""
PATH: Final = "/api/v1/agents/policy"


class NoPolicy(MooringError):
    """The server gives no policy. `status` is its HTTP status."""

    def __init__(self, status: int, reason: str, date: float | None) -> None:
        super().__init__(reason)
        self.status = status
        self.date = date


@dataclass(frozen=True, slots=True)
class Fetched:
    """A bundle, or None if it is the one that we have; and the server's time (Unix seconds), if it said so."""

    data: bytes | None
    date: float | None


def addresses(identity: Identity) -> list[str]:
    """Where the server's API is: where the agent registered, then where its tunnels lead to."""
    found = [identity.server_url.rstrip("/")]
    for url in identity.tunnel_urls:
        head, sep, _unused = url.partition("/tunnel/connect")
        if sep:
            found.append(f"https://{head.removeprefix('wss://')}")
    return list(dict.fromkeys(url for url in found if url.startswith("https://")))


async def get_bundle(base: str, identity: Identity, now: float, digest: str) -> Fetched:
    """Asks the server at `base`. `now`: the time at the server; `digest`: of the bundle that we have, or empty. Raises
    NoPolicy, FetchError, BadTrust."""
    url = urlsplit(base)
    host, port = url.hostname or "", url.port or 443
    pool = Http1Pool(
        tcp_connector(host, port, client_context(identity.ca_pem)),
        name=f"the server {base}",
        limits=PoolLimits(max_connections=1, max_idle=0),
    )
    headers = [
        (b"Host", url.netloc.rpartition("@")[2].encode("ascii")),
        (b"User-Agent", f"mooring-agent/{VERSION}".encode()),
        (b"Authorization", b"Bearer " + identity.sign(now).reveal().encode("ascii")),
        (b"Accept", b"application/octet-stream, application/problem+json"),
    ]
    if digest:
        headers.append((b"If-None-Match", f'"{digest}"'.encode("ascii")))
    head = RequestHead(b"GET", (url.path.rstrip("/") + PATH).encode("ascii"), headers)
    try:
        answer = await fetch(pool, head, b"", deadline=DEADLINE, max_body=LARGEST)
    finally:
        await pool.aclose()
    date = _date(answer)
    if answer.status == 304:
        return Fetched(None, date)
    if answer.status != 200:
        raise NoPolicy(answer.status, f"the server gives no policy: {_why(answer)}", date)
    return Fetched(answer.body, date)


def _date(answer: Answer) -> float | None:
    value = get(answer.headers, b"date")
    try:
        return parsedate_to_datetime(value.decode("latin-1")).timestamp() if value is not None else None
    except (ValueError, OverflowError):
        return None


def _why(answer: Answer) -> str:
    try:
        problem = msgspec.json.decode(answer.body, type=dict[str, Any])
    except msgspec.MsgspecError:
        problem = {}
    text = problem.get("detail") or problem.get("title")
    return str(text)[:500] if text else f"HTTP status {answer.status}"


__all__ = ["DEADLINE", "PATH", "FetchError", "Fetched", "NoPolicy", "addresses", "get_bundle"]
