# SPDX-License-Identifier: Apache-2.0
"""What is open ends when the right does, and nothing else does."""

from __future__ import annotations

import dataclasses

import pytest
from mooring.store.records import Delta, Members
from support.proxyfakes import ADMINS, ALPHA, GAMMA, FakeClient, FakeSession, World, request


def watch(world: World, who: str = "bob", cluster: str = "alpha", upgrade: str = "") -> FakeClient:
    """An exchange that the cluster has answered."""
    client = FakeClient()
    target = f"/k8s/clusters/{cluster}/api/v1/namespaces/d/pods" + ("/p/exec" if upgrade else "?watch=1")
    assert world.chain.handle(client, request(target, world.bearer(who), upgrade=upgrade)) is not None
    stream = world.hub.sessions[ALPHA if cluster == "alpha" else GAMMA].streams[-1]
    if upgrade:
        stream.answer(101, [("Upgrade", upgrade)])
    else:
        stream.answer(200)
    client.take()
    return client


def cut(client: FakeClient) -> bool:
    return client.log == [("abort",)]


def change_user(world: World, name: str, **changes: object) -> None:
    user = dataclasses.replace(world.users[name], **changes)  # type: ignore[arg-type]
    world.users[name] = user
    world.index.apply(Delta(users={user.id: user}))


@pytest.mark.parametrize("upgrade", ["", "websocket", "SPDY/3.1"])
def test_revoked_token_ends_its_exchanges_only(world: World, upgrade: str) -> None:
    bobs, roots = watch(world, "bob", upgrade=upgrade), watch(world, "root", upgrade=upgrade)
    briefs = watch(world, "bob-brief", upgrade=upgrade)
    world.revoke("bob")
    assert (cut(bobs), cut(roots), cut(briefs)) == (True, False, False)
    assert len(world.registry) == 2
    assert world.agent.streams[0].take()[-1] == ("reset", "CANCEL")


def test_expired_token_ends_its_exchanges_at_the_next_sweep(world: World) -> None:
    brief, bobs = watch(world, "bob-brief"), watch(world, "bob")
    world.clock.advance(59)
    world.registry.sweep()
    assert not cut(brief)
    world.clock.advance(2)
    world.index.drop_expired(world.clock.now())
    world.registry.sweep()
    assert (cut(brief), cut(bobs)) == (True, False)


def test_disabled_or_deleted_user_loses_everything(world: World) -> None:
    bobs, roots = watch(world, "bob"), watch(world, "root")
    change_user(world, "bob", enabled=False)
    assert (cut(bobs), cut(roots)) == (True, False)
    world.index.apply(Delta(users={"u-root": None}))
    assert cut(roots)


def test_lost_group_ends_what_went_out_with_it(world: World) -> None:
    bobs = watch(world, "bob")
    change_user(world, "bob", groups=(("g-devsdevsdevs", "devs"), ("g-opsopsopsops", "ops")))
    assert not cut(bobs)
    change_user(world, "bob", groups=(("g-opsopsopsops", "ops"),))
    assert cut(bobs)


def test_administrator_who_is_none_any_more_loses_clusters_without_membership(world: World) -> None:
    roots = watch(world, "root")
    change_user(world, "root", groups=())
    assert cut(roots)


def test_lost_membership_ends_exchanges_with_that_cluster_only(world: World) -> None:
    world.hub.sessions[GAMMA] = FakeSession()
    alphas, gammas, roots = watch(world), watch(world, cluster="gamma"), watch(world, "root")
    world.index.apply(Delta(members={ALPHA: Members(groups=ADMINS)}))
    assert (cut(alphas), cut(gammas), cut(roots)) == (True, False, False)


@pytest.mark.parametrize("upgrade", ["", "websocket"])
def test_a_binding_that_ends_ends_what_was_open_by_it_at_that_second(world: World, upgrade: str) -> None:
    now = world.clock.now()
    until = {"b-brief": now + 60, "b-later": now + 90}
    members = Members({"u-bob": "b-brief"}, {"g-devsdevsdevs": "b-later"} | ADMINS, until)
    world.index.apply(Delta(members={ALPHA: members}))
    change_user(world, "bob", groups=())
    bobs, roots = watch(world, upgrade=upgrade), watch(world, "root", upgrade=upgrade)
    world.clock.advance(59.9)
    world.registry.sweep()
    assert not cut(bobs)
    world.clock.advance(0.1)
    world.registry.sweep()
    assert (cut(bobs), cut(roots)) == (True, False)
    client = FakeClient()
    assert world.chain.handle(client, request("/k8s/clusters/alpha/api", world.bearer("bob"))) is None  # 403
    world.clock.advance(60)
    world.registry.sweep()
    assert not cut(roots)


def test_a_right_that_is_prolonged_keeps_the_exchange(world: World) -> None:
    now = world.clock.now()
    world.index.apply(Delta(members={ALPHA: Members({"u-bob": "b-1"}, until={"b-1": now + 60})}))
    bobs = watch(world)
    world.index.apply(Delta(members={ALPHA: Members({"u-bob": "b-1"}, until={"b-1": now + 120})}))
    world.clock.advance(61)
    world.registry.sweep()
    assert not cut(bobs)
    world.clock.advance(60)
    world.registry.sweep()
    assert cut(bobs)


def test_membership_that_remains_by_another_way_keeps_the_exchange(world: World) -> None:
    bobs = watch(world)
    world.index.apply(Delta(members={ALPHA: Members(groups={"g-devsdevsdevs": "m-9"})}))
    assert not cut(bobs)


def test_removed_cluster_ends_everything_there(world: World) -> None:
    bobs, roots = watch(world), watch(world, "root")
    world.index.apply(Delta(clusters={ALPHA: None}))
    assert (cut(bobs), cut(roots)) == (True, True)


def test_counts_follow_what_is_open(world: World) -> None:
    watch(world, "bob")
    watch(world, "bob")
    watch(world, "root")
    registry = world.registry
    assert (len(registry), registry.of_cluster(ALPHA), registry.of_user("u-bob")) == (3, 3, 2)
    registry.cut_endless("stop", "the server stops")
    assert (len(registry), registry.of_cluster(ALPHA), registry.of_user("u-bob")) == (0, 0, 0)
    registry.sweep()
    assert (registry._by_token, registry._by_user, registry._by_cluster, registry._waiting) == ({}, {}, {}, {})
    assert (registry._places, registry._by_both) == ({}, {})


def test_what_would_end_by_itself_is_left_when_the_server_stops(world: World) -> None:
    client = FakeClient()
    assert world.chain.handle(client, request("/k8s/clusters/alpha/api/v1/pods", world.bearer("bob"))) is not None
    bobs, roots = watch(world, "bob"), watch(world, "root", upgrade="websocket")
    world.registry.cut_endless("stop", "the server stops")
    assert (cut(bobs), cut(roots), client.log) == (True, True, [])
    world.registry.cut_all("stop", "the server stops")
    assert client.status == 503


def test_an_exec_is_left_its_time_when_another_worker_takes_over_and_a_watch_is_not(world: World) -> None:
    bobs, roots = watch(world, "bob"), watch(world, "root", upgrade="websocket")
    world.registry.cut_endless("stop", "connect again", spare_raw=True)
    assert (cut(bobs), cut(roots)) == (True, False)
