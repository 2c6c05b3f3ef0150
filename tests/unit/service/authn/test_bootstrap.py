# SPDX-License-Identifier: Apache-2.0
"""The first administrator, and the prefix that cannot change behind the clusters' backs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mooring.authn.bootstrap import check_prefix, create_admin, has_admin, pin_prefix
from mooring.authn.passwords import Passwords
from mooring.lib.clock import ManualClock
from mooring.lib.errors import MooringError
from mooring.lib.names import InvalidName
from mooring.lib.secrets import Secret
from mooring.store.sql import SqlStore, open_store
from support import records as make


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    opened = open_store(f"sqlite:///{tmp_path / 'mooring.db'}")
    await opened.migrate()
    yield opened
    await opened.aclose()


async def test_the_first_administrator_and_a_lost_password(store: SqlStore) -> None:
    passwords, clock = Passwords(time_cost=1, memory_kib=64), ManualClock()
    assert not await has_admin(store)
    first = await create_admin(store, passwords, clock, "root", Secret("one password"))
    assert await has_admin(store)
    async with store.write() as tx:
        await tx.users.edit(first.id, clock.now(), enabled=False)
        await tx.tokens.add(make.token(first))
    assert not await has_admin(store)
    again = await create_admin(store, passwords, clock, "root", Secret("another password"))
    assert (again.id, again.uid) == (first.id, first.uid)
    assert await has_admin(store)
    async with store.read() as tx:
        stored = await tx.users.password_hash(first.id)
        assert await tx.tokens.count_active(first.id, make.NOW) == 0
    assert await passwords.verify(stored, Secret("another password"))
    assert not await passwords.verify(stored, Secret("one password"))
    passwords.close()


async def test_an_administrator_cannot_have_a_name_of_kubernetes(store: SqlStore) -> None:
    passwords = Passwords(time_cost=1, memory_kib=64)
    with pytest.raises(InvalidName):
        await create_admin(store, passwords, ManualClock(), "system:admin", Secret("one password"))
    passwords.close()


async def test_the_prefix_is_fixed_once_a_cluster_is_registered(store: SqlStore) -> None:
    prod = make.cluster("prod")
    await check_prefix(store, "a:")
    async with store.write() as tx:
        await tx.clusters.add(prod)
    await check_prefix(store, "b:")
    async with store.write() as tx:
        await tx.clusters.register(prod.id, make.NOW, public_key=b"k" * 32, cluster_uid="u", agent="", kubernetes="")
        await pin_prefix(tx, "b:")
    await check_prefix(store, "b:")
    with pytest.raises(MooringError, match="registered with 'b:'"):
        await check_prefix(store, "a:")
    async with store.write() as tx:
        await tx.clusters.remove(prod.id)
    await check_prefix(store, "a:")
