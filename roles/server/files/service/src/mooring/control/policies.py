# SPDX-License-Identifier: Apache-2.0
"""The policy controller: what was committed becomes the signed bundle of each cluster, and the agents hear of it.

    store --commit--> book --> which clusters? --gathered--> render in a thread --> tell the agents
    agents --policy-status--> how each cluster stands --at most once a second--> store

A commit only notes which clusters it may concern. One task renders them, connected ones first, and tells the agents
where something came out differently; they fetch the bundle (`api/agentpolicy.py`). It must not: wait inside a commit,
hold what it was told without a bound, or let a cluster hear of another one's policy.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Protocol

from mooring.control.affected import affected, clusters_of, next_end
from mooring.control.bundles import Bundles, Encoded, Wanted
from mooring.control.drift import DriftLog
from mooring.control.standings import Standings
from mooring.lib import logging, metrics
from mooring.lib.bounds import Rate
from mooring.lib.clock import Clock
from mooring.lib.tasks import Supervisor
from mooring.policy.book import Book
from mooring.policy.render import ClusterFacts
from mooring.policy.standing import Standing
from mooring.store.policies import PolicyStatus
from mooring.store.ports import Store
from mooring.store.records import Cluster, Delta

GATHER: Final = 0.02  # seconds: commits that follow each other become one bundle
BURST: Final = 16  # bundles of one cluster in a row; then one for each 0.3 s: an agent has a bound of its own (Replays)
BURST_SECONDS: Final = 5.0
RETRY: Final = 30.0  # seconds until what could not be rendered is tried again
FETCH_SECONDS: Final = 20.0  # for a bundle that is not in memory any more
LOOK_AGAIN: Final = 60.0  # seconds until the next end of a binding is looked for again: the clock may have been set


class HubView(Protocol):
    """What the controller needs of mooring.bus.roster.Roster."""

    on_change: list[Callable[[str, bool, str], None]]
    on_message: list[Callable[[str, dict[str, Any]], None]]

    def connected(self, cluster_id: str) -> bool: ...

    def tell(self, cluster_id: str, message: dict[str, Any]) -> None: ...


class PolicyController:
    """Call `start` after the index is loaded, then `committed` for each commit, after the index took it over."""

    def __init__(self, store: Store, hub: HubView, clock: Clock, book: Book, bundles: Bundles, drift: DriftLog) -> None:
        self._store = store
        self._hub = hub
        self._clock = clock
        self._book = book
        self._bundles = bundles
        self._standings = Standings(store, clock, drift, hub.connected)
        self._clusters = self._standings.known
        self._disabled: set[str] = set()
        self._due: dict[str, float] = {}  # cluster id -> the time of the commit
        self._taken: dict[str, float] = {}  # the same of those that are being rendered, or put off
        self._rate = Rate(BURST, BURST_SECONDS)
        self._ended_to = clock.now()
        self._wake = asyncio.Event()
        self._ends = asyncio.Event()
        self._rendering = asyncio.Lock()
        self._tasks = Supervisor("policies")
        self._log = logging.get("mooring.control")
        self._key = base64.urlsafe_b64encode(bundles.public_key).decode().rstrip("=")

    async def start(self) -> None:
        """Take over the policy and how the clusters stood. Raises StoreUnavailable."""
        revision, policy = await self._store.policy()
        snapshot = await self._store.snapshot(self._clock.now())
        self._disabled = {user.id for user in snapshot.users if not user.enabled}
        self._book.load(policy, {cluster.id: cluster.labels for cluster in snapshot.clusters}, revision)
        stood = {status.cluster_id: status async for status in self._standings.stored()}
        for cluster in snapshot.clusters:
            self._know(cluster, stood.get(cluster.id))
        self._hub.on_change.append(self._changed)
        self._hub.on_message.append(self._message)
        self._tasks.spawn(self._render_all(), "render")
        self._standings.start()
        self._tasks.spawn(self._watch_ends(), "ends")

    async def aclose(self) -> None:
        """Write what is still noted, if the database answers within 5 seconds."""
        await self._tasks.aclose()
        await self._standings.aclose()

    async def flush(self) -> None:
        """Write how the clusters stand, now. Raises StoreUnavailable."""
        await self._standings.flush()

    # --- asked by the API -------------------------------------------------------------------------------------------

    @property
    def public_key(self) -> str:
        """The key that bundles are signed with, base64url: what an agent pins."""
        return self._key

    def digest(self, cluster_id: str) -> str:
        """The digest of the bundle that the cluster is to have; empty: none is rendered yet."""
        known = self._clusters.get(cluster_id)
        return "" if known is None or not known.told else known.told

    async def bundle(self, cluster_id: str) -> Encoded | None:
        """The cluster's bundle as it is now; None when there is none yet, or it takes too long to render it again."""
        digest = self.digest(cluster_id)
        found = self._bundles.kept(cluster_id, digest) if digest else None
        if found is None and digest:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FETCH_SECONDS):
                    await self._render(cluster_id, None)
            found = self._bundles.kept(cluster_id, self.digest(cluster_id))
        return found

    def standing(self, cluster_id: str) -> Standing | None:
        """How the cluster stands now; None: there is no such cluster. A commit counts from the moment it is answered,
        also while its bundle is not rendered yet."""
        known = self._clusters.get(cluster_id)
        waiting = self._taken.get(cluster_id, self._due.get(cluster_id))
        return None if known is None else self._standings.stands(known, waiting)

    # --- heard of the store; must not wait --------------------------------------------------------------------------

    def committed(self, delta: Delta) -> None:
        """Take over a commit: the book is true when this returns, and the clusters it concerns will be rendered."""
        now = self._clock.now()
        touched = self._take_clusters(delta)
        users = self._take_users(delta)
        before = self._book.policy
        if delta.policy_revision is not None:
            self._book.apply(delta.policy, delta.policy_revision)
            if any(binding is not None and binding.expires_at for binding in delta.policy.bindings.values()):
                self._ends.set()
        touched |= affected(before, self._book.policy, delta.policy, users, self._book.labels)
        for cluster_id in touched:
            self._due.setdefault(cluster_id, now)
        if touched:
            self._wake.set()

    def _take_clusters(self, delta: Delta) -> set[str]:
        """Most of these commits are reports of agents, which are nothing to a policy."""
        touched = set()
        for cluster_id, cluster in delta.clusters.items():
            known = self._clusters.get(cluster_id)
            if cluster is None:
                self._forget(cluster_id)
            elif known is None:
                self._know(cluster, None)
            elif (facts := _facts(cluster)) != known.facts:
                if facts.uid != known.facts.uid:
                    known.told = ""
                known.facts = facts
                self._book.set_labels(cluster_id, facts.labels)
                touched.add(cluster_id)
        return touched

    def _take_users(self, delta: Delta) -> set[str]:
        """The ids of users that were disabled, enabled or deleted; groups of users are nothing to a policy."""
        touched = set()
        for user_id, user in delta.users.items():
            disabled = user is not None and not user.enabled
            if user is None or disabled != (user_id in self._disabled):
                touched.add(user_id)
            (self._disabled.add if disabled else self._disabled.discard)(user_id)
        return touched

    def _know(self, cluster: Cluster, status: PolicyStatus | None) -> None:
        facts = _facts(cluster)
        self._standings.know(facts, status)
        self._book.set_labels(cluster.id, facts.labels)
        self._due.setdefault(cluster.id, self._clock.now())
        self._wake.set()

    def _forget(self, cluster_id: str) -> None:
        self._standings.forget(cluster_id)
        self._due.pop(cluster_id, None)
        self._taken.pop(cluster_id, None)
        self._book.set_labels(cluster_id, None)
        self._bundles.forget(cluster_id)

    # --- rendering --------------------------------------------------------------------------------------------------

    async def _render_all(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER)
            self._wake.clear()
            soonest = RETRY
            while self._due:
                cluster_id = next(filter(self._hub.connected, self._due), None) or next(iter(self._due))
                since = self._taken[cluster_id] = self._due.pop(cluster_id)
                wait = self._rate.take(cluster_id, self._clock.monotonic())
                if wait > 0:
                    soonest = min(soonest, wait)
                    continue
                try:
                    await self._render(cluster_id, since)
                except Exception as error:
                    # One cluster's fault must not keep the others waiting.
                    self._log.exception("a policy was not rendered", cluster=cluster_id, error=repr(error))
                    metrics.POLICY_RENDER_FAILURES.inc()
                    if cluster_id in self._clusters:
                        self._clusters[cluster_id].problem = str(error) or repr(error)
                else:
                    self._taken.pop(cluster_id, None)
            if self._taken:
                self._due |= self._taken  # with the older time of the two
                self._taken.clear()
                asyncio.get_running_loop().call_later(soonest, self._wake.set)

    async def _render(self, cluster_id: str, since: float | None) -> None:
        """Render a cluster's bundle as things are now. `since`: when that came to be wanted; None: it is only asked
        for again."""
        async with self._rendering:
            known = self._clusters.get(cluster_id)
            if known is None or not known.facts.uid:
                return
            status, now = known.status, self._clock.now()
            encoded = await self._bundles.make(
                Wanted(
                    policy=self._book.policy,
                    facts=known.facts,
                    left_out=frozenset(self._disabled),
                    revision=max(self._book.revision, status.desired_revision, status.applied_revision),
                    before=(status.desired_revision, status.desired_digest),
                    now=now,
                )
            )
            known = self._clusters.get(cluster_id)
            if known is None or not known.facts.uid:
                self._bundles.forget(cluster_id)  # it was deleted meanwhile
                return
            known.problem = ""
            if encoded.digest != known.status.desired_digest:
                self._standings.want(known, encoded.revision, encoded.digest, now if since is None else since)
            if encoded.digest != known.told:
                known.told = encoded.digest
                self._hub.tell(
                    cluster_id,
                    {"kind": "policy", "revision": encoded.revision, "digest": encoded.digest, "key": self._key},
                )

    # --- bindings that end ------------------------------------------------------------------------------------------

    def end_bindings(self) -> None:
        """Bindings that have ended since the last call: agents took them away by themselves; now they are not wanted
        any more either."""
        now, before = self._clock.now(), self._ended_to
        self._ended_to = max(now, before)
        policy = self._book.policy
        for binding in policy.bindings.values():
            if binding.expires_at is not None and before < binding.expires_at <= now:
                for cluster_id in clusters_of(binding, policy, self._book.labels):
                    self._due.setdefault(cluster_id, now)
                    self._wake.set()

    async def _watch_ends(self) -> None:
        while True:
            self._ends.clear()
            self.end_bindings()
            at = next_end(self._book.policy, self._ended_to)
            wait = LOOK_AGAIN if at is None else max(0.0, min(at - self._clock.now(), LOOK_AGAIN))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._ends.wait()

    # --- heard of agents; must not wait -----------------------------------------------------------------------------

    def _changed(self, cluster_id: str, connected: bool, reason: str) -> None:
        known = self._clusters.get(cluster_id)
        if known is not None and not connected:
            known.timed = False  # what it waits for from now on is the agent

    def _message(self, cluster_id: str, message: dict[str, Any]) -> None:
        known = self._clusters.get(cluster_id)
        if message.get("kind") != "policy-status" or known is None:
            return
        self._standings.heard(known, message)
        now = known.status
        if now.applied_revision > now.desired_revision and now.applied_digest != now.desired_digest:
            # The database is older than what the agent has: it was restored. An agent takes no lower revision.
            known.status = replace(now, desired_digest="")
            known.told = ""
            self._due.setdefault(cluster_id, self._clock.now())
            self._wake.set()


def _facts(cluster: Cluster) -> ClusterFacts:
    return ClusterFacts(cluster.id, cluster.name, cluster.cluster_uid or "", dict(cluster.labels))
