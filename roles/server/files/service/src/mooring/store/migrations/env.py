# SPDX-License-Identifier: Apache-2.0
"""Alembic runs this file; the connection comes from `mooring.store.migrations`, never from a file."""

from alembic import context

from mooring.store.sql.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transaction_per_migration=False,
)
context.run_migrations()
