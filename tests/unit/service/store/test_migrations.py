# SPDX-License-Identifier: Apache-2.0
"""The schema that the migrations leave is the one that the tables describe."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from mooring.lib.ids import is_id
from mooring.store.ports import Paging
from mooring.store.records import ADMIN_GROUP_ID
from mooring.store.sql import SqlStore, open_store
from mooring.store.sql.tables import Base
from sqlalchemy import Connection, text


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


async def test_the_first_migration_makes_the_group_of_administrators(store: SqlStore) -> None:
    async with store.read() as tx:
        admins = await tx.groups.get("admins")
    assert admins is not None
    assert admins.id == ADMIN_GROUP_ID
    assert admins.builtin
    assert admins.members == ()


def test_the_fixed_id_has_the_form_of_an_id() -> None:
    assert is_id(ADMIN_GROUP_ID, "g")
