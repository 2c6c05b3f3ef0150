# SPDX-License-Identifier: Apache-2.0
"""A controller on a real SQLite store, with a hub that the tests speak for."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mooring.authn.index import Index
from mooring.control.clusters import ClusterController
from mooring.lib.clock import ManualClock
from mooring.store.records import Cluster
from mooring.store.sql import SqlStore, open_store
from support import records as make


@dataclass
class SpokenHub:
    """Stands in for the hub: the tests say what it would say."""

    on_change: list[Callable[[str, bool, str], None]] = field(default_factory=list)
    on_message: list[Callable[[str, dict[str, Any]], None]] = field(default_factory=list)
    removed: list[tuple[str, str]] = field(default_factory=list)
    live: set[str] = field(default_factory=set)

    def remove(self, cluster_id: str, reason: str) -> None:
        self.removed.append((cluster_id, reason))
        self.live.discard(cluster_id)

    def connected(self, cluster_id: str) -> bool:
        return cluster_id in self.live

    def change(self, cluster_id: str, connected: bool, reason: str = "") -> None:
        (self.live.add if connected else self.live.discard)(cluster_id)
        for callback in self.on_change:
            callback(cluster_id, connected, reason)

    def say(self, cluster_id: str, **message: Any) -> None:
        for callback in self.on_message:
            callback(cluster_id, {"kind": "status"} | message)


@dataclass
class Scene:
    store: SqlStore
    index: Index
    hub: SpokenHub
    clock: ManualClock
    control: ClusterController
    prod: Cluster
    forgotten: list[str]

    async def stored(self) -> Cluster:
        """The cluster as the store has it once all that was noted is written."""
        await self.control.flush()
        async with self.store.read() as tx:
            cluster = await tx.clusters.get(self.prod.id)
        assert cluster is not None
        return cluster


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database to copy."""
    path = tmp_path_factory.mktemp("migrated") / "mooring.db"

    async def migrate() -> None:
        store = open_store(f"sqlite:///{path}")
        await store.migrate()
        await store.aclose()

    asyncio.run(migrate())
    return path


@pytest.fixture
async def scene(tmp_path: Path, migrated: Path) -> AsyncIterator[Scene]:
    shutil.copy(migrated, tmp_path / "mooring.db")
    store = open_store(f"sqlite:///{tmp_path / 'mooring.db'}")
    clock = ManualClock(make.NOW)
    async with store.write() as tx:
        prod = await tx.clusters.add(make.cluster("prod"))
    index, hub, forgotten = Index(), SpokenHub(), []
    index.load(await store.snapshot(clock.now()))
    store.on_commit(index.apply)
    control = ClusterController(store, index, hub, clock, forget=forgotten.append)
    await control.start()
    yield Scene(store, index, hub, clock, control, prod, forgotten)
    await control.aclose()
    await store.aclose()
