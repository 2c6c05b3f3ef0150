# SPDX-License-Identifier: Apache-2.0
"""From the hub's callbacks to the cluster's row, and from lost rights to ended sessions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from mooring.control.clusters import RESTARTED, ClusterController
from mooring.control.upkeep import KEEP_ENDED, KEEP_ENDPOINT, PURGE_EVERY, Upkeep
from mooring.lib.clock import ManualClock
from mooring.store.ports import StoreUnavailable
from mooring.store.records import Cluster
from sqlalchemy import event
from support import records as make

STATUS = {
    "kubernetes_version": "v1.36.3",
    "node_count": 3,
    "nodes_ready": 2,
    "api_server_healthy": True,
    "api_server_message": "ok",
    "agent_version": "0.1.0",
    "conditions": [{"type": "Impersonation", "status": "True", "reason": "TokenValid", "message": ""}],
}


def conditions(cluster: Cluster) -> dict[str, tuple[str, str]]:
    return {condition.type: (condition.status, condition.reason) for condition in cluster.conditions}


async def test_an_agent_connects_reports_and_is_lost(scene: Any) -> None:
    scene.hub.change(scene.prod.id, True)
    cluster = await scene.stored()
    assert (cluster.state, cluster.state_reason, cluster.connected_at) == ("connected", "", scene.clock.now())
    assert conditions(cluster) == {
        "Connected": ("True", "AgentConnected"),
        "APIServerHealthy": ("Unknown", "NotReported"),
        "NodesReady": ("Unknown", "NotReported"),
    }
    assert scene.control.connected_ids() == [scene.prod.id]

    scene.clock.advance(5)
    scene.hub.say(scene.prod.id, **STATUS)
    cluster = await scene.stored()
    assert (cluster.kubernetes_version, cluster.node_count, cluster.nodes_ready) == ("v1.36.3", 3, 2)
    assert (cluster.api_server_healthy, cluster.agent_version) == (True, "0.1.0")
    assert cluster.last_seen_at == scene.clock.now()
    assert conditions(cluster) == {
        "Connected": ("True", "AgentConnected"),
        "APIServerHealthy": ("True", "Healthy"),
        "NodesReady": ("False", "SomeNotReady"),
        "Impersonation": ("True", "TokenValid"),
    }
    assert cluster.version == 1

    scene.clock.advance(5)
    scene.hub.change(scene.prod.id, False, "no sign of life for 15 s")
    cluster = await scene.stored()
    assert (cluster.state, cluster.state_reason) == ("disconnected", "no sign of life for 15 s")
    assert cluster.connected_at == scene.clock.now() - 10
    assert cluster.last_seen_at == scene.clock.now()
    assert cluster.node_count == 3, "the last known number stays"
    assert cluster.api_server_healthy is None, "nobody knows this any more"
    assert conditions(cluster)["Connected"] == ("False", "AgentLost")
    assert conditions(cluster)["APIServerHealthy"] == ("Unknown", "AgentNotConnected")
    assert conditions(cluster)["Impersonation"] == ("Unknown", "AgentNotConnected")
    view = scene.index.cluster("prod")
    assert (view.state, view.lost_reason, view.ever_connected) == ("disconnected", "no sign of life for 15 s", True)


async def test_a_change_is_written_without_anybody_asking(scene: Any) -> None:
    written = asyncio.Event()
    scene.store.on_commit(lambda delta: written.set())
    scene.hub.change(scene.prod.id, True)
    async with asyncio.timeout(10):
        await written.wait()
    assert scene.index.cluster("prod").state == "connected"


async def test_what_was_reported_before_is_not_passed_off_as_fresh(scene: Any) -> None:
    scene.hub.change(scene.prod.id, True)
    scene.hub.say(scene.prod.id, **STATUS)
    scene.hub.change(scene.prod.id, False, "lost")
    scene.hub.change(scene.prod.id, True)
    cluster = await scene.stored()
    assert cluster.api_server_healthy is None
    assert conditions(cluster)["APIServerHealthy"] == ("Unknown", "NotReported")


async def test_a_condition_keeps_its_time_while_its_status_stays(scene: Any) -> None:
    scene.hub.change(scene.prod.id, True)
    scene.hub.say(scene.prod.id, **STATUS)
    first = {c.type: c.last_transition_at for c in (await scene.stored()).conditions}
    scene.clock.advance(60)
    scene.hub.say(scene.prod.id, **STATUS | {"nodes_ready": 3})
    second = {c.type: c.last_transition_at for c in (await scene.stored()).conditions}
    assert second.pop("NodesReady") == first.pop("NodesReady") + 60
    assert second == first


async def test_the_first_state_says_what_is_missing(scene: Any) -> None:
    scene.control.note_registered(scene.prod.id)
    assert (await scene.stored()).state_reason == "no agent has registered yet"
    async with scene.store.write() as tx:
        await tx.clusters.register(
            scene.prod.id, make.NOW, public_key=b"k" * 32, cluster_uid="u", agent="", kubernetes=""
        )
    scene.control.note_registered(scene.prod.id)
    cluster = await scene.stored()
    assert (cluster.state, cluster.state_reason) == ("pending", "the agent has registered and has not connected yet")


async def test_a_refused_agent_shows_until_one_connects(scene: Any) -> None:
    scene.control.note_refused(scene.prod.id, "the join token has expired")
    cluster = await scene.stored()
    assert (cluster.state, cluster.state_reason) == ("refused", "the join token has expired")
    assert scene.index.cluster("prod").refused_reason == "the join token has expired"
    scene.hub.change(scene.prod.id, True)
    assert (await scene.stored()).state == "connected"


async def test_a_forged_handshake_cannot_make_a_live_cluster_look_refused(scene: Any) -> None:
    scene.hub.change(scene.prod.id, True)
    scene.control.note_refused(scene.prod.id, "wrong signature")
    assert (await scene.stored()).state == "connected"
    scene.control.note_refused("c-nosuchnosuch", "wrong signature")
    assert "c-nosuchnosuch" not in scene.control._observed


async def test_a_deleted_cluster_loses_its_sessions(scene: Any) -> None:
    scene.hub.change(scene.prod.id, True)
    await scene.control.flush()
    async with scene.store.write() as tx:
        await tx.clusters.remove(scene.prod.id)
    assert scene.hub.removed == [(scene.prod.id, "the cluster was deleted")]
    assert scene.forgotten == [scene.prod.id]
    assert scene.control.connected_ids() == []
    await scene.control.flush()


async def test_an_agent_that_arrives_as_its_cluster_goes_is_sent_away(scene: Any) -> None:
    async with scene.store.write() as tx:
        await tx.clusters.remove(scene.prod.id)
    scene.hub.removed.clear()
    scene.hub.change(scene.prod.id, True)
    assert scene.hub.removed == [(scene.prod.id, "the cluster was deleted")]
    assert scene.control.connected_ids() == []


async def test_another_key_ends_the_sessions_of_the_old_one(scene: Any) -> None:
    for key in (b"k" * 32, b"l" * 32):
        async with scene.store.write() as tx:
            await tx.clusters.register(
                scene.prod.id, make.NOW, public_key=key, cluster_uid="u", agent="", kubernetes=""
            )
    assert scene.hub.removed == [(scene.prod.id, "the agent registered with another key")]


async def test_a_message_that_is_not_understood_changes_nothing(scene: Any) -> None:
    scene.hub.change(scene.prod.id, True)
    scene.hub.say(scene.prod.id, **STATUS)
    before = await scene.stored()
    for message in (
        {"node_count": "three"},
        {"conditions": [{"type": "A"}]},
        {"conditions": [{"type": "A", "status": "Maybe"}]},
        {"kubernetes_version": None},
        {"kind": "other", "node_count": 9},
    ):
        scene.hub.say(scene.prod.id, **message)
    assert await scene.stored() == before


async def test_what_an_agent_says_is_cut_to_size_and_cleaned(scene: Any) -> None:
    scene.hub.change(scene.prod.id, True)
    many = [{"type": f"T{n}", "status": "True", "message": "\x1b[31m" + "x" * 5000} for n in range(100)]
    own = [{"type": "Connected", "status": "False"}, {"type": "T0", "status": "False"}]
    scene.hub.say(
        scene.prod.id,
        kubernetes_version="v1\n\x1b" + "9" * 500,
        node_count=-5,
        nodes_ready=10**12,
        conditions=many + own,
    )
    cluster = await scene.stored()
    assert cluster.kubernetes_version == "v1  " + "9" * 124
    assert (cluster.node_count, cluster.nodes_ready) == (0, 1_000_000)
    assert len(cluster.conditions) == 3 + 32
    assert conditions(cluster)["Connected"] == ("True", "AgentConnected")
    assert max(len(condition.message) for condition in cluster.conditions) == 1024
    assert not any("\x1b" in condition.message for condition in cluster.conditions)


async def test_what_a_dead_database_did_not_take_is_written_later(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Any:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(scene.store, "write", away)
        scene.hub.change(scene.prod.id, True)
        with pytest.raises(StoreUnavailable):
            await scene.control.flush()
    assert (await scene.stored()).state == "connected"


async def test_hundreds_that_change_at_once_are_written_in_a_few_statements(scene: Any) -> None:
    async with scene.store.write() as tx:
        many = [await tx.clusters.add(make.cluster(f"many-{number}")) for number in range(300)]
    statements: list[str] = []
    event.listen(
        scene.store.engine.sync_engine, "before_cursor_execute", lambda *given: statements.append(str(given[2]))
    )
    for cluster in many:
        scene.hub.change(cluster.id, True)
    await scene.control.flush()
    async with scene.store.read() as tx:
        states = {cluster.state for cluster in await tx.clusters.get_many(cluster.id for cluster in many)}
    assert states == {"connected"}
    assert len(statements) < 20, statements


async def test_a_status_that_says_nothing_new_is_not_written(scene: Any) -> None:
    scene.hub.change(scene.prod.id, True)
    scene.hub.say(scene.prod.id, **STATUS)
    await scene.control.flush()
    writes: list[Any] = []
    scene.store.on_commit(writes.append)
    scene.hub.say(scene.prod.id, **STATUS)
    await scene.control.flush()
    assert [delta.clusters for delta in writes] == [{}]


async def test_after_a_restart_no_cluster_is_connected(scene: Any) -> None:
    scene.hub.change(scene.prod.id, True)
    await scene.control.aclose()
    again = ClusterController(scene.store, scene.index, type(scene.hub)(), scene.clock)
    await again.start()
    view = scene.index.cluster("prod")
    assert (view.state, view.lost_reason) == ("disconnected", RESTARTED)
    await again.aclose()


async def test_upkeep_writes_last_use_and_last_seen_and_purges(scene: Any) -> None:
    clock: ManualClock = scene.clock
    ann = make.user("ann")
    old, live = make.token(ann, expires_at=make.NOW + 10), make.token(ann, expires_at=make.NOW + 10**9)
    async with scene.store.write() as tx:
        await tx.users.add(ann, None)
        for token in (old, live):
            await tx.tokens.add(token)
    upkeep = Upkeep(scene.store, scene.index, clock, lambda: [scene.prod.id])
    scene.index.note_used(live.id, make.NOW + 3)
    await upkeep.tick()
    async with scene.store.read() as tx:
        assert (await tx.tokens.get(live.id)).last_used_at == make.NOW + 3
        assert (await tx.clusters.get(scene.prod.id)).last_seen_at == clock.now()
        assert await tx.tokens.get(old.id) is not None
    direct = make.endpoint_token(ann, scene.prod, expires_at=make.NOW + 10)
    async with scene.store.write() as tx:
        await tx.tokens.add(direct)
    clock.advance(KEEP_ENDPOINT + 9)
    await upkeep.tick()
    async with scene.store.read() as tx:
        assert await tx.tokens.get(direct.id) is not None
    clock.advance(PURGE_EVERY)
    await upkeep.tick()
    async with scene.store.read() as tx:
        assert await tx.tokens.get(direct.id) is None, "there is one of them each hour"
        assert await tx.tokens.get(old.id) is not None
    clock.advance(KEEP_ENDED - KEEP_ENDPOINT)
    await upkeep.tick()
    async with scene.store.read() as tx:
        assert await tx.tokens.get(old.id) is None
        assert await tx.tokens.get(live.id) is not None


async def test_uses_that_could_not_be_written_are_not_lost(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> Any:
        raise StoreUnavailable("away")

    ann = make.user("ann")
    token = make.token(ann)
    async with scene.store.write() as tx:
        await tx.users.add(ann, None)
        await tx.tokens.add(token)
    upkeep = Upkeep(scene.store, scene.index, scene.clock, list)
    scene.index.note_used(token.id, make.NOW + 3)
    with monkeypatch.context() as patch:
        patch.setattr(scene.store, "write", away)
        with pytest.raises(StoreUnavailable):
            await upkeep.tick()
    await upkeep.aclose()
    async with scene.store.read() as tx:
        assert (await tx.tokens.get(token.id)).last_used_at == make.NOW + 3
