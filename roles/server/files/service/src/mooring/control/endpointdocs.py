# SPDX-License-Identifier: Apache-2.0
"""From who holds tokens to the signed documents of an endpoint (`wire/endpoint.py`); the last shards are kept in
memory, up to a bound.

Shards are made in a thread of their own, one at a time: what takes a tenth of a second there holds up neither the API
nor the bus. What fell out of memory is made again when it is asked for.

It must not: let a document leave that is not signed, keep back a revocation because of a size, or know who asks.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import inf
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mooring.control.endpointbook import Holder, Holders
from mooring.lib import logging, metrics
from mooring.wire import endpoint
from mooring.wire.endpoint import MAX_DOCUMENT, Index, Shard, body_of
from mooring.wire.sealed import digest_of, seal

KEPT_BYTES: Final = 64 * 1024 * 1024
"""Of all shards in memory together; the one that was asked for last stays in any case."""


@dataclass(frozen=True, slots=True)
class Whose:
    """For which cluster a document is, and what goes into its header. `revision`: what it is called if it is new."""

    cluster_id: str
    uid: str
    revision: int
    now: float


@dataclass(frozen=True, slots=True)
class Made:
    """A shard. `digest` is "" if nobody is in it; then there is no document. `ids`: of the tokens in it. `left_out`:
    how many users it has no room for."""

    number: int
    revision: int
    digest: str
    ids: frozenset[str]
    next_end: float
    left_out: int


class Documents:
    """Makes and keeps them. `most`: bytes of one document. `close` ends the thread."""

    def __init__(self, key: Ed25519PrivateKey, kept_bytes: int = KEPT_BYTES, most: int = MAX_DOCUMENT) -> None:
        self._key = key
        self._kept_bytes = kept_bytes
        self._most = most
        self._kept: OrderedDict[tuple[str, int], tuple[str, bytes]] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mooring-endpoint")

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def shard(self, whose: Whose, number: int, holders: Holders, before: Made | None) -> Made:
        """Make, sign and keep one shard. With the content of `before` it is called what that was."""
        key = (whose.cluster_id, number)
        if not holders.holders:
            self._kept.pop(key, None)
            return Made(number, whose.revision, "", frozenset(), holders.next_end, 0)
        loop = asyncio.get_running_loop()
        made, data = await loop.run_in_executor(self._thread, self._make, whose, number, holders, before)
        self._kept.pop(key, None)
        if data:
            self._keep(key, made.digest, data)
        return made

    def index(self, whose: Whose, document: Index) -> bytes:
        """The signed index. It is small, and so made where one is."""
        return endpoint.seal(
            document,
            self._key,
            cluster_id=whose.cluster_id,
            cluster_uid=whose.uid,
            revision=whose.revision,
            issued_at=whose.now,
        )

    def kept(self, cluster_id: str, number: int, digest: str) -> bytes | None:
        """The shard with this digest, if it is still in memory."""
        found = self._kept.get((cluster_id, number))
        if found is None or found[0] != digest:
            return None
        self._kept.move_to_end((cluster_id, number))
        return found[1]

    def forget(self, cluster_id: str) -> None:
        """The cluster was deleted, or has no endpoint any more."""
        for number in range(endpoint.SHARDS):
            self._kept.pop((cluster_id, number), None)

    def _keep(self, key: tuple[str, int], digest: str, data: bytes) -> None:
        self._kept[key] = (digest, data)
        size = sum(len(other) for _unused, other in self._kept.values())
        while size > self._kept_bytes and len(self._kept) > 1:
            size -= len(self._kept.popitem(last=False)[1][1])

    def _make(self, whose: Whose, number: int, holders: Holders, before: Made | None) -> tuple[Made, bytes]:
        began = time.perf_counter()
        users = [_user(holder) for holder in holders.holders]
        left_out = 0
        while True:
            body = body_of(Shard(number=number, users=tuple(users)))
            digest = digest_of(body)
            revision = whose.revision if before is None or before.digest != digest else before.revision
            data = self._seal(whose, revision, body)
            if data or not users:
                break
            # A size must not keep a revocation from being delivered: who fills the shard most goes, and not the change.
            gone = max(1, len(users) // 64)
            users = _smaller(users, gone)
            left_out += gone
        if left_out:
            logging.get("mooring.control").error(
                "the tokens of some users have no room in the endpoint of their cluster",
                cluster=whose.cluster_id,
                users=left_out,
            )
        ids = frozenset(token.id for user in users for token in user.tokens)
        metrics.ENDPOINT_RENDER_SECONDS.observe(time.perf_counter() - began)
        if not users:
            return Made(number, revision, "", ids, holders.next_end, left_out), b""
        return Made(number, revision, digest, ids, holders.next_end, left_out), data

    def _seal(self, whose: Whose, revision: int, body: bytes) -> bytes:
        """The signed document; empty if it is too large."""
        if len(body) > endpoint.SHARD.limit:
            return b""
        data = seal(
            endpoint.SHARD,
            body,
            self._key,
            cluster_id=whose.cluster_id,
            cluster_uid=whose.uid,
            revision=revision,
            issued_at=whose.now,
        )
        return b"" if len(data) > self._most else data


def _user(holder: Holder) -> endpoint.User:
    user = holder.user
    return endpoint.User(
        id=user.id,
        name=user.name,
        uid=user.uid,
        groups=tuple(name for _unused, name in user.groups),
        enabled=user.enabled,
        until=None if holder.until == inf else holder.until,
        tokens=holder.tokens,
    )


def _smaller(users: Sequence[endpoint.User], count: int) -> list[endpoint.User]:
    """Without those who take most room; the same ones each time."""
    largest = sorted(users, key=lambda user: (len(user.tokens), sum(map(len, user.groups)), user.id), reverse=True)
    gone = {user.id for user in largest[:count]}
    return [user for user in users if user.id not in gone]
