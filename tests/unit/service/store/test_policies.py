# SPDX-License-Identifier: Apache-2.0
"""Roles, projects and bindings: what comes back, what clashes, what a commit tells; the same on both databases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from mooring.store.policies import Binding, Policy, PolicyFault, PolicyStatus, ProjectNamespace, Rule, Subject
from mooring.store.ports import InUse, Paging, Taken
from mooring.store.records import Delta
from mooring.store.sql import SqlStore
from sqlalchemy.exc import IntegrityError
from support import records as make

READ = Rule(verbs=("get", "list"), api_groups=("",), resources=("pods", "pods/log"), resource_names=("web",))
PATHS = Rule(verbs=("get",), non_resource_urls=("/healthz",))


async def heard_of(store: SqlStore) -> list[Delta]:
    heard: list[Delta] = []
    store.on_commit(heard.append)
    return heard


async def test_what_was_written_is_read_back_whole(store: SqlStore) -> None:
    ann, ops, prod = make.user("ann"), make.group("ops"), make.cluster("prod")
    role = make.global_role("support", rules=(READ,), cluster_rules=(READ, PATHS), cluster_selector={"env": "live"})
    base = make.template("base", context="project", rules=(READ,), hidden=True)
    top = make.template("top", context="project", inherits=(base.id,), creator_default=True, display_name="Top")
    web = make.project(
        prod,
        "web",
        namespaces=(ProjectNamespace(name="web-a", create=True, quota={"pods": "5"}), ProjectNamespace(name="web-b")),
        quota={"limits.cpu": "4"},
        container_limits={"cpu": "1"},
        pod_security="restricted",
        isolated=True,
    )
    robot = Subject(kind="serviceaccount", name="robot", namespace="web-a")
    bound = make.binding(
        "project", "web-devs", top, web, subjects=(ops, robot, ann), expires_at=make.NOW + 9, reason="r"
    )
    everywhere = make.binding("global", "support", role, subjects=(ann,))
    heard = await heard_of(store)
    async with store.write() as tx:
        await tx.users.add(ann, None)
        await tx.groups.add(ops)
        await tx.clusters.add(prod)
        assert await tx.global_roles.add(role) == role
        assert await tx.templates.add(base) == base
        assert await tx.templates.add(top) == top
        assert await tx.projects.add(web) == web
        assert await tx.bindings.add(bound) == bound
        assert await tx.bindings.add(everywhere) == everywhere
    whole = Policy({role.id: role}, {base.id: base, top.id: top}, {web.id: web}, {b.id: b for b in (bound, everywhere)})
    assert await store.policy() == (1, whole)
    assert heard[0].policy_revision == 1
    assert heard[0].policy.bindings == whole.bindings
    assert heard[0].policy.projects == whole.projects
    async with store.read() as tx:
        for ref in (role.id, "support"):
            assert await tx.global_roles.get(ref) == role
            assert await tx.bindings.get("global", everywhere.id if ref == role.id else ref) == everywhere
        assert await tx.bindings.get("cluster", "support") is None
        assert (await tx.templates.page(Paging(), hidden=False)).items == [top]
        assert (await tx.templates.page(Paging(), context="cluster")).total == 0
        assert await tx.projects.by_name(prod.id, "web") == web
        assert await tx.projects.of_namespace(prod.id, "web-b") == web
        assert await tx.projects.of_namespace(prod.id, "web-c") is None


async def scene(store: SqlStore) -> Any:
    """A cluster with two projects and a role bound in one of them."""
    prod, ann, bob = make.cluster("prod"), make.user("ann"), make.user("bob")
    template = make.template("dev", context="project")
    one = make.project(prod, "one", namespaces=(ProjectNamespace(name="a"), ProjectNamespace(name="b")))
    two = make.project(prod, "two")
    bound = make.binding("project", "devs", template, one, subjects=(ann,))
    async with store.write() as tx:
        for user in (ann, bob):
            await tx.users.add(user, None)
        await tx.clusters.add(prod)
        await tx.templates.add(template)
        await tx.projects.add(one)
        await tx.projects.add(two)
        await tx.bindings.add(bound)
    return prod, ann, bob, template, one, two, bound


async def test_names_that_are_taken_are_said_to_be(store: SqlStore) -> None:
    prod, _ann, _bob, template, one, _two, bound = await scene(store)
    other = make.cluster("other")
    async with store.write() as tx:
        await tx.clusters.add(other)
        with pytest.raises(Taken) as taken:
            await tx.templates.add(make.template("dev", context="cluster"))
        assert taken.value.field == "name"
        with pytest.raises(Taken, match="project 'one' in cluster 'prod'"):
            await tx.projects.add(make.project(prod, "one"))
        await tx.projects.add(make.project(other, "one", namespaces=one.namespaces))  # another cluster's are its own
        with pytest.raises(Taken, match="project binding 'devs'"):
            await tx.bindings.add(make.binding("project", "devs", template, one))
        cluster_role = make.template("viewer", context="cluster")
        await tx.templates.add(cluster_role)
        await tx.bindings.add(replace(make.binding("cluster", bound.name, cluster_role, prod)))  # another kind


async def test_a_namespace_is_in_one_project_and_can_move(store: SqlStore) -> None:
    *_unused, one, two, _bound = await scene(store)
    heard = await heard_of(store)
    moved = ProjectNamespace(name="a", quota={"pods": "1"})
    async with store.write() as tx:
        with pytest.raises(Taken, match="namespace 'a' is in the project 'one' already") as taken:
            await tx.projects.edit(replace(two, namespaces=(moved,)), make.NOW)
        assert taken.value.field == "namespaces"
        await tx.projects.edit(replace(one, namespaces=one.namespaces[1:]), make.NOW)
        after = await tx.projects.edit(replace(two, namespaces=(moved,)), make.NOW + 1)
        assert (after.namespaces, after.updated_at) == ((moved,), make.NOW + 1)
    changed = heard[0].policy.projects
    assert [len(changed[key].namespaces) for key in (one.id, two.id)] == [1, 1]  # type: ignore[union-attr]
    assert heard[0].policy_revision == 2


async def test_a_role_that_is_needed_stays(store: SqlStore) -> None:
    *_unused, template, _one, _two, bound = await scene(store)
    heir = make.template("heir", context="project", inherits=(template.id,))
    role = make.global_role("everywhere")
    held = make.binding("global", "held", role)
    async with store.write() as tx:
        await tx.templates.add(heir)
        await tx.global_roles.add(role)
        await tx.bindings.add(held)
    async with store.write() as tx:
        with pytest.raises(InUse, match="the project binding 'devs' binds it"):
            await tx.templates.remove(template.id)
        with pytest.raises(InUse, match="the global binding 'held' binds it"):
            await tx.global_roles.remove(role.id)
        await tx.bindings.remove(bound.id)
        with pytest.raises(InUse, match="the role template 'heir' inherits it"):
            await tx.templates.remove(template.id)
        await tx.templates.edit(replace(heir, inherits=()), make.NOW)
        await tx.templates.remove(template.id)
        assert await tx.templates.get("dev") is None


async def test_the_database_itself_keeps_a_role_that_is_bound(store: SqlStore) -> None:
    await scene(store)
    with pytest.raises(IntegrityError):
        async with store.engine.begin() as connection:
            await connection.exec_driver_sql("DELETE FROM role_templates")


async def test_subjects_come_and_go_by_themselves_or_with_their_users(store: SqlStore) -> None:
    _prod, ann, bob, template, one, _two, bound = await scene(store)
    ops, robot = make.group("ops"), Subject(kind="serviceaccount", name="robot", namespace="a")
    await store.policy()  # from here on what is known is not read again
    heard = await heard_of(store)

    async def now() -> Binding:
        fresh = (await store.policy())[1].bindings[bound.id]
        assert heard[-1].policy.bindings == {bound.id: fresh}
        return fresh

    async with store.write() as tx:
        await tx.groups.add(ops)
        changed = await tx.bindings.change_subjects(
            bound.id, make.NOW + 1, add=[make.subject(bob), make.subject(ops), robot], remove=[make.subject(ann)]
        )
    assert changed.subjects == (make.subject(ops), robot, make.subject(bob))
    assert (changed.version, changed.updated_at) == (2, make.NOW + 1)
    assert await now() == changed
    async with store.write() as tx:  # twice in one transaction
        await tx.bindings.change_subjects(bound.id, make.NOW + 2, add=[make.subject(ann)])
        await tx.bindings.change_subjects(bound.id, make.NOW + 3, remove=[make.subject(ann), robot])
    assert (await now()).subjects == (make.subject(ops), make.subject(bob))
    async with store.write() as tx:
        same = await tx.bindings.change_subjects(bound.id, make.NOW + 9, add=[make.subject(bob)], remove=[robot])
    assert same.version == 4
    assert heard[-1].policy_revision is None
    async with store.write() as tx:
        edited = await tx.bindings.edit(bound.id, make.NOW + 4, reason="because", expires_at=make.NOW + 60)
    assert (edited.reason, edited.expires_at, edited.subjects) == ("because", make.NOW + 60, same.subjects)
    async with store.write() as tx:
        await tx.groups.remove(ops.id)
        await tx.users.remove(bob.id)
        await tx.users.remove(ann.id)
    gone = await now()
    assert (gone.subjects, gone.version) == ((), 7)
    assert gone.expires_at == make.NOW + 60
    async with store.write() as tx:
        assert (await tx.bindings.edit(bound.id, make.NOW, expires_at=None)).expires_at is None
        other = await tx.bindings.add(make.binding("project", "others", template, one))
    async with store.read() as tx:
        assert [b.name for b in (await tx.bindings.page(Paging(), role="dev", cluster="prod")).items] == [
            "devs",
            "others",
        ]
        assert (await tx.bindings.page(Paging(), project=one.id, kind="project", name="others")).items == [other]
        assert (await tx.bindings.page(Paging(), kind="global")).total == 0


async def test_another_process_that_wrote_is_noticed(store: SqlStore) -> None:
    *_unused, bob, _template, _one, _two, bound = await scene(store)
    await store.policy()
    other = SqlStore(store.engine)
    async with other.write() as tx:
        await tx.bindings.change_subjects(bound.id, make.NOW, add=[make.subject(bob)])
    async with store.read() as tx:
        assert [s.name for s in ((await tx.bindings.get("project", "devs")) or bound).subjects] == ["ann", "bob"]
    async with store.write() as tx:
        after = await tx.bindings.edit(bound.id, make.NOW, reason="x")
    assert [s.name for s in after.subjects] == ["ann", "bob"]


async def test_bindings_are_found_by_their_subjects(store: SqlStore) -> None:
    prod, ann, bob, *_unused = await scene(store)
    ops, viewer = make.group("ops"), make.template("viewer", context="cluster")
    async with store.write() as tx:
        await tx.groups.add(ops)
        await tx.templates.add(viewer)
        await tx.bindings.add(make.binding("cluster", "ops", viewer, prod, subjects=(ops, ann)))
    async with store.read() as tx:
        pages = [
            await tx.bindings.page(Paging(), user="ann"),
            await tx.bindings.page(Paging(1), user=ann.id),
            await tx.bindings.page(Paging(), user=bob.id),
            await tx.bindings.page(Paging(), group="ops"),
        ]
        rest = await tx.bindings.page(Paging(1, pages[1].next), user=ann.id)
    assert [[b.name for b in page.items] for page in pages] == [["devs", "ops"], ["devs"], [], ["ops"]]
    assert [b.name for b in rest.items] == ["ops"]


async def test_with_a_cluster_or_project_go_its_bindings(store: SqlStore) -> None:
    prod, ann, _bob, template, one, two, bound = await scene(store)
    second = make.binding("project", "second", template, two, subjects=(ann,))
    async with store.write() as tx:
        await tx.bindings.add(second)
    heard = await heard_of(store)
    async with store.write() as tx:
        await tx.projects.remove(two.id)
    assert heard[0].policy.projects == {two.id: None}
    assert heard[0].policy.bindings == {second.id: None}
    async with store.write() as tx:
        await tx.clusters.remove(prod.id)
    assert heard[1].policy.projects == {one.id: None}
    assert heard[1].policy.bindings == {bound.id: None}
    assert (await store.policy())[1] == Policy(templates={template.id: template})


async def test_the_revision_counts_what_changes_a_cluster_and_nothing_else(store: SqlStore) -> None:
    prod, ann, *_unused = await scene(store)
    heard = await heard_of(store)
    async with store.write() as tx:
        await tx.clusters.edit(prod.id, make.NOW, description="x")
        await tx.users.edit(ann.id, make.NOW, display_name="Ann", enabled=True)
        await tx.policy_status.desire(prod.id, 1, "d")
    async with store.write() as tx:
        await tx.users.edit(ann.id, make.NOW, enabled=False)
    async with store.write() as tx:
        await tx.clusters.edit(prod.id, make.NOW, labels={"a": "b"})
    async with store.write() as tx:
        edited = await tx.clusters.edit(prod.id, make.NOW, profile="admin")
    assert edited.profile == "admin"
    with pytest.raises(Taken):  # noqa: PT012
        async with store.write() as tx:
            await tx.global_roles.add(make.global_role("lost"))
            await tx.global_roles.add(make.global_role("lost"))
    assert [delta.policy_revision for delta in heard] == [None, 2, 3, 4]
    assert (await store.policy())[0] == 4


async def test_the_status_of_a_cluster(store: SqlStore) -> None:
    prod, *_unused = await scene(store)
    async with store.write() as tx:
        assert await tx.policy_status.get("nowhere") is None
        assert await tx.policy_status.get("prod") == PolicyStatus(cluster_id=prod.id, cluster_name="prod")
        await tx.policy_status.desire(prod.id, 7, "sha")
        said = PolicyStatus(
            cluster_id=prod.id,
            cluster_name="prod",
            applied_revision=6,
            applied_digest="old",
            applied_at=make.NOW,
            profile="read-only",
            errors=(PolicyFault("ClusterRole/x", "not ours"),),
            healed=10**12,  # an agent may say what it likes
            reported_at=make.NOW + 1,
        )
        await tx.policy_status.report(said)
        await tx.policy_status.report(replace(said, cluster_id="c-nowherenowhe"))
        expected = replace(said, desired_revision=7, desired_digest="sha", healed=2**31 - 1)
        assert await tx.policy_status.get(prod.id) == expected
        assert (await tx.policy_status.page(Paging())).items == [expected]
