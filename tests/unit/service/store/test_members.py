# SPDX-License-Identifier: Apache-2.0
"""Who may enter a cluster follows from bindings, and each change that touches it tells of the right clusters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from mooring.store.policies import Binding, Rule, Subject
from mooring.store.ports import Paging, VisibleTo
from mooring.store.records import Cluster, Delta, Group, Members, User
from mooring.store.sql import SqlStore
from mooring.store.sql.tables import UserRow
from sqlalchemy import insert
from support import records as make

RULES = (Rule(verbs=("get",), api_groups=("",), resources=("pods",)),)


@dataclass
class Scene:
    """Two clusters, one of them labelled; ann is bound in one by herself, the group ops in a project of it."""

    store: SqlStore
    live: Cluster
    test: Cluster
    ann: User
    ops: Group
    in_cluster: Binding
    in_project: Binding
    deltas: list[Delta]

    async def told(self) -> dict[str, Members]:
        """What the last commit told; it must be what a start would read."""
        snapshot = (await self.store.snapshot(make.NOW)).members
        told = self.deltas[-1].members
        assert told == {key: snapshot.get(key, Members()) for key in told}
        return dict(told)


@pytest.fixture
async def scene(store: SqlStore) -> Scene:
    live, test = make.cluster("live", labels={"env": "live", "site": "a"}), make.cluster("test")
    ann, ops = make.user("ann"), make.group("ops")
    viewer, dev = make.template("viewer", context="cluster"), make.template("dev", context="project")
    web = make.project(live, "web")
    robot = Subject(kind="serviceaccount", name="robot", namespace="a")
    in_cluster = make.binding("cluster", "viewers", viewer, live, subjects=(ann, robot))
    in_project = make.binding("project", "devs", dev, web, subjects=(ops,), expires_at=make.NOW + 60)
    async with store.write() as tx:
        await tx.users.add(ann, None)
        await tx.groups.add(ops)
        for cluster in (live, test):
            await tx.clusters.add(cluster)
        for template in (viewer, dev):
            await tx.templates.add(template)
        await tx.projects.add(web)
        for binding in (in_cluster, in_project):
            await tx.bindings.add(binding)
    deltas: list[Delta] = []
    store.on_commit(deltas.append)
    return Scene(store, live, test, ann, ops, in_cluster, in_project, deltas)


def local(scene: Scene, **more: Any) -> Members:
    """What the bindings in `live` give, and more."""
    users = {scene.ann.id: scene.in_cluster.id} | more.get("users", {})
    groups = {scene.ops.id: scene.in_project.id} | more.get("groups", {})
    return Members(users, groups, {scene.in_project.id: make.NOW + 60} | more.get("until", {}))


async def bind_everywhere(scene: Scene, **more: Any) -> Binding:
    fields = {"cluster_rules": RULES, "cluster_selector": {"env": "live"}} | more
    role = make.global_role("support", **fields)
    binding = make.binding("global", "support", role, subjects=(scene.ops,))
    async with scene.store.write() as tx:
        await tx.global_roles.add(role)
        return await tx.bindings.add(binding)


async def test_bindings_of_a_cluster_and_of_its_projects_reach_it(scene: Scene) -> None:
    snapshot = await scene.store.snapshot(make.NOW)
    assert snapshot.members == {scene.live.id: local(scene), scene.test.id: Members()}


async def test_a_global_binding_reaches_the_clusters_that_its_role_chooses(scene: Scene) -> None:
    binding = await bind_everywhere(scene)
    # It has no end, so it is what counts for the group.
    assert await scene.told() == {scene.live.id: local(scene, groups={scene.ops.id: binding.id})}
    async with scene.store.write() as tx:
        await tx.clusters.edit(scene.test.id, make.NOW, labels={"env": "live"})
    assert await scene.told() == {scene.test.id: Members(groups={scene.ops.id: binding.id})}
    async with scene.store.write() as tx:
        late = await tx.clusters.add(make.cluster("late", labels={"env": "live", "x": "y"}))
    assert await scene.told() == {late.id: Members(groups={scene.ops.id: binding.id})}
    async with scene.store.write() as tx:
        await tx.clusters.edit(scene.test.id, make.NOW, labels={"env": "test"})
    assert await scene.told() == {scene.test.id: Members()}


async def test_a_global_role_without_rules_in_clusters_lets_nobody_in(scene: Scene) -> None:
    await bind_everywhere(scene, cluster_rules=(), rules=RULES)
    assert await scene.told() == {}


async def test_the_right_to_enter_clusters_lets_into_all_of_them(scene: Scene) -> None:
    enter = Rule(verbs=("enter", "get"), api_groups=("mooring.fleet",), resources=("clusters",))
    binding = await bind_everywhere(scene, rules=(enter,), cluster_rules=(), cluster_selector={})
    inside = {
        scene.live.id: local(scene, groups={scene.ops.id: binding.id}),
        scene.test.id: Members(groups={scene.ops.id: binding.id}),
    }
    assert await scene.told() == inside
    for less in (
        replace(enter, verbs=("get",)),
        replace(enter, resource_names=("live",)),
        replace(enter, api_groups=("",)),
    ):
        async with scene.store.write() as tx:
            role = await tx.global_roles.get("support")
            assert role is not None
            await tx.global_roles.edit(replace(role, rules=(less,)), make.NOW)
        assert (await scene.store.snapshot(make.NOW)).members[scene.test.id] == Members()
        async with scene.store.write() as tx:
            await tx.global_roles.edit(replace(role, rules=(enter,)), make.NOW)
        assert await scene.told() == inside


async def test_a_role_that_is_edited_reaches_other_clusters(scene: Scene) -> None:
    binding = await bind_everywhere(scene)
    everywhere = Members(groups={scene.ops.id: binding.id})
    async with scene.store.write() as tx:
        role = await tx.global_roles.get("support")
        assert role is not None
        await tx.global_roles.edit(replace(role, description="the same reach"), make.NOW)
    assert await scene.told() == {}
    async with scene.store.write() as tx:
        await tx.global_roles.edit(replace(role, cluster_selector={}), make.NOW)
    assert await scene.told() == {
        scene.live.id: local(scene, groups={scene.ops.id: binding.id}),
        scene.test.id: everywhere,
    }
    async with scene.store.write() as tx:
        await tx.global_roles.edit(replace(role, cluster_selector={}, cluster_rules=()), make.NOW)
    assert await scene.told() == {scene.live.id: local(scene), scene.test.id: Members()}


async def test_what_is_taken_away_is_told(scene: Scene) -> None:
    binding = await bind_everywhere(scene)
    async with scene.store.write() as tx:
        await tx.bindings.remove(binding.id)
    assert await scene.told() == {scene.live.id: local(scene)}
    async with scene.store.write() as tx:
        await tx.bindings.edit(scene.in_project.id, make.NOW, expires_at=None)
    assert (await scene.told())[scene.live.id].until == {}
    async with scene.store.write() as tx:
        await tx.bindings.change_subjects(scene.in_cluster.id, make.NOW, remove=[make.subject(scene.ann)])
    assert (await scene.told())[scene.live.id].users == {}
    async with scene.store.write() as tx:
        await tx.projects.remove(scene.in_project.project_id or "")
    assert await scene.told() == {scene.live.id: Members()}


async def test_a_user_or_group_that_is_removed_is_in_no_cluster(scene: Scene) -> None:
    async with scene.store.write() as tx:
        await tx.users.remove(scene.ann.id)
        await tx.groups.remove(scene.ops.id)
    assert await scene.told() == {scene.live.id: Members({}, {}, {scene.in_project.id: make.NOW + 60})}


async def test_of_several_ways_in_the_one_that_lasts_longest_counts(scene: Scene) -> None:
    template = make.template("other", context="cluster")
    async with scene.store.write() as tx:
        await tx.templates.add(template)
        bindings = []
        for end in (10, 30, 20):
            more = {"subjects": (scene.ann,), "expires_at": make.NOW + end}
            bindings.append(await tx.bindings.add(make.binding("cluster", f"b{end}", template, scene.test, **more)))
    assert (await scene.told())[scene.test.id].users == {scene.ann.id: bindings[1].id}
    async with scene.store.write() as tx:
        entry = await tx.memberships.add(make.membership(scene.test, scene.ann))
    assert (await scene.told())[scene.test.id].users == {scene.ann.id: entry.id}


async def test_lists_show_the_clusters_that_bindings_reach(scene: Scene) -> None:
    async def seen(user: User, now: float = make.NOW) -> list[str]:
        async with scene.store.read() as tx:
            return [c.name for c in (await tx.clusters.page(Paging(), visible_to=VisibleTo(user.id, now))).items]

    bob = make.user("bob")
    async with scene.store.write() as tx:
        await tx.users.add(bob, None)
    assert (await seen(scene.ann), await seen(bob)) == (["live"], [])
    async with scene.store.write() as tx:
        await tx.groups.change_members(scene.ops.id, make.NOW, add=[bob.id], remove=[])
    assert (await seen(bob, make.NOW + 59), await seen(bob, make.NOW + 60)) == (["live"], [])
    await bind_everywhere(scene, cluster_selector={"site": "a", "env": "live"})
    assert await seen(bob, make.NOW + 60) == ["live"]
    async with scene.store.write() as tx:
        await tx.clusters.edit(scene.live.id, make.NOW, labels={"site": "b", "env": "live"})
    assert await seen(bob, make.NOW + 60) == []


async def test_a_binding_of_more_subjects_than_a_statement_takes(scene: Scene) -> None:
    users = [make.user(f"user-{number:04d}") for number in range(2_100)]
    columns = ("id", "name", "uid", "display_name", "enabled", "created_at", "updated_at", "version")
    async with scene.store.engine.begin() as connection:
        await connection.execute(insert(UserRow), [{name: getattr(user, name) for name in columns} for user in users])
    async with scene.store.write() as tx:
        changed = await tx.bindings.change_subjects(scene.in_cluster.id, make.NOW, add=map(make.subject, users))
    assert len(changed.subjects) == 2_102
    assert len((await scene.told())[scene.live.id].users) == 2_101
    async with scene.store.write() as tx:
        changed = await tx.bindings.change_subjects(scene.in_cluster.id, make.NOW, remove=map(make.subject, users[1:]))
    assert [subject.name for subject in changed.subjects] == ["robot", "ann", "user-0000"]
    assert (await scene.store.policy())[1].bindings[changed.id] == changed
