# SPDX-License-Identifier: Apache-2.0
"""Transactions: how they begin, who waits for whom, and what happens at a commit.

Writers are alone: in this process by a lock, between processes by SQLite's `BEGIN IMMEDIATE` or a PostgreSQL advisory
lock. So "look, then write" needs no retry, and listeners hear commits in the order in which they happened. A commit and
its announcement are one step that a cancelled request cannot tear apart.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiosqlite
from alembic.util import CommandError
from sqlalchemy import Connection, event, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from mooring.lib import logging
from mooring.lib.errors import MooringError
from mooring.lib.tasks import Supervisor
from mooring.store import migrations
from mooring.store.policies import Binding, Policy, PolicyDelta
from mooring.store.ports import StoreUnavailable
from mooring.store.records import Delta, Snapshot
from mooring.store.sql.access import SqlMemberships, SqlSettings, SqlTokens
from mooring.store.sql.base import Touched, chunks
from mooring.store.sql.bindings import SqlBindings
from mooring.store.sql.clusters import SqlClusters, SqlJoinTokens
from mooring.store.sql.members import members
from mooring.store.sql.people import SqlGroups, SqlUsers
from mooring.store.sql.projects import SqlPolicyStatus, SqlProjects
from mooring.store.sql.roles import SqlGlobalRoles, SqlTemplates
from mooring.store.sql.tables import (
    BindingRow,
    ClusterRow,
    GlobalRoleRow,
    ProjectRow,
    TemplateRow,
    TokenRow,
    UserRow,
)

WAIT = 10.0  # seconds for a connection, a lock or the writer before us
STATEMENT = 15.0  # seconds for one statement (PostgreSQL)
WRITER_LOCK = 7_466_702  # a PostgreSQL advisory lock that nothing else uses
REVISION_KEY = "policy_revision"
_WRITE = "mooring_write"
_AWAY = frozenset({"08", "40", "53", "55", "57", "58"})
"""Classes of SQLSTATE (PostgreSQL, appendix A) that say nothing of the statement: connection lost, transaction rolled
back by the database, no resources, not ready or locked, shutting down or starting up, trouble with its files."""


class SqlTransaction:
    """The repositories of one transaction."""

    def __init__(self, session: AsyncSession, known: Mapping[str, Binding], touched: Touched | None = None) -> None:
        self.touched = touched or Touched()
        self.bindings = SqlBindings(session, self.touched, known)
        self.clusters = SqlClusters(session, self.touched)
        self.join_tokens = SqlJoinTokens(session, self.touched)
        self.users = SqlUsers(session, self.touched, self.bindings)
        self.groups = SqlGroups(session, self.touched, self.bindings)
        self.tokens = SqlTokens(session, self.touched)
        self.memberships = SqlMemberships(session, self.touched)
        self.global_roles = SqlGlobalRoles(session, self.touched)
        self.templates = SqlTemplates(session, self.touched)
        self.projects = SqlProjects(session, self.touched)
        self.policy_status = SqlPolicyStatus(session, self.touched)
        self.settings = SqlSettings(session, self.touched)
        self._session = session

    async def revision(self) -> int:
        """The policy's number."""
        return int(await self.settings.get(REVISION_KEY) or 0)

    async def count_policy(self) -> None:
        """Add 1 to the policy's number if this transaction changed the policy or what it means."""
        if self.touched.policy:
            await self.settings.put(REVISION_KEY, str(await self.revision() + 1))

    async def delta(self) -> Delta:
        """What was touched, as it now is."""
        await self._session.flush()
        self._session.expunge_all()
        touched = self.touched
        return Delta(
            clusters=await _read(self.clusters, ClusterRow, touched.clusters),
            users=await _read(self.users, UserRow, touched.users),
            tokens=await _read(self.tokens, TokenRow, touched.tokens),
            members=await members(self.bindings, touched.members),
            policy=PolicyDelta(
                global_roles=await _read(self.global_roles, GlobalRoleRow, touched.global_roles),
                templates=await _read(self.templates, TemplateRow, touched.templates),
                projects=await _read(self.projects, ProjectRow, touched.projects),
                bindings=await _read(self.bindings, BindingRow, touched.bindings),
            ),
            policy_revision=await self.revision() if touched.policy else None,
        )


