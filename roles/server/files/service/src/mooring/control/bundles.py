# SPDX-License-Identifier: Apache-2.0
"""From the policy to the signed bundle of one cluster; the last ones are kept in memory, up to a bound.

Rendering is done in a thread of its own, one cluster at a time: what takes a second there holds up neither the API nor
the bus. What fell out of memory is rendered again when it is asked for; the same policy gives the same digest.

It must not: let a bundle leave that is not signed, or know who asks for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mooring.lib import metrics
from mooring.policy.render import ClusterFacts, render
from mooring.store.policies import Policy
from mooring.wire.bundle import Bundle, body_of, digest_of, seal

KEPT_BYTES: Final = 64 * 1024 * 1024
"""Of all bundles in memory together; the one that was asked for last stays in any case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to render. `left_out`: ids of users who get nothing. `revision`: what it is called if it is new; with the
    digest of `before` (revision and digest) it is what it was. `now`: Unix seconds."""

    policy: Policy
    facts: ClusterFacts
    left_out: Set[str]
    revision: int
    before: tuple[int, str]
    now: float


@dataclass(frozen=True, slots=True)
class Encoded:
    """A bundle as it is sent."""

    revision: int
    digest: str
    data: bytes


class Bundles:
    """Makes and keeps them. `prefix` goes before the names of users and groups in clusters. `close` ends the thread."""

    def __init__(self, key: Ed25519PrivateKey, prefix: str, kept_bytes: int = KEPT_BYTES) -> None:
        self.public_key = key.public_key().public_bytes_raw()
        self._key = key
        self._prefix = prefix
        self._most = kept_bytes
        self._kept: OrderedDict[str, Encoded] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mooring-policy")

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def make(self, wanted: Wanted) -> Encoded:
        """Render, pack and sign, and keep the result. Raises BadBundle for what does not fit into one."""
        encoded = await asyncio.get_running_loop().run_in_executor(self._thread, self._make, wanted)
        self._keep(wanted.facts.id, encoded)
        return encoded

    def kept(self, cluster_id: str, digest: str) -> Encoded | None:
        """The bundle with this digest, if it is still in memory."""
        found = self._kept.get(cluster_id)
        if found is None or found.digest != digest:
            return None
        self._kept.move_to_end(cluster_id)
        return found

    def forget(self, cluster_id: str) -> None:
        """The cluster was deleted."""
        self._kept.pop(cluster_id, None)

    def _keep(self, cluster_id: str, encoded: Encoded) -> None:
        self._kept.pop(cluster_id, None)
        self._kept[cluster_id] = encoded
        size = sum(len(other.data) for other in self._kept.values())
        while size > self._most and len(self._kept) > 1:
            size -= len(self._kept.popitem(last=False)[1].data)

    def _make(self, wanted: Wanted) -> Encoded:
        began = time.perf_counter()
        rendered = render(wanted.policy, wanted.facts, prefix=self._prefix, left_out=wanted.left_out, now=wanted.now)
        body = body_of(rendered.objects, rendered.namespaces)
        digest = digest_of(body)
        revision = wanted.before[0] if digest == wanted.before[1] else wanted.revision
        bundle = Bundle(
            cluster_id=wanted.facts.id,
            cluster_uid=wanted.facts.uid,
            revision=revision,
            issued_at=wanted.now,
            objects=rendered.objects,
            namespaces=rendered.namespaces,
        )
        data = seal(bundle, body, self._key)
        metrics.POLICY_RENDER_SECONDS.observe(time.perf_counter() - began)
        return Encoded(revision, digest, data)
