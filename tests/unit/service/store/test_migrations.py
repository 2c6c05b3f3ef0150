# SPDX-License-Identifier: Apache-2.0
"""The schema that the migrations leave is the one that the tables describe."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from mooring.lib.ids import is_id
from mooring.store import migrations
from mooring.store.policies import Policy
from mooring.store.ports import Paging
from mooring.store.records import ADMIN_GROUP_ID, Members
from mooring.store.sql import SqlStore, open_store
from mooring.store.sql.tables import Base
from sqlalchemy import Connection, inspect, select, table, text
from sqlalchemy import column as table_column
from sqlalchemy.ext.asyncio import AsyncConnection


def _differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, Base.metadata))


async def test_the_migrations_make_what_the_tables_describe(store: SqlStore) -> None:
    async with store.engine.connect() as connection:
        assert await connection.run_sync(_differences) == []


async def test_an_index_that_is_missing_would_be_noticed(store: SqlStore) -> None:
    async with store.engine.begin() as connection:
        await connection.execute(text("DROP INDEX ix_tokens_user_id"))
        assert await connection.run_sync(_differences) != []


async def test_migrating_again_changes_nothing(empty_url: str) -> None:
    store = open_store(empty_url)
    try:
        assert (await store.revision())[0] is None
        await store.migrate()
        at, newest = await store.revision()
        assert newest is not None
        assert at == newest
        await store.migrate()
        assert await store.revision() == (at, newest)
    finally:
        await store.aclose()


async def test_processes_that_open_a_new_file_together_do_not_find_it_locked(tmp_path: Path) -> None:
    for number in range(30):  # each time one in ten found it so
        stores = [open_store(f"sqlite:///{tmp_path / str(number)}.db") for _unused in range(4)]
        try:
            await asyncio.gather(*(store.revision() for store in stores))
        finally:
            for store in stores:
                await store.aclose()


async def test_two_servers_that_start_together_migrate_once(empty_url: str) -> None:
    first, second = open_store(empty_url), open_store(empty_url)
    try:
        await asyncio.gather(first.migrate(), second.migrate())
        async with second.read() as tx:
            assert (await tx.groups.page(Paging())).total == 1
    finally:
        await first.aclose()
        await second.aclose()


async def test_a_database_of_the_first_version_keeps_everything(empty_url: str) -> None:
    store = open_store(empty_url)
    try:
        async with store.engine.begin() as connection:
            await connection.run_sync(_upgrade_to, "0001")
            before = {table: await _rows(connection, table) for table in _FIRST}
            assert {len(rows) for rows in before.values()} == {1, 2}  # the built-in group is one of two
        await store.migrate()
        async with store.engine.connect() as connection:
            after = {table: await _rows(connection, table) for table in _FIRST}
        assert [row.pop("profile") for row in after["clusters"]] == ["proxy-only"]
        assert [row.pop("audience") for row in after["tokens"]] == ["server"]
        endpoints = [(row.pop("endpoint"), row.pop("endpoint_status")) for row in after["clusters"]]
        assert endpoints == [(None, None)]
        assert [row.pop("endpoint_revision") for row in after["clusters"]] == [0]
        assert after == before
        assert (await store.policy())[1] == Policy()
        snapshot = await store.snapshot(0)
        assert snapshot.clusters[0].labels == {"text": "text"}
        assert list(snapshot.members.values()) == [Members({"text": "text"})]
    finally:
        await store.aclose()


_FIRST = (
    "settings",
    "clusters",
    "cluster_labels",
    "join_tokens",
    "users",
    "groups",
    "group_members",
    "tokens",
    "memberships",
)


def _upgrade_to(connection: Connection, revision: str) -> None:
    """Make the schema as it was then, with a row in each table, every column of which has a value."""
    migrations.upgrade(connection, revision)
    inspector = inspect(connection)
    for name in _FIRST:
        values: dict[str, Any] = {}
        for column in inspector.get_columns(name):
            kind = column["type"].python_type
            values[column["name"]] = {str: "text", bytes: b"bytes", bool: True, int: 1, float: 1.5}[kind]
        if name == "clusters":
            values["conditions"] = "[]"
        if name == "memberships":
            values["group_id"] = None
        columns = [table_column(column) for column in values]
        connection.execute(table(name, *columns).insert(), values)


async def _rows(connection: AsyncConnection, name: str) -> list[dict[str, Any]]:
    found = await connection.execute(select(text("*")).select_from(table(name)))
    return sorted((dict(row) for row in found.mappings()), key=repr)


async def test_the_first_migration_makes_the_group_of_administrators(store: SqlStore) -> None:
    async with store.read() as tx:
        admins = await tx.groups.get("admins")
    assert admins is not None
    assert admins.id == ADMIN_GROUP_ID
    assert admins.builtin
    assert admins.members == ()


def test_the_fixed_id_has_the_form_of_an_id() -> None:
    assert is_id(ADMIN_GROUP_ID, "g")
