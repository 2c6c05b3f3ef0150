# SPDX-License-Identifier: Apache-2.0
"""The store in SQL: SQLite in WAL mode by default, PostgreSQL by URL. Both run the same statements."""

from mooring.store.sql.store import SqlStore, open_store

__all__ = ["SqlStore", "open_store"]
