# SPDX-License-Identifier: Apache-2.0
"""The signed bundle, fetched from the server with a JWT as for a tunnel, over TLS by the pinned CA.

It must not: hold more than can be kept. What comes is only bytes here; the signature says what they are worth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mooring.agent.identity import Identity
from mooring.agent.policy.vault import LARGEST
from mooring.agent.serverapi import DEADLINE, date_of, head_of, pool_of, why
from mooring.lib.errors import MooringError
from mooring.net.fetch import FetchError, fetch

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


async def get_bundle(base: str, identity: Identity, now: float, digest: str) -> Fetched:
    """Asks the server at `base`. `now`: the time at the server; `digest`: of the bundle that we have, or empty. Raises
    NoPolicy, FetchError, BadTrust."""
    more = [(b"If-None-Match", f'"{digest}"'.encode("ascii"))] if digest else []
    pool = pool_of(base, identity)
    head = head_of(base, identity, now, "GET", PATH, "application/octet-stream", more=more)
    try:
        answer = await fetch(pool, head, b"", deadline=DEADLINE, max_body=LARGEST)
    finally:
        await pool.aclose()
    date = date_of(answer)
    if answer.status == 304:
        return Fetched(None, date)
    if answer.status != 200:
        raise NoPolicy(answer.status, f"the server gives no policy: {why(answer)}", date)
    return Fetched(answer.body, date)


__all__ = ["DEADLINE", "PATH", "FetchError", "Fetched", "NoPolicy", "get_bundle"]
