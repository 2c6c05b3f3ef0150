# SPDX-License-Identifier: Apache-2.0
"""What the repositories share: their session, the note of what was touched, pages and labels of refs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Select, func, literal, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from mooring.store.ports import Paging
from mooring.store.records import Page
from mooring.store.sql.tables import ClusterRow, LabelRow

R = TypeVar("R")
T = TypeVar("T")

MAX_LIMIT = 500
# Databases bound the number of parameters of a statement (SQLite 32,766, PostgreSQL 32,767).
CHUNK = 1000
TEXTS: Final = msgspec.json.Decoder(dict[str, str])
"""Reads a column that holds a JSON object of texts."""


@dataclass(slots=True)
class Touched:
    """The ids of what a transaction wrote, so that it can be read back before the commit."""

    clusters: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)
    members: set[str] = field(default_factory=set)  # ids of clusters that somebody may enter, or not any more
    global_roles: set[str] = field(default_factory=set)
    templates: set[str] = field(default_factory=set)
    projects: set[str] = field(default_factory=set)
    bindings: set[str] = field(default_factory=set)
    # Of bindings that were there before: the version that they had, and the keys of subjects that came or went since.
    subjects: dict[str, tuple[int, set[str]]] = field(default_factory=dict)
    meaning: bool = False
    """Something that is not of the policy, but decides what it means for a cluster."""

    @property
    def policy(self) -> bool:
        """Whether the policy's revision is to be counted."""
        return bool(self.meaning or self.global_roles or self.templates or self.projects or self.bindings)


class Repository:
    """One table's statements within one transaction."""

    def __init__(self, session: AsyncSession, touched: Touched) -> None:
        self.session = session
        self.touched = touched

    async def one(self, statement: Select[R]) -> R | None:
        """The only row, or None; as the database has it now, not as it was read before."""
        result = await self.session.execute(statement.execution_options(populate_existing=True))
        return result.scalar_one_or_none()

    async def all(self, statement: Select[R]) -> Sequence[R]:
        result = await self.session.execute(statement.execution_options(populate_existing=True))
        return result.scalars().all()

    async def count(self, statement: Select[Any]) -> int:
        result = await self.session.execute(select(func.count()).select_from(statement.order_by(None).subquery()))
        return int(result.scalar_one())

    async def names(
        self, id_column: InstrumentedAttribute[str], name_column: InstrumentedAttribute[str], refs: Iterable[str]
    ) -> dict[str, tuple[str, str]]:
        """Ref (id or name) -> id and name, of those that there are."""
        found: dict[str, tuple[str, str]] = {}
        for some in chunks(set(refs)):
            statement = select(id_column, name_column).where(or_(id_column.in_(some), name_column.in_(some)))
            for row_id, name in await self.session.execute(statement):
                found[row_id] = found[name] = (row_id, name)
        return found

    async def rows(
        self,
        statement: Select[R],
        keys: Sequence[InstrumentedAttribute[Any]],
        paging: Paging,
        key_of: Callable[[R], tuple[str, ...]],
    ) -> Page[R]:
        """One page of rows in the order of `keys`, which together are unique."""
        limit = max(1, min(paging.limit, MAX_LIMIT))
        total = await self.count(statement)
        if paging.after is not None:
            after = [
                literal(float(value) if key.type.python_type is float else value, key.type)
                for key, value in zip(keys, paging.after, strict=True)
            ]
            statement = statement.where(tuple_(*keys) > tuple_(*after))
        rows = list(await self.all(statement.order_by(*keys).limit(limit + 1)))
        more = len(rows) > limit
        rows = rows[:limit]
        return Page(rows, key_of(rows[-1]) if more else None, total)


def matches(
    id_column: InstrumentedAttribute[str], name_column: InstrumentedAttribute[str], ref: str
) -> ColumnElement[bool]:
    """The row with this id or this name. (No name has the form of an id, so there is one at most.)"""
    return or_(id_column == ref, name_column == ref)


def chunks(values: Iterable[T]) -> Iterator[list[T]]:
    """The values in lists short enough for one statement."""
    everything = list(values)
    for start in range(0, len(everything), CHUNK):
        yield everything[start : start + CHUNK]


def encode(value: Any) -> str:
    """The text of a column that holds JSON."""
    return msgspec.json.encode(value).decode()


def fitting(selector: Mapping[str, str]) -> Select[str]:
    """The ids of the clusters that have all of these labels."""
    statement = select(ClusterRow.id)
    for key, value in selector.items():
        labelled = select(LabelRow.cluster_id).where(LabelRow.key == key, LabelRow.value == value)
        statement = statement.where(ClusterRow.id.in_(labelled))
    return statement
