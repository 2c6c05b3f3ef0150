# SPDX-License-Identifier: Apache-2.0
"""Bring a database to the newest schema: Alembic, called from the program and not from a command line.

A revision that has been released is never edited; a change is a new file in `versions/`.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

# Any number will do, as long as all replicas use the same one and nothing else does.
MIGRATION_LOCK = 7_466_701


def upgrade(connection: Connection, to: str = "head") -> None:
    """Run what is missing, inside the caller's transaction; replicas that start together wait for each other."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, to)


def revision(connection: Connection) -> str | None:
    """The revision that the database is at; None if it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def newest() -> str | None:
    """The revision that this program needs."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config
