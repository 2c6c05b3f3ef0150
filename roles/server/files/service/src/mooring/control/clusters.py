# SPDX-License-Identifier: Apache-2.0
"""The cluster controller: what the hub sees of agents becomes the clusters' state in the store.

Callbacks only note what they heard and wake one writer, which writes all that changed in few transactions and at most
once a second: a flapping or talkative agent cannot keep the database busy. When the database is away, what was noted
waits. It also ends the sessions of agents that lost their right: cluster deleted, or key changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from mooring.authn.index import AgentKeyChanged, Change, ClusterRemoved, Index
from mooring.control.status import Observed, merge, read_message
from mooring.lib import logging
from mooring.lib.clock import Clock
from mooring.lib.tasks import Supervisor
from mooring.store.ports import Store, StoreUnavailable
from mooring.store.records import Cluster, ClusterStatus

WRITE_EVERY: Final = 1.0  # seconds between two writes, at least
WRITE_AT_ONCE: Final = 200  # clusters in one transaction: what it takes in memory stays taken, between what lives long
RETRY_MOST: Final = 30.0  # seconds between two tries while the database is away, at most
SETTLE: Final = 15.0  # seconds for the workers to join a control process that was replaced
RESTARTED: Final = "the server was restarted; waiting for the agent"


class HubView(Protocol):
    """What the controller needs of mooring.tunnel.hub.Hub."""

    on_change: list[Callable[[str, bool, str], None]]
    on_message: list[Callable[[str, dict[str, Any]], None]]

    def remove(self, cluster_id: str, reason: str) -> None: ...

    def connected(self, cluster_id: str) -> bool: ...


class ClusterController:
    """Call `start` after the index is loaded and before agents are let in, `aclose` after the hub is closed."""

    def __init__(
        self,
        store: Store,
        index: Index,
        hub: HubView,
        clock: Clock,
        *,
        forget: Callable[[str], None] = lambda cluster_id: None,
    ) -> None:
        self._store = store
        self._index = index
        self._hub = hub
        self._clock = clock
        self._forget = forget
        self._observed: dict[str, Observed] = {}
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()
        self._tasks = Supervisor("control")
        self._log = logging.get("mooring.control")

    async def start(self, resumed: bool = False) -> None:
        """No agent is connected yet, whatever the store says. Raises StoreUnavailable.

        `resumed`: agents may be connected to processes that lived on; those that are not within seconds are lost.
        """
        if resumed:
            self._tasks.spawn(self._settle(), "settle")
        else:
            async with self._store.write() as tx:
                await tx.clusters.all_disconnected(RESTARTED)
        self._hub.on_change.append(self._changed)
        self._hub.on_message.append(self._message)
        self._index.subscribe(self._right_changed)
        self._tasks.spawn(self._run(), "clusters")

    async def aclose(self) -> None:
        """Write what is still noted, if the database answers within 5 seconds."""
        await self._tasks.aclose()
        try:
            async with asyncio.timeout(5):
                await self.flush()
        except (StoreUnavailable, TimeoutError):
            self._log.warning("the last cluster states were not written")

    def connected_ids(self) -> list[str]:
        """The clusters whose agent is connected now."""
        return [cluster_id for cluster_id, observed in self._observed.items() if observed.connected]

    def note_refused(self, cluster_id: str, reason: str) -> None:
        """An agent that says it is this cluster's was refused. Anybody can say so: a live session is not doubted."""
        if self._index.cluster(cluster_id) is None or self._hub.connected(cluster_id):
            return
        self._of(cluster_id).refused_reason = reason
        self._touch(cluster_id)

    def note_registered(self, cluster_id: str) -> None:
        """The cluster's agent has registered; what was refused before does not matter any more."""
        self._of(cluster_id).refused_reason = None
        self._touch(cluster_id)

    async def flush(self) -> None:
        """Write what changed, now. What could not be written stays noted. Raises StoreUnavailable."""
        dirty, self._dirty = sorted(self._dirty), set()
        while dirty:
            try:
                await self._write(dirty[:WRITE_AT_ONCE])
            except BaseException:
                self._dirty.update(dirty)
                raise
            del dirty[:WRITE_AT_ONCE]

    async def _write(self, cluster_ids: list[str]) -> None:
        async with self._store.write() as tx:
            changed: dict[str, ClusterStatus] = {}
            for cluster in await tx.clusters.get_many(cluster_ids):
                observed = self._observed.get(cluster.id)
                if observed is None:
                    continue
                status = merge(cluster, observed, self._clock.now())
                if status != _stored(cluster):
                    changed[cluster.id] = status
            await tx.clusters.set_statuses(changed)

    # --- heard from the hub and the index; these must not wait ------------------------------------------------------

    def _changed(self, cluster_id: str, connected: bool, reason: str) -> None:
        if self._index.cluster(cluster_id) is None:
            if connected:  # deleted while its agent was shaking hands
                self._hub.remove(cluster_id, "the cluster was deleted")
            return
        observed = self._of(cluster_id)
        observed.connected = connected
        observed.seen_at = self._clock.now()
        observed.refused_reason = None
        if connected:
            observed.connected_at = self._clock.now()
            observed.lost_reason = None
            observed.message = None  # of the session before
        else:
            observed.lost_reason = reason
        self._touch(cluster_id)

    def _message(self, cluster_id: str, message: dict[str, Any]) -> None:
        if message.get("kind") != "status" or self._index.cluster(cluster_id) is None:
            return
        try:
            status = read_message(message)
        except ValueError as error:
            self._log.warning("an agent's status was not understood", cluster=cluster_id, error=str(error))
            return
        observed = self._of(cluster_id)
        observed.message = status
        observed.seen_at = self._clock.now()
        self._touch(cluster_id)

    def _right_changed(self, change: Change) -> None:
        if isinstance(change, ClusterRemoved):
            self._hub.remove(change.cluster_id, "the cluster was deleted")
            self._observed.pop(change.cluster_id, None)
            self._dirty.discard(change.cluster_id)
            self._forget(change.cluster_id)
        elif isinstance(change, AgentKeyChanged):
            self._hub.remove(change.cluster_id, "the agent registered with another key")

    # --- inside -----------------------------------------------------------------------------------------------------

    def _of(self, cluster_id: str) -> Observed:
        return self._observed.setdefault(cluster_id, Observed())

    def _touch(self, cluster_id: str) -> None:
        self._dirty.add(cluster_id)
        self._wake.set()

    async def _settle(self) -> None:
        await asyncio.sleep(SETTLE)
        for cluster in self._index.clusters():
            if cluster.state == "connected" and not self._of(cluster.id).connected:
                self._changed(cluster.id, False, RESTARTED)

    async def _run(self) -> None:
        pause = WRITE_EVERY
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self.flush()
                pause = WRITE_EVERY
            except StoreUnavailable:
                pause = min(pause * 2, RETRY_MOST)
                self._wake.set()
            except Exception as error:
                # One bad row must not end the only writer; what was noted is tried again with the next change.
                self._log.exception("cluster states were not written", error=repr(error))
            await asyncio.sleep(pause)


def _stored(cluster: Cluster) -> ClusterStatus:
    return ClusterStatus(**{name: getattr(cluster, name) for name in ClusterStatus.__slots__})
