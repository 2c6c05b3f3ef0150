# SPDX-License-Identifier: Apache-2.0
"""What each repository gives back, page by page and after changes; the same on both databases."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mooring.lib.secrets import Secret
from mooring.store.ports import Paging, Taken, VisibleTo
from mooring.store.records import (
    ADMIN_GROUP_ID,
    Cluster,
    ClusterStatus,
    Condition,
    Delta,
    EndpointNode,
    EndpointSettings,
    EndpointStatus,
    JoinToken,
    User,
)
from mooring.store.sql import SqlStore
from support import records as make


async def add_users(store: SqlStore, *names: str) -> list[User]:
    async with store.write() as tx:
        return [await tx.users.add(make.user(name), None) for name in names]


async def add_clusters(store: SqlStore, *names: str) -> list[Cluster]:
    async with store.write() as tx:
        return [await tx.clusters.add(make.cluster(name)) for name in names]


async def test_pages_follow_each_other_in_byte_order_whatever_the_locale(store: SqlStore) -> None:
    names = ["B", "Zoe", "a", "b", "z", "ä", "日本"]
    await add_users(store, *reversed(names))
    seen: list[str] = []
    after = None
    for _unused in range(10):
        async with store.read() as tx:
            page = await tx.users.page(Paging(3, after))
        assert page.total == len(names)
        assert len(page.items) <= 3
        seen += [user.name for user in page.items]
        after = page.next
        if after is None:
            break
    assert seen == names


async def test_a_page_never_holds_more_than_500(store: SqlStore) -> None:
    owner = (await add_users(store, "ann"))[0]
    async with store.write() as tx:
        for number in range(503):
            await tx.tokens.add(make.token(owner, created_at=make.NOW + number / 8))
    async with store.read() as tx:
        page = await tx.tokens.page(Paging(100_000))
        rest = await tx.tokens.page(Paging(500, page.next))
    assert (len(page.items), len(rest.items), page.total) == (500, 3, 503)
    times = [token.created_at for token in page.items + rest.items]
    assert times == sorted(times)


async def test_tokens_of_one_instant_are_all_listed(store: SqlStore) -> None:
    owner = (await add_users(store, "ann"))[0]
    async with store.write() as tx:
        made = {(await tx.tokens.add(make.token(owner))).id for _unused in range(7)}
    seen: list[str] = []
    after: tuple[str, ...] | None = None
    async with store.read() as tx:
        while True:
            page = await tx.tokens.page(Paging(2, after))
            seen += [token.id for token in page.items]
            after = page.next
            if after is None:
                break
    assert set(seen) == made
    assert len(seen) == 7


async def test_a_cluster_comes_back_as_it_was_written(store: SqlStore) -> None:
    written = make.cluster("prod", description="Größe\n2", labels={"b": "2", "a": "1"})
    async with store.write() as tx:
        assert await tx.clusters.add(written) == written
    async with store.read() as tx:
        assert await tx.clusters.get("prod") == written
        assert await tx.clusters.get(written.id) == written
        assert await tx.clusters.get("Prod") is None


async def test_names_are_taken_once(store: SqlStore) -> None:
    await add_clusters(store, "prod")
    await add_users(store, "ann")
    async with store.write() as tx:
        with pytest.raises(Taken) as taken:
            await tx.clusters.add(make.cluster("prod"))
        assert taken.value.field == "name"
        with pytest.raises(Taken):
            await tx.users.add(make.user("ann"), None)
        with pytest.raises(Taken):
            await tx.groups.add(make.group("admins"))


async def test_clusters_are_selected_by_labels_state_and_who_may_enter(store: SqlStore) -> None:
    ann, bob = await add_users(store, "ann", "bob")
    async with store.write() as tx:
        one = await tx.clusters.add(make.cluster("one", labels={"env": "prod", "team": "a"}))
        two = await tx.clusters.add(make.cluster("two", labels={"env": "prod"}, state="connected"))
        await tx.clusters.add(make.cluster("three", labels={"env": "test"}))
        ops = await tx.groups.add(make.group("ops"))
        await tx.groups.change_members(ops.id, make.NOW, add=[ann.id], remove=[])
        await tx.memberships.add(make.membership(one, ops))
        await tx.memberships.add(make.membership(one, ann))
        await tx.memberships.add(make.membership(two, bob))

    async def names(**how: object) -> list[str]:
        async with store.read() as tx:
            page = await tx.clusters.page(Paging(), **how)  # type: ignore[arg-type]
        assert page.total == len(page.items)
        return [cluster.name for cluster in page.items]

    assert await names() == ["one", "three", "two"]
    assert await names(labels={"env": "prod"}) == ["one", "two"]
    assert await names(labels={"env": "prod", "team": "a"}) == ["one"]
    assert await names(labels={"env": "a"}) == []
    assert await names(state="connected") == ["two"]
    assert await names(name="two") == ["two"]
    assert await names(visible_to=VisibleTo(ann.id, make.NOW)) == ["one"]
    assert await names(visible_to=VisibleTo(bob.id, make.NOW)) == ["two"]
    assert await names(visible_to=VisibleTo("u-nobodynobody", make.NOW)) == []


async def test_an_edit_counts_the_version_and_a_status_does_not(store: SqlStore) -> None:
    (prod,) = await add_clusters(store, "prod")
    conditions = (Condition("Connected", "True", "AgentConnected", "", make.NOW),)
    status = ClusterStatus(
        state="connected",
        state_reason="",
        conditions=conditions,
        last_seen_at=make.NOW + 1,
        connected_at=make.NOW,
        kubernetes_version="v1.36.3",
        node_count=3,
        nodes_ready=2,
        api_server_healthy=True,
        agent_version="0.1.0",
    )
    async with store.write() as tx:
        await tx.clusters.set_statuses({prod.id: status})
        after = await tx.clusters.get(prod.id)
        assert after is not None
        assert (after.version, after.state, after.conditions, after.nodes_ready) == (1, "connected", conditions, 2)
        edited = await tx.clusters.edit(prod.id, make.NOW + 5, labels={"x": "y"})
        assert (edited.version, edited.updated_at, edited.labels) == (2, make.NOW + 5, {"x": "y"})
        assert edited.state == "connected"


async def test_a_status_of_a_cluster_that_is_gone_changes_nothing(store: SqlStore) -> None:
    (prod,) = await add_clusters(store, "prod")
    status = ClusterStatus(
        state="connected",
        state_reason="",
        conditions=(),
        last_seen_at=None,
        connected_at=None,
        kubernetes_version="",
        node_count=None,
        nodes_ready=None,
        api_server_healthy=None,
        agent_version="",
    )
    async with store.write() as tx:
        await tx.clusters.remove(prod.id)
    async with store.write() as tx:
        await tx.clusters.set_statuses({prod.id: status})
        assert await tx.clusters.get(prod.id) is None


async def test_two_clusters_cannot_have_one_uid(store: SqlStore) -> None:
    one, two = await add_clusters(store, "one", "two")
    async with store.write() as tx:
        assert not await tx.clusters.any_registered()
        registered = await tx.clusters.register(
            one.id, make.NOW, public_key=b"k" * 32, cluster_uid="uid-1", agent="0.1.0", kubernetes="v1.36.3"
        )
        assert registered.public_key == b"k" * 32
        assert await tx.clusters.any_registered()
        assert await tx.clusters.by_uid("uid-1") == registered
        with pytest.raises(Taken) as taken:
            await tx.clusters.register(
                two.id, make.NOW, public_key=b"l" * 32, cluster_uid="uid-1", agent="", kubernetes=""
            )
        assert taken.value.field == "cluster_uid"


async def test_a_restart_finds_every_connected_cluster_disconnected(store: SqlStore) -> None:
    async with store.write() as tx:
        for name, state in (("one", "connected"), ("two", "pending"), ("three", "connected")):
            await tx.clusters.add(make.cluster(name, state=state))
        assert await tx.clusters.all_disconnected("restarted") == 2
    async with store.read() as tx:
        page = await tx.clusters.page(Paging())
    assert [(c.name, c.state, c.state_reason) for c in page.items] == [
        ("one", "disconnected", "restarted"),
        ("three", "disconnected", "restarted"),
        ("two", "pending", ""),
    ]


async def test_a_removed_cluster_takes_all_that_hung_on_it_along(store: SqlStore) -> None:
    (ann,) = await add_users(store, "ann")
    (prod,) = await add_clusters(store, "prod")
    scoped, free = make.token(ann, cluster_id=prod.id, cluster_name="prod"), make.token(ann)
    join = JoinToken(id="j-aaaaaaaaaaaa", cluster_id=prod.id, hash=b"h", created_at=make.NOW, expires_at=make.NOW + 60)
    async with store.write() as tx:
        await tx.tokens.add(scoped)
        await tx.tokens.add(free)
        await tx.join_tokens.add(join)
        entry = await tx.memberships.add(make.membership(prod, ann))
        assert await tx.tokens.get(scoped.id) == scoped
    async with store.write() as tx:
        await tx.clusters.remove(prod.id)
    async with store.read() as tx:
        assert await tx.tokens.get(scoped.id) is None
        assert await tx.tokens.get(free.id) == free
        assert await tx.join_tokens.get(join.id) is None
        assert await tx.memberships.get(entry.id) is None


async def test_a_join_token_keeps_the_key_that_it_was_spent_on(store: SqlStore) -> None:
    (prod,) = await add_clusters(store, "prod")
    join = JoinToken(id="j-aaaaaaaaaaaa", cluster_id=prod.id, hash=b"h", created_at=make.NOW, expires_at=make.NOW + 60)
    async with store.write() as tx:
        await tx.join_tokens.add(join)
        assert await tx.join_tokens.count_open(prod.id, make.NOW) == 1
        assert await tx.join_tokens.count_open(prod.id, make.NOW + 61) == 0
        await tx.join_tokens.spend(join.id, make.NOW + 1, b"key")
        assert await tx.join_tokens.count_open(prod.id, make.NOW) == 0
    async with store.write() as tx:
        spent = await tx.join_tokens.get(join.id)
        assert spent is not None
        assert (spent.used_at, spent.used_public_key) == (make.NOW + 1, b"key")
        assert await tx.join_tokens.purge(make.NOW + 60) == 0
        assert await tx.join_tokens.purge(make.NOW + 61) == 1


async def test_members_come_and_go_and_both_sides_see_it(store: SqlStore) -> None:
    ann, bob = await add_users(store, "ann", "bob")
    async with store.write() as tx:
        ops = await tx.groups.add(make.group("ops"))
        ops = await tx.groups.change_members(ops.id, make.NOW, add=[bob.id, ann.id, ann.id], remove=[])
        assert ops.members == ((ann.id, "ann"), (bob.id, "bob"))
        assert ops.version == 2
        after = await tx.users.get("ann")
        assert after is not None
        assert after.groups == ((ops.id, "ops"),)
        assert after.version == 2
        ops = await tx.groups.change_members(ops.id, make.NOW, add=[], remove=[ann.id, "u-nobodynobody"])
        assert ops.members == ((bob.id, "bob"),)
        after = await tx.users.set_groups(bob.id, [ADMIN_GROUP_ID], make.NOW)
        assert after.groups == ((ADMIN_GROUP_ID, "admins"),)
        emptied = await tx.groups.get("ops")
        assert emptied is not None
        assert emptied.members == ()
        assert emptied.version == 4


async def test_only_enabled_administrators_count(store: SqlStore) -> None:
    ann, bob = await add_users(store, "ann", "bob")
    async with store.write() as tx:
        await tx.groups.change_members(ADMIN_GROUP_ID, make.NOW, add=[ann.id, bob.id], remove=[])
        assert await tx.groups.enabled_admins() == 2
        await tx.users.edit(bob.id, make.NOW, enabled=False)
        assert await tx.groups.enabled_admins() == 1
        await tx.users.remove(ann.id)
        assert await tx.groups.enabled_admins() == 0


async def test_users_and_groups_are_selected(store: SqlStore) -> None:
    ann, bob = await add_users(store, "ann", "bob")
    async with store.write() as tx:
        ops = await tx.groups.add(make.group("ops"))
        await tx.groups.change_members(ops.id, make.NOW, add=[ann.id], remove=[])
        await tx.users.edit(bob.id, make.NOW, enabled=False)
        assert [u.name for u in (await tx.users.page(Paging(), enabled=True)).items] == ["ann"]
        assert [u.name for u in (await tx.users.page(Paging(), enabled=False)).items] == ["bob"]
        assert [u.name for u in (await tx.users.page(Paging(), group="ops")).items] == ["ann"]
        assert [u.name for u in (await tx.users.page(Paging(), group=ops.id)).items] == ["ann"]
        assert [u.name for u in (await tx.users.page(Paging(), name="bob")).items] == ["bob"]
        assert [g.name for g in (await tx.groups.page(Paging(), member="ann")).items] == ["ops"]
        assert [g.name for g in (await tx.groups.page(Paging(), name="admins")).items] == ["admins"]


async def test_a_password_hash_is_given_as_a_secret_only(store: SqlStore) -> None:
    async with store.write() as tx:
        bob = await tx.users.add(make.user("bob"), Secret("$argon2id$canary"))
        assert "canary" not in repr(bob)
        assert await tx.users.password_hash(bob.id) == Secret("$argon2id$canary")
        await tx.users.set_password_hash(bob.id, None, make.NOW)
        assert await tx.users.password_hash(bob.id) is None


async def test_tokens_are_selected_revoked_and_purged(store: SqlStore) -> None:
    ann, bob = await add_users(store, "ann", "bob")
    (prod,) = await add_clusters(store, "prod")
    first = make.token(ann, created_at=make.NOW)
    second = make.token(ann, created_at=make.NOW + 1, cluster_id=prod.id, cluster_name="prod")
    third = make.token(bob, created_at=make.NOW + 2, expires_at=make.NOW - 5)
    async with store.write() as tx:
        for token in (first, second, third):
            await tx.tokens.add(token)
        assert (await tx.tokens.page(Paging(), user="ann")).items == [first, second]
        assert (await tx.tokens.page(Paging(), cluster="prod")).items == [second]
        assert (await tx.tokens.page(Paging(), active_at=make.NOW)).items == [first, second]
        assert await tx.tokens.count_active(ann.id, make.NOW) == 2
        await tx.tokens.revoke([first.id], make.NOW + 10)
        await tx.tokens.revoke([first.id], make.NOW + 20)
        await tx.tokens.used({second.id: make.NOW + 11})
    async with store.write() as tx:
        revoked, used = await tx.tokens.get(first.id), await tx.tokens.get(second.id)
        assert revoked is not None
        assert revoked.revoked_at == make.NOW + 10
        assert used is not None
        assert used.last_used_at == make.NOW + 11
        assert await tx.tokens.count_active(ann.id, make.NOW) == 1
        assert await tx.tokens.purge(make.NOW) == 1
        assert await tx.tokens.get(third.id) is None
        assert await tx.tokens.purge(make.NOW + 11) == 1


async def test_tokens_for_endpoints_are_told_apart_from_those_for_the_server(store: SqlStore) -> None:
    ann, bob = await add_users(store, "ann", "bob")
    prod, test = await add_clusters(store, "prod", "test")
    scoped = make.token(ann, created_at=make.NOW, cluster_id=prod.id, cluster_name="prod")
    first = make.endpoint_token(ann, prod, created_at=make.NOW + 1)
    second = make.endpoint_token(bob, prod, created_at=make.NOW + 2, expires_at=make.NOW - 5)
    third = make.endpoint_token(ann, test, created_at=make.NOW + 3)
    async with store.write() as tx:
        for token in (scoped, first, second, third):
            assert await tx.tokens.add(token) == token
        assert await tx.tokens.get(first.id) == first
        assert (await tx.tokens.page(Paging(), audience="endpoint")).items == [first, second, third]
        assert (await tx.tokens.page(Paging(), audience="server", cluster="prod")).items == [scoped]
        assert await tx.tokens.count_active(ann.id, make.NOW) == 1
        assert await tx.tokens.count_active(ann.id, make.NOW, audience="endpoint") == 2
        assert await tx.tokens.count_active(ann.id, make.NOW, audience="endpoint", cluster_id=prod.id) == 1
        assert await tx.tokens.count_active(None, make.NOW - 9, audience="endpoint", cluster_id=prod.id) == 2
        assert {token.id for token in await tx.tokens.of_endpoints(make.NOW)} == {first.id, third.id}
        assert {token.id for token in await tx.tokens.of_endpoints(make.NOW - 6)} == {first.id, second.id, third.id}
    assert [token.id for token in (await store.snapshot(make.NOW)).tokens] == [scoped.id]
    heard: list[Delta] = []
    store.on_commit(heard.append)
    async with store.write() as tx:
        assert await tx.tokens.revoke_endpoint(prod.id, make.NOW + 9) == 2
    assert heard[0].tokens.keys() == {first.id, second.id}
    async with store.read() as tx:
        assert {token.id for token in await tx.tokens.of_endpoints(0)} == {third.id}
        kept = await tx.tokens.get(scoped.id)
    assert kept is not None
    assert kept.revoked_at is None


async def test_the_endpoint_of_a_cluster_is_set_and_reported(store: SqlStore) -> None:
    prod, test = await add_clusters(store, "prod", "test")
    settings = EndpointSettings(mode="agent", fqdn="prod.example:6443", ca_pem="PEM", ttl_seconds=60, grace_seconds=5)
    status = EndpointStatus(
        nodes=(EndpointNode("m1", "10.0.0.1", 6443),), ca_pem="CA", revision=2**40, digest="d" * 64, at=make.NOW
    )
    heard: list[Delta] = []
    store.on_commit(heard.append)
    async with store.write() as tx:
        assert await tx.clusters.with_endpoint() == {}
        changed = await tx.clusters.set_endpoint(prod.id, make.NOW + 1, settings)
        assert (changed.endpoint, changed.version) == (settings, prod.version + 1)
        await tx.clusters.set_endpoint_statuses({prod.id: status, "c-gone": status})
        assert await tx.clusters.with_endpoint() == {prod.id: 0}
    seen = heard[0].clusters
    assert seen["c-gone"] is None
    assert seen[prod.id] == replace(changed, endpoint_status=status)
    assert heard[0].policy_revision is None, "it changes nothing in any policy"
    async with store.write() as tx:
        assert await tx.clusters.get(prod.id) == seen[prod.id], "a report is no edit"
        assert (await tx.clusters.set_endpoint(prod.id, make.NOW + 2, None)).endpoint is None
        assert await tx.clusters.with_endpoint() == {}
        assert await tx.clusters.add(make.cluster("new", endpoint=settings)) is not None
        assert (await tx.clusters.get(test.id)) == test


async def test_revisions_of_an_endpoint_are_given_out_once(store: SqlStore) -> None:
    prod, test = await add_clusters(store, "prod", "test")
    async with store.write() as tx:
        assert await tx.clusters.take_endpoint_revisions({prod.id: 0, test.id: 7, "c-gone": 0}, 100) == {
            prod.id: 0,
            test.id: 7,
        }
    async with store.write() as tx:
        assert await tx.clusters.take_endpoint_revisions({prod.id: 0, test.id: 7}, 1) == {prod.id: 100, test.id: 107}
        assert await tx.clusters.take_endpoint_revisions({prod.id: 2**50}, 1) == {prod.id: 2**50}
        assert await tx.clusters.with_endpoint() == {prod.id: 2**50 + 1, test.id: 108}


async def test_all_tokens_of_a_user_go_but_the_one_to_keep(store: SqlStore) -> None:
    ann, bob = await add_users(store, "ann", "bob")
    tokens = [make.token(ann), make.token(ann), make.token(bob)]
    async with store.write() as tx:
        for token in tokens:
            await tx.tokens.add(token)
        await tx.tokens.revoke_all_of(ann.id, make.NOW, keep=tokens[0].id)
        ended = [(await tx.tokens.get(token.id)).revoked_at is not None for token in tokens]  # type: ignore[union-attr]
    assert ended == [False, True, False]


async def test_a_membership_is_made_once_for_a_user_and_once_for_a_group(store: SqlStore) -> None:
    (ann,) = await add_users(store, "ann")
    one, two = await add_clusters(store, "one", "two")
    async with store.write() as tx:
        ops = await tx.groups.add(make.group("ops"))
        mine = await tx.memberships.add(make.membership(one, ann))
        theirs = await tx.memberships.add(make.membership(one, ops, created_at=make.NOW + 1))
        other = await tx.memberships.add(make.membership(two, ann, created_at=make.NOW + 2))
        with pytest.raises(Taken) as taken:
            await tx.memberships.add(make.membership(one, ann))
        assert taken.value.field == "user"
        with pytest.raises(Taken) as taken:
            await tx.memberships.add(make.membership(one, ops))
        assert taken.value.field == "group"
        assert (await tx.memberships.page(Paging())).items == [mine, theirs, other]
        assert (await tx.memberships.page(Paging(), cluster="one")).items == [mine, theirs]
        assert (await tx.memberships.page(Paging(), user="ann")).items == [mine, other]
        assert (await tx.memberships.page(Paging(), group="ops")).items == [theirs]
        await tx.memberships.remove(mine.id)
        assert await tx.memberships.get(mine.id) is None


async def test_settings_are_put_and_put_again(store: SqlStore) -> None:
    async with store.write() as tx:
        assert await tx.settings.get("a") is None
        await tx.settings.put("a", "1")
        await tx.settings.put("a", "2")
    async with store.read() as tx:
        assert await tx.settings.get("a") == "2"
