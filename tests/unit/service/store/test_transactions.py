# SPDX-License-Identifier: Apache-2.0
"""Transactions: one writer at a time, all or nothing, and listeners that hear every commit and nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from mooring.lib.errors import MooringError
from mooring.store.ports import Paging, StoreUnavailable
from mooring.store.records import ADMIN_GROUP_ID, Delta, Members
from mooring.store.sql import SqlStore, open_store
from sqlalchemy.exc import InterfaceError
from sqlalchemy.ext.asyncio import AsyncSession
from support import records as make
from support.postgres import Postgres


async def test_a_listener_hears_of_a_commit_before_write_returns(store: SqlStore) -> None:
    heard: list[Delta] = []
    store.on_commit(heard.append)
    bob = make.user("bob")
    async with store.write() as tx:
        await tx.users.add(bob, None)
        assert heard == []
    assert [delta.users[bob.id] for delta in heard] == [bob]


async def test_an_error_in_the_body_rolls_back_and_nobody_hears(store: SqlStore) -> None:
    heard: list[Delta] = []
    store.on_commit(heard.append)

    async def fail() -> None:
        async with store.write() as tx:
            await tx.users.add(make.user("bob"), None)
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await fail()
    assert heard == []
    async with store.read() as tx:
        assert await tx.users.get("bob") is None


async def test_a_cancelled_writer_either_commits_and_tells_or_does_neither(store: SqlStore) -> None:
    """A client that hangs up during a revocation must not leave the index with a token that the store has revoked."""
    for steps in range(120):
        heard: list[Delta] = []
        store._listeners[:] = [heard.append]
        name = f"user{steps}"

        async def write(name: str = name) -> None:
            async with store.write() as tx:
                await tx.users.add(make.user(name), None)

        task = asyncio.get_running_loop().create_task(write())
        for _unused in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        kept = await asyncio.gather(task, return_exceptions=True)  # as a log does, which keeps the traceback alive
        async with store.read() as tx:
            stored = await tx.users.get(name)
        assert (stored is not None) == bool(heard), f"{kept}: cancelled after {steps} steps"
    # and the lock of the writers is free again
    async with store.write() as tx:
        await tx.users.add(make.user("last"), None)


async def test_a_commit_whose_answer_was_lost_is_told_all_the_same(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database revoked a token and the connection broke before it could say so."""
    heard: list[Delta] = []
    store.on_commit(heard.append)
    bob = make.user("bob")
    commit = AsyncSession.commit

    async def lost(session: AsyncSession) -> None:
        await commit(session)
        raise InterfaceError("COMMIT", None, OSError("connection lost"))

    async def write() -> None:
        async with store.write() as tx:
            await tx.users.add(bob, None)

    with monkeypatch.context() as patch:
        patch.setattr(AsyncSession, "commit", lost)
        with pytest.raises(StoreUnavailable):
            await write()
    assert [delta.users for delta in heard] == [{bob.id: bob}]


async def test_a_commit_that_failed_is_told_as_what_is_there(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Delta] = []
    store.on_commit(heard.append)
    bob = make.user("bob")

    async def failed(session: AsyncSession) -> None:
        await session.rollback()
        raise InterfaceError("COMMIT", None, OSError("connection lost"))

    async def write() -> None:
        async with store.write() as tx:
            await tx.users.add(bob, None)

    with monkeypatch.context() as patch:
        patch.setattr(AsyncSession, "commit", failed)
        with pytest.raises(StoreUnavailable):
            await write()
    assert [delta.users for delta in heard] == [{bob.id: None}]


async def test_two_writers_do_not_take_the_last_administrator_away_together(url: str) -> None:
    """Two server processes on one database, each removing the other's administrator after looking that one is left."""
    first, second = open_store(url), open_store(url)
    ann, bob = make.user("ann"), make.user("bob")
    async with first.write() as tx:
        for user in (ann, bob):
            await tx.users.add(user, None)
        await tx.groups.change_members(ADMIN_GROUP_ID, make.NOW, add=[ann.id, bob.id], remove=[])

    async def remove(store: SqlStore, user_id: str) -> bool:
        async with store.write() as tx:
            if await tx.groups.enabled_admins() < 2:
                return False
            await tx.groups.change_members(ADMIN_GROUP_ID, make.NOW, add=[], remove=[user_id])
            return True

    assert sorted(await asyncio.gather(remove(first, ann.id), remove(second, bob.id))) == [False, True]
    async with first.read() as tx:
        assert await tx.groups.enabled_admins() == 1
    await first.aclose()
    await second.aclose()


