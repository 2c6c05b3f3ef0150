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
from collections.abc import AsyncIterator, Callable, Iterator
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
from mooring.store.ports import StoreUnavailable
from mooring.store.records import Delta, Snapshot
from mooring.store.sql.access import SqlMemberships, SqlSettings, SqlTokens
from mooring.store.sql.base import Touched, chunks
from mooring.store.sql.clusters import SqlClusters, SqlJoinTokens
from mooring.store.sql.people import SqlGroups, SqlUsers
from mooring.store.sql.tables import ClusterRow, TokenRow, UserRow

WAIT = 10.0  # seconds for a connection, a lock or the writer before us
STATEMENT = 15.0  # seconds for one statement (PostgreSQL)
WRITER_LOCK = 7_466_702  # a PostgreSQL advisory lock that nothing else uses
_WRITE = "mooring_write"
_AWAY = frozenset({"08", "40", "53", "55", "57", "58"})
"""Classes of SQLSTATE (PostgreSQL, appendix A) that say nothing of the statement: connection lost, transaction rolled
back by the database, no resources, not ready or locked, shutting down or starting up, trouble with its files."""


class SqlTransaction:
    """The repositories of one transaction."""

    def __init__(self, session: AsyncSession, touched: Touched | None = None) -> None:
        self.touched = touched or Touched()
        self.clusters = SqlClusters(session, self.touched)
        self.join_tokens = SqlJoinTokens(session, self.touched)
        self.users = SqlUsers(session, self.touched)
        self.groups = SqlGroups(session, self.touched)
        self.tokens = SqlTokens(session, self.touched)
        self.memberships = SqlMemberships(session, self.touched)
        self.settings = SqlSettings(session, self.touched)
        self._session = session

    async def delta(self) -> Delta:
        """What was touched, as it now is."""
        await self._session.flush()
        self._session.expunge_all()
        touched = self.touched
        clusters = {
            cluster.id: cluster
            for some in chunks(touched.clusters)
            for cluster in await self.clusters.records(
                await self.clusters.all(select(ClusterRow).where(ClusterRow.id.in_(some)))
            )
        }
        users = {
            user.id: user
            for some in chunks(touched.users)
            for user in await self.users.records(await self.users.all(select(UserRow).where(UserRow.id.in_(some))))
        }
        tokens = {
            token.id: token
            for some in chunks(touched.tokens)
            for token in await self.tokens.records(await self.tokens.all(select(TokenRow).where(TokenRow.id.in_(some))))
        }
        return Delta(
            clusters={key: clusters.get(key) for key in sorted(touched.clusters)},
            users={key: users.get(key) for key in sorted(touched.users)},
            tokens={key: tokens.get(key) for key in sorted(touched.tokens)},
            members=await self.memberships.members(touched.members),
        )


class SqlStore:
    """The store on one database. Make it with `open_store`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._writing = engine.execution_options(**{_WRITE: True})
        self._writer = asyncio.Lock()
        self._commits = Supervisor("store")
        self._listeners: list[Callable[[Delta], None]] = []
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
                yield SqlTransaction(session)

    @asynccontextmanager
    async def write(self) -> AsyncIterator[SqlTransaction]:
        with self._errors():
            async with asyncio.timeout(WAIT):
                await self._writer.acquire()
            try:
                async with AsyncSession(self._writing, expire_on_commit=False) as session:
                    if self.engine.dialect.name == "postgresql":
                        await session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITER_LOCK})
                    transaction = SqlTransaction(session)
                    yield transaction
                    await self._finish(session, transaction.touched, await transaction.delta())
            finally:
                self._writer.release()

    async def snapshot(self, now: float) -> Snapshot:
        async with self.read() as transaction:
            clusters, users, tokens = transaction.clusters, transaction.users, transaction.tokens
            alive = select(TokenRow).where(
                TokenRow.revoked_at.is_(None), TokenRow.expires_at.is_(None) | (TokenRow.expires_at > now)
            )
            return Snapshot(
                clusters=list(await clusters.records(await clusters.all(select(ClusterRow)))),
                users=list(await users.records(await users.all(select(UserRow)))),
                tokens=list(await tokens.records(await tokens.all(alive))),
                members=await transaction.memberships.members(),
            )

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
                self._tell(await SqlTransaction(session, touched).delta())
        except Exception as error:
            self._log.error("it is not known whether a commit happened", error=_brief(error))

    def _tell(self, delta: Delta) -> None:
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
