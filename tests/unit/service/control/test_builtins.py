# SPDX-License-Identifier: Apache-2.0
"""What is built in is there after a start, once, and what people did to it stays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from mooring.authn.bootstrap import bind_to_defaults
from mooring.control.builtins import bring_in_line
from mooring.policy import builtin
from mooring.store.records import ADMIN_GROUP_ID, Delta, Members
from mooring.store.sql import SqlStore, open_store
from support import records as make

BASE = builtin.role_id("user-base")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    opened = open_store(f"sqlite:///{tmp_path / 'mooring.db'}")
    await opened.migrate()
    yield opened
    await opened.aclose()


async def members_of_new_users(store: SqlStore) -> list[str]:
    async with store.read() as tx:
        binding = await tx.bindings.get("global", "new-users-user-base")
    assert binding is not None
    return [subject.name for subject in binding.subjects]


async def test_everything_built_in_is_there_and_a_second_start_writes_nothing(store: SqlStore) -> None:
    await bring_in_line(store, make.NOW)
    revision, held = await store.policy()
    ours = builtin.policy()
    assert {role.name for role in held.global_roles.values()} == {role.name for role in ours.global_roles.values()}
    assert {one.id: one.inherits for one in held.templates.values()} == {
        one.id: one.inherits for one in ours.templates.values()
    }
    assert {binding.name for binding in held.bindings.values()} == {"admins", "new-users-user-base"}
    assert {thing.created_at for thing in (*held.global_roles.values(), *held.templates.values())} == {make.NOW}
    await bring_in_line(store, make.NOW + 1)
    assert await store.policy() == (revision, held)


async def test_administrators_reach_every_cluster_also_one_that_is_made_later(store: SqlStore) -> None:
    heard: list[Delta] = []
    early, late = make.cluster("early"), make.cluster("late")
    async with store.write() as tx:
        await tx.clusters.add(early)
    store.on_commit(heard.append)
    await bring_in_line(store, make.NOW)
    async with store.write() as tx:
        await tx.clusters.add(late)
    (binding,) = builtin.BINDINGS
    expected = Members(groups={ADMIN_GROUP_ID: binding.id})
    assert [delta.members for delta in heard] == [{early.id: expected}, {late.id: expected}]


async def test_users_who_were_there_and_users_who_come_get_the_default_role(store: SqlStore) -> None:
    ann, bob, eve = make.user("ann"), make.user("bob"), make.user("eve")
    async with store.write() as tx:
        await tx.users.add(ann, None)
        await tx.users.add(bob, None)
    await bring_in_line(store, make.NOW)
    assert await members_of_new_users(store) == ["ann", "bob"]
    async with store.write() as tx:
        binding = await tx.bindings.get("global", "new-users-user-base")
        assert binding is not None
        assert binding.builtin
        await tx.bindings.change_subjects(binding.id, make.NOW, remove=[make.subject(ann)])
    await bring_in_line(store, make.NOW)
    assert await members_of_new_users(store) == ["bob"]
    async with store.write() as tx:
        await tx.users.add(eve, None)
        await bind_to_defaults(tx, [eve], make.NOW)
    assert await members_of_new_users(store) == ["bob", "eve"]


async def test_a_role_of_ones_own_can_be_for_new_users(store: SqlStore) -> None:
    await bring_in_line(store, make.NOW)
    mine = make.global_role("staff", new_user_default=True)
    ann = make.user("ann")
    async with store.write() as tx:
        await tx.global_roles.add(mine)
        await tx.bindings.add(make.binding("global", "new-users-staff", mine))  # the name is taken
        await tx.users.add(ann, None)
        await bind_to_defaults(tx, [ann], make.NOW)
        found = [b.name for b in (await tx.bindings.page(make.PAGE, user="ann")).items]
    assert len(found) == 2
    assert "new-users-user-base" in found
    assert "new-users-staff" not in found


async def test_what_another_version_left_is_put_right(store: SqlStore) -> None:
    await bring_in_line(store, make.NOW)
    owner = builtin.template_id(builtin.CLUSTER_OWNER)
    async with store.write() as tx:
        base, template = await tx.global_roles.get(BASE), await tx.templates.get(owner)
        assert base is not None
        assert template is not None
        await tx.global_roles.edit(replace(base, description="old", new_user_default=False), make.NOW)
        await tx.templates.edit(replace(template, rules=()), make.NOW)
    await bring_in_line(store, make.NOW + 5)
    held = (await store.policy())[1]
    assert held.templates[owner].rules == template.rules
    assert held.global_roles[BASE].description == base.description
    assert not held.global_roles[BASE].new_user_default  # that one is the administrator's to say
    assert held.global_roles[BASE].updated_at == make.NOW + 5