async def _read(repository: Any, table: Any, ids: set[str]) -> dict[str, Any]:
    """The records with these ids; None for those that are gone."""
    found: dict[str, Any] = dict.fromkeys(sorted(ids))
    for some in chunks(ids):
        for record in await repository.records(await repository.all(select(table).where(table.id.in_(some)))):
            found[record.id] = record
    return found


class SqlStore:
    """The store on one database. Make it with `open_store`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._writing = engine.execution_options(**{_WRITE: True})
        self._writer = asyncio.Lock()
        self._commits = Supervisor("store")
        self._listeners: list[Callable[[Delta], None]] = []
        self._bindings: dict[str, Binding] = {}  # as they were last read or committed, to be read faster
        self._log = logging.get("mooring.store")

    async def migrate(self) -> None:
        """Bring the schema to the newest revision. Raises MooringError for a database from a newer program."""
        try:
            with self._errors():
                async with self._writing.begin() as connection:
                    await connection.run_sync(migrations.upgrade)
        except CommandError as error:
            raise MooringError(
                f"the database was made by a newer version of Mooring: {error}",
                "install that version again, or restore a backup from before it",
            ) from None

    async def revision(self) -> tuple[str | None, str | None]:
        """The schema revision of the database and the one that this program needs."""
        with self._errors():
            async with self.engine.connect() as connection:
                return await connection.run_sync(migrations.revision), migrations.newest()

    def on_commit(self, listener: Callable[[Delta], None]) -> None:
        self._listeners.append(listener)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[SqlTransaction]:
        with self._errors():
            async with AsyncSession(self.engine, expire_on_commit=False) as session:
                yield SqlTransaction(session, self._bindings)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[SqlTransaction]:
        with self._errors():
            async with asyncio.timeout(WAIT):
                await self._writer.acquire()
            try:
                async with AsyncSession(self._writing, expire_on_commit=False) as session:
                    if self.engine.dialect.name == "postgresql":
                        await session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITER_LOCK})
                    transaction = SqlTransaction(session, self._bindings)
                    yield transaction
                    await transaction.count_policy()
                    await self._finish(session, transaction.touched, await transaction.delta())
            finally:
                self._writer.release()

    async def snapshot(self, now: float) -> Snapshot:
        async with self.read() as transaction:
            clusters, users, tokens = transaction.clusters, transaction.users, transaction.tokens
            alive = select(TokenRow).where(
                TokenRow.audience == "server",
                TokenRow.revoked_at.is_(None),
                TokenRow.expires_at.is_(None) | (TokenRow.expires_at > now),
            )
            return Snapshot(
                clusters=list(await clusters.records(await clusters.all(select(ClusterRow)))),
                users=list(await users.records(await users.all(select(UserRow)))),
                tokens=list(await tokens.records(await tokens.all(alive))),
                members=await members(transaction.bindings),
            )

    async def policy(self) -> tuple[int, Policy]:
        async with self.read() as transaction:
            roles, templates = transaction.global_roles, transaction.templates
            projects, bindings = transaction.projects, transaction.bindings
            policy = Policy(
                {one.id: one for one in await roles.records(await roles.all(select(GlobalRoleRow)))},
                {one.id: one for one in await templates.records(await templates.all(select(TemplateRow)))},
                {one.id: one for one in await projects.records(await projects.all(select(ProjectRow)))},
                {one.id: one for one in await bindings.records(await bindings.all(select(BindingRow)))},
            )
            self._bindings.update(policy.bindings)
            return await transaction.revision(), policy

    async def aclose(self) -> None:
        await self._commits.aclose()
        await self.engine.dispose()

    async def _finish(self, session: AsyncSession, touched: Touched, delta: Delta) -> None:
        """Commit and tell. If the caller is cancelled meanwhile, both still happen before the cancellation goes on."""
        task = self._commits.spawn(self._commit(session, touched, delta), "commit")
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task], timeout=STATEMENT)
            raise

    async def _commit(self, session: AsyncSession, touched: Touched, delta: Delta) -> None:
        try:
            await session.commit()
        except Exception:
            # The connection may have been lost after the database did it: tell what is there now.
            await self._look_again(touched)
            raise
        self._tell(delta)

    async def _look_again(self, touched: Touched) -> None:
        try:
            async with AsyncSession(self.engine, expire_on_commit=False) as session:
                self._tell(await SqlTransaction(session, self._bindings, touched).delta())
        except Exception as error:
            self._log.error("it is not known whether a commit happened", error=_brief(error))

    def _tell(self, delta: Delta) -> None:
        for binding_id, binding in delta.policy.bindings.items():
            if binding is None:
                self._bindings.pop(binding_id, None)
            else:
                self._bindings[binding_id] = binding
        for listener in self._listeners:
            listener(delta)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Trouble with the database itself becomes StoreUnavailable; what the caller did wrong stays what it is."""
        try:
            yield
        except (OperationalError, InterfaceError, PoolTimeout, TimeoutError, OSError) as error:
            self._log.error("the database does not answer", error=_brief(error))
            raise StoreUnavailable("the database does not answer", "try again; the server's log says more") from error
        except DBAPIError as error:
            if error.__class__ is DatabaseError:  # not one of its kinds: SQLite says so of a file that it cannot read
                self._log.error("the database cannot be read", error=_brief(error))
                raise StoreUnavailable("the database cannot be read", "restore it from a backup") from error
            if str(getattr(error.orig, "sqlstate", ""))[:2] in _AWAY:
                self._log.error("the database takes no statement now", error=_brief(error))
                raise StoreUnavailable("the database takes no statement now", "try again") from error
            if not error.connection_invalidated:
                raise
            self._log.error("the database connection was lost", error=_brief(error))
            raise StoreUnavailable("the database connection was lost", "try again") from error


