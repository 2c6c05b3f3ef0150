# SPDX-License-Identifier: Apache-2.0
"""What is in the cluster of the kinds that a policy is made of: each kind with our label, and all namespaces.

It must not: know how a list and a watch are read (`mooring.kube.watch` does), or hold objects.
"""

from __future__ import annotations

from typing import Protocol

from mooring.agent.policy.kinds import KINDS, SELECTOR, SPACES, Item, Kind
from mooring.kube.client import KubeApi
from mooring.kube.transition import Key
from mooring.kube.watch import Follower, Place, Query
from mooring.lib.tasks import Supervisor


class Sink(Protocol):
    """Who is told."""

    def found(self, kind: Kind, item: Item) -> None:
        """An object is there, new or changed."""

    def gone(self, kind: Kind, item: Item) -> None:
        """An object is not there any more, or has lost our label."""

    def listed(self, kind: Kind, keys: set[Key], number: int) -> None:
        """A list is complete: whatever else was known at this resource version is gone."""

    def unread(self, kind: Kind, reason: str) -> None:
        """A list cannot be read just now."""

    def back(self) -> None:
        """The API server answers again after it did not."""


class Watcher:
    """Follows all the kinds until cancelled."""

    def __init__(self, kube: KubeApi, sink: Sink) -> None:
        self._kube = kube
        self._sink = sink
        self._tasks = Supervisor("policy/watch")

    def start(self) -> None:
        """Begins."""
        for kind in KINDS.values():
            self._follow(kind, Query(collection=kind.collection(), selector=SELECTOR))
        # Of namespaces all, since any may come to be one of a project; but no more of them than their metadata.
        self._follow(SPACES, Query(collection=SPACES.collection(), metadata_only=True))

    async def aclose(self) -> None:
        """Ends."""
        await self._tasks.aclose()

    def _follow(self, kind: Kind, query: Query) -> None:
        self._tasks.spawn(Follower(self._kube, query, Item, _Of(kind, self._sink)).run(), kind.resource)


class _Of:
    """Says of which kind the news are."""

    def __init__(self, kind: Kind, sink: Sink) -> None:
        self._kind = kind
        self._sink = sink
        self.back = sink.back

    def found(self, item: Item) -> None:
        self._sink.found(self._kind, item)

    def gone(self, item: Item) -> None:
        self._sink.gone(self._kind, item)

    def listed(self, places: set[Place], number: int) -> None:
        kind = self._kind
        keys = {(kind.name, namespace if kind.namespaced else "", name) for namespace, name in places}
        self._sink.listed(kind, keys, number)

    def unread(self, reason: str) -> None:
        self._sink.unread(self._kind, reason)