async def test_a_reader_does_not_wait_for_a_writer(store: SqlStore) -> None:
    async with store.write() as writer:
        await writer.users.add(make.user("bob"), None)
        async with store.read() as reader:
            assert await reader.users.get("bob") is None


async def test_a_delta_holds_what_is_there_after_all_that_was_written(store: SqlStore) -> None:
    heard: list[Delta] = []
    ann, ops, prod = make.user("ann"), make.group("ops"), make.cluster("prod")
    async with store.write() as tx:
        await tx.users.add(ann, None)
        await tx.groups.add(ops)
        await tx.groups.change_members(ops.id, make.NOW, add=[ann.id], remove=[])
        await tx.clusters.add(prod)
        await tx.memberships.add(make.membership(prod, ann))
        entry = await tx.memberships.add(make.membership(prod, ops))
    store.on_commit(heard.append)
    async with store.write() as tx:
        await tx.groups.remove(ops.id)
        await tx.users.remove(ann.id)
    (delta,) = heard
    assert delta.users == {ann.id: None}
    assert delta.members == {prod.id: Members({}, {})}
    async with store.read() as tx:
        assert await tx.memberships.get(entry.id) is None


async def test_removing_a_group_tells_of_its_members_and_clusters(store: SqlStore) -> None:
    ann, ops, prod = make.user("ann"), make.group("ops"), make.cluster("prod")
    heard: list[Delta] = []
    async with store.write() as tx:
        await tx.users.add(ann, None)
        await tx.groups.add(ops)
        await tx.groups.change_members(ops.id, make.NOW, add=[ann.id], remove=[])
        await tx.clusters.add(prod)
        await tx.memberships.add(make.membership(prod, ops))
    store.on_commit(heard.append)
    async with store.write() as tx:
        await tx.groups.remove(ops.id)
    changed = heard[0].users[ann.id]
    assert changed is not None
    assert changed.groups == ()
    assert heard[0].members == {prod.id: Members({}, {})}


async def test_a_snapshot_leaves_dead_tokens_out(store: SqlStore) -> None:
    ann, prod = make.user("ann"), make.cluster("prod", labels={"stage": "live"})
    live, expired, revoked = make.token(ann), make.token(ann, expires_at=make.NOW - 1), make.token(ann)
    async with store.write() as tx:
        await tx.users.add(ann, None)
        await tx.clusters.add(prod)
        entry = await tx.memberships.add(make.membership(prod, ann))
        for token in (live, expired, revoked):
            await tx.tokens.add(token)
        await tx.tokens.revoke([revoked.id], make.NOW)
    snapshot = await store.snapshot(make.NOW)
    assert snapshot.tokens == [live]
    assert snapshot.users == [ann]
    assert snapshot.clusters == [prod]
    assert snapshot.members == {prod.id: Members({ann.id: entry.id}, {})}


async def test_a_database_that_does_not_answer_is_said_to_be_so(tmp_path: Path) -> None:
    for url in ("postgresql://nobody@127.0.0.1:1/none", f"sqlite:///{tmp_path}/no/such/folder/mooring.db"):
        store = open_store(url)
        with pytest.raises(StoreUnavailable):
            async with store.read() as tx:
                await tx.users.page(Paging())
        with pytest.raises(StoreUnavailable):
            await store.migrate()
        await store.aclose()


def test_the_sslmode_that_everybody_writes_reaches_the_driver() -> None:
    store = open_store("postgresql://mooring@db.example/mooring?sslmode=verify-full")
    assert store.engine.url.drivername == "postgresql+asyncpg"
    assert dict(store.engine.url.query) == {"ssl": "verify-full"}


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite://", "sqlite:///:memory:", "nonsense"])
def test_another_database_is_refused_with_what_to_write(url: str) -> None:
    with pytest.raises(MooringError, match="use sqlite:///PATH"):
        open_store(url)


async def test_sqlite_keeps_what_was_answered(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'a.db'}")
    await store.migrate()
    async with store.engine.connect() as connection:
        values = [
            (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert values == ["wal", 2, 1]  # 2: FULL
    await store.aclose()


async def test_a_database_that_turns_clients_away_is_said_to_be_so(postgres: Postgres) -> None:
    """While PostgreSQL recovered from a kill, REST calls were answered with 500: it answers, but takes nobody in."""
    url = postgres.create("closed")
    postgres.execute('ALTER DATABASE "closed" ALLOW_CONNECTIONS false')
    store = open_store(url)
    with pytest.raises(StoreUnavailable):
        async with store.read() as tx:
            await tx.users.page(Paging())
    await store.aclose()
    postgres.drop("closed")