def open_store(url: str) -> SqlStore:
    """A store on `sqlite:///PATH` or `postgresql://...`. Connects on first use. Raises MooringError for another URL."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise MooringError("the database URL cannot be read", "use sqlite:///PATH or postgresql://...") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return SqlStore(_sqlite(parsed.set(drivername="sqlite+aiosqlite")))
    if backend == "postgresql":
        if "sslmode" in parsed.query:  # libpq's name, which everybody writes; the driver calls it ssl
            ssl = parsed.query["sslmode"]
            parsed = parsed.difference_update_query(["sslmode"]).update_query_dict({"ssl": ssl})
        return SqlStore(_postgresql(parsed.set(drivername="postgresql+asyncpg")))
    raise MooringError(f"the database {backend!r} is not supported", "use sqlite:///PATH or postgresql://...")


def _postgresql(url: URL) -> AsyncEngine:
    return create_async_engine(
        url,
        pool_size=10,
        max_overflow=10,
        pool_timeout=WAIT,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "timeout": WAIT,
            "command_timeout": STATEMENT,
            "server_settings": {"application_name": "mooring", "lock_timeout": f"{int(WAIT * 1000)}"},
        },
    )


async def _write_ahead(connection: aiosqlite.Connection) -> None:
    """Switch the file to a write-ahead log. Raises sqlite3.OperationalError.

    Who does so while another process does gets SQLITE_BUSY at once, whatever the timeout: SQLite sees a deadlock there
    (its documentation of `sqlite3_busy_handler`). Servers that start together then wait for each other here.
    """
    until = time.monotonic() + WAIT
    while True:
        try:
            await connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        else:
            return
        await asyncio.sleep(0.02)


def _sqlite(url: URL) -> AsyncEngine:
    if url.database in (None, "", ":memory:"):
        raise MooringError("SQLite needs a file", "use sqlite:///PATH")
    engine = create_async_engine(
        url, pool_size=5, max_overflow=5, pool_timeout=WAIT, hide_parameters=True, connect_args={"timeout": WAIT}
    )

    # The driver's own transaction handling begins late and only for some statements; we begin ourselves (SQLAlchemy
    # documentation, "SQLite: serializable isolation / savepoints / transactional DDL").
    @event.listens_for(engine.sync_engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.run_async(_write_ahead)
        cursor = connection.cursor()
        # FULL: a revocation that was answered is still there after a power cut.
        for pragma in ("synchronous=FULL", "foreign_keys=ON", f"busy_timeout={int(WAIT * 1000)}"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get(_WRITE)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    # A cancelled statement still runs in the driver's thread, and SQLite keeps the locks of a closed connection for as
    # long as anything (the traceback of the cancellation) holds its cursor. So end the transaction before the close.
    @event.listens_for(engine.sync_engine, "invalidate")
    def invalidated(connection: Any, _record: Any, _error: BaseException | None) -> None:
        connection.rollback()

    return engine


def _brief(error: BaseException) -> str:
    """The error without its statement, which could hold names, and without parameters."""
    original = getattr(error, "orig", None) or error
    return f"{type(original).__name__}: {str(original).splitlines()[0] if str(original) else ''}"
