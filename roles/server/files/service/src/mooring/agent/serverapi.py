# SPDX-License-Identifier: Apache-2.0
"""Small requests to the server's API, as the agent of this cluster: a fresh JWT each time, over TLS by the pinned CA.

One connection is kept from one request to the next, since what a revocation waits for is mostly round trips.
It must not: follow a redirect, ask an address that is not the server's of the registration, or show a JWT twice. What
comes is only bytes here.
"""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import msgspec

from mooring.agent.identity import BadIdentity, Identity
from mooring.agent.servertime import ServerTime, Verdict
from mooring.lib.errors import MooringError
from mooring.lib.version import VERSION
from mooring.net.fetch import Answer, FetchError, fetch
from mooring.net.http1client import Http1Pool, PoolLimits
from mooring.net.sockets import tcp_connector
from mooring.net.tls import client_context
from mooring.wire.headers import Headers, RequestHead, get

DEADLINE: Final = 30.0
"""Seconds for the whole answer."""
IDLE: Final = 50.0
"""Seconds for which a connection is kept."""
_USED_UP: Final = (401, 403)


class ServerRefuses(MooringError):
    """The server answers with an error. `status` is its HTTP status, `date` its clock (Unix seconds), if it said so."""

    def __init__(self, status: int, reason: str, date: float | None) -> None:
        super().__init__(reason)
        self.status = status
        self.date = date


class ServerApi:
    """Asks the server at one of the addresses of the registration: the one that answered last."""

    def __init__(self, time: ServerTime) -> None:
        self._time = time
        self._tried = 0
        self._at: tuple[str, str] = ("", "")
        self._pool: Http1Pool | None = None

    async def ask(
        self,
        identity: Identity,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        media: str = "application/json",
        accept: str = "application/json",
        max_body: int,
        deadline: float = DEADLINE,
    ) -> Answer:
        """The answer, if it is a good one (2xx). Raises ServerRefuses, FetchError, BadTrust, BadIdentity; after these
        the next call asks another address."""
        bases = addresses(identity)
        if not bases:
            raise BadIdentity("the agent knows no address of the server's API")
        base = bases[self._tried % len(bases)]
        try:
            while True:
                pool = await self._to(base, identity)
                head = head_of(base, identity, self._time.now(), method, path, accept, media if body else "")
                answer = await fetch(pool, head, body, deadline=deadline, max_body=max_body)
                if 200 <= answer.status < 300:
                    return answer
                date = date_of(answer)
                refused = answer.status in _USED_UP and date is not None
                if refused and self._time.learn(date or 0.0) is Verdict.CORRECTED:
                    continue  # with a JWT that is dated by the server's clock
                raise ServerRefuses(answer.status, f"the server refuses: {why(answer)}", date)
        except (ServerRefuses, FetchError):
            self._tried += 1
            raise

    async def aclose(self) -> None:
        """Closes the connection."""
        pool, self._pool, self._at = self._pool, None, ("", "")
        if pool is not None:
            await pool.aclose()

    async def _to(self, base: str, identity: Identity) -> Http1Pool:
        if self._pool is None or self._at != (base, identity.ca_pem):
            await self.aclose()
            self._pool = pool_of(base, identity, idle=1)
            self._at = (base, identity.ca_pem)
        return self._pool


def addresses(identity: Identity) -> list[str]:
    """Where the server's API is: where the agent registered, then where its tunnels lead to."""
    found = [identity.server_url.rstrip("/")]
    for url in identity.tunnel_urls:
        head, sep, _unused = url.partition("/tunnel/connect")
        if sep:
            found.append(f"https://{head.removeprefix('wss://')}")
    return list(dict.fromkeys(url for url in found if url.startswith("https://")))


def pool_of(base: str, identity: Identity, idle: int = 0) -> Http1Pool:
    """Connections to the server at `base`, one at a time. Raises BadTrust."""
    url = urlsplit(base)
    return Http1Pool(
        tcp_connector(url.hostname or "", url.port or 443, client_context(identity.ca_pem)),
        name=f"the server {base}",
        limits=PoolLimits(max_connections=1, max_idle=idle, idle_timeout=IDLE),
    )


def head_of(
    base: str,
    identity: Identity,
    now: float,
    method: str,
    path: str,
    accept: str,
    media: str = "",
    more: Sequence[tuple[bytes, bytes]] = (),
) -> RequestHead:
    """The head of a request with a fresh JWT. `now`: the time at the server."""
    url: SplitResult = urlsplit(base)
    headers: Headers = [
        (b"Host", url.netloc.rpartition("@")[2].encode("ascii")),
        (b"User-Agent", f"mooring-agent/{VERSION}".encode()),
        (b"Authorization", b"Bearer " + identity.sign(now).reveal().encode("ascii")),
        (b"Accept", f"{accept}, application/problem+json".encode("ascii")),
        *more,
    ]
    if media:
        headers.append((b"Content-Type", media.encode("ascii")))
    return RequestHead(method.encode("ascii"), (url.path.rstrip("/") + path).encode("ascii"), headers)


def date_of(answer: Answer) -> float | None:
    """The server's clock when it answered, in Unix seconds, if it said so."""
    value = get(answer.headers, b"date")
    try:
        return parsedate_to_datetime(value.decode("latin-1")).timestamp() if value is not None else None
    except (ValueError, OverflowError):
        return None


def why(answer: Answer) -> str:
    """What a problem document says, else the HTTP status."""
    try:
        problem = msgspec.json.decode(answer.body, type=dict[str, Any])
    except msgspec.MsgspecError:
        problem = {}
    text = problem.get("detail") or problem.get("title")
    return str(text)[:500] if text else f"HTTP status {answer.status}"
