# SPDX-License-Identifier: Apache-2.0
"""Bindings and their subjects.

A binding may have tens of thousands of subjects, so a record that is known is not read again: each change of subjects
counts the binding's version, so the same version has the same subjects, and after a change only those that came or went
are read.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from types import EllipsisType
from typing import Final, cast

from sqlalchemy import ColumnElement, delete, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from mooring.store.policies import Binding, BindingKind, Subject
from mooring.store.ports import Paging, Taken
from mooring.store.records import Page
from mooring.store.sql.base import Repository, Touched, chunks, fitting, matches
from mooring.store.sql.roles import global_role, reach
from mooring.store.sql.tables import (
    BindingRow,
    ClusterRow,
    GlobalRoleRow,
    GroupRow,
    ProjectRow,
    SubjectRow,
    TemplateRow,
    UserRow,
)

_FEW: Final = 64  # subjects that are put in their places one by one


class SqlBindings(Repository):
    """`known` are records as they were committed, by id."""

    def __init__(self, session: AsyncSession, touched: Touched, known: Mapping[str, Binding]) -> None:
        super().__init__(session, touched)
        self._known = known
        self._made: dict[str, tuple[int, tuple[Subject, ...]]] = {}  # binding id -> version and subjects here

    async def get(self, kind: BindingKind, ref: str) -> Binding | None:
        statement = select(BindingRow).where(BindingRow.kind == kind, matches(BindingRow.id, BindingRow.name, ref))
        row = await self.one(statement)
        return None if row is None else (await self.records([row]))[0]

    async def page(
        self,
        paging: Paging,
        *,
        kind: BindingKind | None = None,
        name: str | None = None,
        role: str | None = None,
        cluster: str | None = None,
        project: str | None = None,
        user: str | None = None,
        group: str | None = None,
    ) -> Page[Binding]:
        statement = select(BindingRow)
        if kind is not None:
            statement = statement.where(BindingRow.kind == kind)
        if name is not None:
            statement = statement.where(BindingRow.name == name)
        if role is not None:
            roles = select(GlobalRoleRow.id).where(matches(GlobalRoleRow.id, GlobalRoleRow.name, role))
            templates = select(TemplateRow.id).where(matches(TemplateRow.id, TemplateRow.name, role))
            statement = statement.where(
                or_(BindingRow.global_role_id.in_(roles), BindingRow.template_id.in_(templates))
            )
        if cluster is not None:
            inside = select(ClusterRow.id).where(matches(ClusterRow.id, ClusterRow.name, cluster))
            statement = statement.where(BindingRow.cluster_id.in_(inside))
        if project is not None:
            statement = statement.where(BindingRow.project_id == project)
        if user is not None:
            users = select(UserRow.id).where(matches(UserRow.id, UserRow.name, user))
            named = select(SubjectRow.binding_id).where(SubjectRow.user_id.in_(users))
            statement = statement.where(BindingRow.id.in_(named))
        if group is not None:
            groups = select(GroupRow.id).where(matches(GroupRow.id, GroupRow.name, group))
            named = select(SubjectRow.binding_id).where(SubjectRow.group_id.in_(groups))
            statement = statement.where(BindingRow.id.in_(named))
        found = await self.rows(statement, [BindingRow.name, BindingRow.id], paging, lambda row: (row.name, row.id))
        return Page(await self.records(found.items), found.next, found.total)

    async def add(self, binding: Binding) -> Binding:
        same = select(BindingRow.id).where(BindingRow.kind == binding.kind, BindingRow.name == binding.name)
        if await self.one(same) is not None:
            raise Taken("name", f"there is a {binding.kind} binding {binding.name!r} already")
        is_global = binding.kind == "global"
        row = BindingRow(
            id=binding.id,
            kind=binding.kind,
            name=binding.name,
            global_role_id=binding.role_id if is_global else None,
            template_id=None if is_global else binding.role_id,
            cluster_id=binding.cluster_id,
            project_id=binding.project_id,
            expires_at=binding.expires_at,
            reason=binding.reason,
            builtin=binding.builtin,
            created_by=binding.created_by,
            created_at=binding.created_at,
            updated_at=binding.updated_at,
            version=binding.version,
        )
        self.session.add(row)
        await self.session.flush()
        await self._insert(binding.id, {_key(subject): subject for subject in binding.subjects})
        self.touched.bindings.add(binding.id)
        await self._reached(row)
        return (await self.records([row]))[0]

    async def edit(
        self, binding_id: str, now: float, *, reason: str | None = None, expires_at: float | EllipsisType | None = ...
    ) -> Binding:
        row = await self._row(binding_id)
        if reason is not None:
            row.reason = reason
        if not isinstance(expires_at, EllipsisType) and expires_at != row.expires_at:
            row.expires_at = expires_at
            await self._reached(row)
        await self._changed(row, now, ())
        return (await self.records([row]))[0]

    async def change_subjects(
        self, binding_id: str, now: float, *, add: Iterable[Subject] = (), remove: Iterable[Subject] = ()
    ) -> Binding:
        row = await self._row(binding_id)
        wanted = {_key(subject): subject for subject in add}
        leaving = {_key(subject) for subject in remove} - wanted.keys()
        there: set[str] = set()
        for some in chunks(wanted.keys() | leaving):
            there.update(
                await self.all(
                    select(SubjectRow.key).where(SubjectRow.binding_id == binding_id, SubjectRow.key.in_(some))
                )
            )
        joining = {key: subject for key, subject in wanted.items() if key not in there}
        leaving &= there
        if joining or leaving:
            for some in chunks(leaving):
                await self.session.execute(
                    delete(SubjectRow).where(SubjectRow.binding_id == binding_id, SubjectRow.key.in_(some))
                )
            await self._insert(binding_id, joining)
            await self._changed(row, now, joining.keys() | leaving)
            await self._reached(row)
        return (await self.records([row]))[0]

    async def remove(self, binding_id: str) -> None:
        row = await self._row(binding_id)
        await self._reached(row)
        await self.session.execute(delete(BindingRow).where(BindingRow.id == binding_id))
        self.touched.bindings.add(binding_id)
        self.touched.subjects.pop(binding_id, None)

    async def forget(self, subject_id: str) -> None:
        """A user or a group is about to be removed: its bindings change."""
        named = select(SubjectRow.binding_id).where(
            or_(SubjectRow.user_id == subject_id, SubjectRow.group_id == subject_id)
        )
        for row in await self.all(select(BindingRow).where(BindingRow.id.in_(named))):
            await self._changed(row, row.updated_at, {subject_id})
            await self._reached(row)

    async def records(self, rows: Sequence[BindingRow]) -> list[Binding]:
        """Rows with their subjects and all names as records, in the same order."""
        roles = await self._names(GlobalRoleRow, (row.global_role_id for row in rows))
        roles |= await self._names(TemplateRow, (row.template_id for row in rows))
        clusters = await self._names(ClusterRow, (row.cluster_id for row in rows))
        projects = await self._names(ProjectRow, (row.project_id for row in rows))
        subjects = await self._subjects(rows)
        return [
            Binding(
                id=row.id,
                kind=cast(BindingKind, row.kind),
                name=row.name,
                role_id=row.global_role_id or row.template_id or "",
                role_name=roles[row.global_role_id or row.template_id or ""],
                cluster_id=row.cluster_id,
                cluster_name=None if row.cluster_id is None else clusters[row.cluster_id],
                project_id=row.project_id,
                project_name=None if row.project_id is None else projects[row.project_id],
                subjects=subjects[row.id],
                expires_at=row.expires_at,
                reason=row.reason,
                builtin=row.builtin,
                created_by=row.created_by,
                created_at=row.created_at,
                updated_at=row.updated_at,
                version=row.version,
            )
            for row in rows
        ]

    async def _subjects(self, rows: Sequence[BindingRow]) -> dict[str, tuple[Subject, ...]]:
        """What is not known is read, for many bindings at once."""
        found: dict[str, tuple[Subject, ...]] = {}
        unknown: list[BindingRow] = []
        for row in rows:
            version, subjects = self._made.get(row.id, (-1, ()))
            if version == row.version:
                found[row.id] = subjects
                continue
            known = self._known.get(row.id)
            version, keys = self.touched.subjects.get(row.id, (row.version, set()))
            if known is None or known.version != version:
                unknown.append(row)
            elif keys:
                self._made[row.id] = row.version, await self._changed_subjects(known, keys)
                found[row.id] = self._made[row.id][1]
            else:
                found[row.id] = known.subjects
        for some in chunks(unknown):
            read = await self._read(SubjectRow.binding_id.in_([row.id for row in some]))
            for row in some:
                found[row.id] = tuple(sorted(read.get(row.id, ()), key=_order))
                self._made[row.id] = row.version, found[row.id]
        return found

    async def _changed_subjects(self, known: Binding, keys: set[str]) -> tuple[Subject, ...]:
        """The subjects of a record, of which those with these keys came or went."""
        subjects = [subject for subject in known.subjects if (subject.id or _key(subject)) not in keys]
        fresh: list[Subject] = []
        for some in chunks(keys):
            read = await self._read(SubjectRow.binding_id == known.id, SubjectRow.key.in_(some))
            fresh += read.get(known.id, ())
        if len(fresh) > _FEW:
            subjects = sorted([*subjects, *fresh], key=_order)
        else:
            for subject in fresh:
                insort(subjects, subject, key=_order)
        return tuple(subjects)

    async def _read(self, *which: ColumnElement[bool]) -> dict[str, list[Subject]]:
        statement = (
            select(SubjectRow.binding_id, SubjectRow.key, SubjectRow.user_id, UserRow.name, GroupRow.name)
            .outerjoin(UserRow, UserRow.id == SubjectRow.user_id)
            .outerjoin(GroupRow, GroupRow.id == SubjectRow.group_id)
            .where(*which)
        )
        read: dict[str, list[Subject]] = {}
        for binding_id, key, user_id, user, group in await self.session.execute(statement):
            if user_id is not None:
                subject = Subject(kind="user", id=key, name=user)
            elif group is not None:
                subject = Subject(kind="group", id=key, name=group)
            else:
                namespace, _slash, name = key.partition("/")
                subject = Subject(kind="serviceaccount", name=name, namespace=namespace)
            read.setdefault(binding_id, []).append(subject)
        return read

    async def _insert(self, binding_id: str, subjects: Mapping[str, Subject]) -> None:
        for some in chunks(subjects.items()):
            await self.session.execute(
                insert(SubjectRow),
                [
                    {
                        "binding_id": binding_id,
                        "key": key,
                        "user_id": subject.id if subject.kind == "user" else None,
                        "group_id": subject.id if subject.kind == "group" else None,
                    }
                    for key, subject in some
                ],
            )

    async def _changed(self, row: BindingRow, now: float, keys: Iterable[str]) -> None:
        if row.id not in self.touched.bindings:
            self.touched.subjects[row.id] = (row.version, set())
        if row.id in self.touched.subjects:
            self.touched.subjects[row.id][1].update(keys)
        self.touched.bindings.add(row.id)
        row.updated_at = now
        row.version += 1
        await self.session.flush()

    async def _reached(self, row: BindingRow) -> None:
        """Who may enter the clusters of this binding is to be read again."""
        if row.cluster_id is not None:
            self.touched.members.add(row.cluster_id)
            return
        role = await self.one(select(GlobalRoleRow).where(GlobalRoleRow.id == row.global_role_id))
        selector = None if role is None else reach(global_role(role))
        if selector is not None:
            self.touched.members.update(await self.all(fitting(selector)))

    async def _row(self, binding_id: str) -> BindingRow:
        row = await self.one(select(BindingRow).where(BindingRow.id == binding_id))
        if row is None:
            raise LookupError(binding_id)
        return row

    async def _names(
        self,
        table: type[GlobalRoleRow] | type[TemplateRow] | type[ClusterRow] | type[ProjectRow],
        ids: Iterable[str | None],
    ) -> dict[str, str]:
        names: dict[str, str] = {}
        for some in chunks({one for one in ids if one is not None}):
            for row_id, name in await self.session.execute(select(table.id, table.name).where(table.id.in_(some))):
                names[row_id] = name
        return names


def _key(subject: Subject) -> str:
    return f"{subject.namespace}/{subject.name}" if subject.kind == "serviceaccount" else subject.id


def _order(subject: Subject) -> tuple[str, str, str]:
    return subject.kind, subject.namespace, subject.name
