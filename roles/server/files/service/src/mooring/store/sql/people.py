# SPDX-License-Identifier: Apache-2.0
"""Users and groups, and who is in which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from mooring.lib.names import skeleton
from mooring.lib.secrets import Secret
from mooring.store.ports import Paging, Taken
from mooring.store.records import ADMIN_GROUP_ID, Group, Page, User
from mooring.store.sql.base import Repository, Touched, chunks, matches
from mooring.store.sql.bindings import SqlBindings
from mooring.store.sql.tables import GroupMemberRow, GroupRow, MembershipRow, UserRow


class SqlUsers(Repository):
    def __init__(self, session: AsyncSession, touched: Touched, bindings: SqlBindings) -> None:
        super().__init__(session, touched)
        self._bindings = bindings

    async def get(self, ref: str) -> User | None:
        row = await self.one(select(UserRow).where(matches(UserRow.id, UserRow.name, ref)))
        return None if row is None else (await self.records([row]))[0]

    async def named(self, refs: Iterable[str]) -> dict[str, tuple[str, str]]:
        return await self.names(UserRow.id, UserRow.name, refs)

    async def page(
        self, paging: Paging, *, name: str | None = None, enabled: bool | None = None, group: str | None = None
    ) -> Page[User]:
        statement = select(UserRow)
        if name is not None:
            statement = statement.where(UserRow.name == name)
        if enabled is not None:
            statement = statement.where(UserRow.enabled.is_(enabled))
        if group is not None:
            inside = (
                select(GroupMemberRow.user_id)
                .join(GroupRow, GroupRow.id == GroupMemberRow.group_id)
                .where(matches(GroupRow.id, GroupRow.name, group))
            )
            statement = statement.where(UserRow.id.in_(inside))
        found = await self.rows(statement, [UserRow.name], paging, lambda row: (row.name,))
        return Page(await self.records(found.items), found.next, found.total)

    async def add(self, user: User, password_hash: Secret | None) -> User:
        if await self.one(select(UserRow.id).where(UserRow.name == user.name)) is not None:
            raise Taken("name", f"there is a user {user.name!r} already")
        self.session.add(
            UserRow(
                id=user.id,
                name=user.name,
                uid=user.uid,
                display_name=user.display_name,
                enabled=user.enabled,
                password_hash=None if password_hash is None else password_hash.reveal(),
                created_at=user.created_at,
                updated_at=user.updated_at,
                version=user.version,
            )
        )
        await self.session.flush()
        self.touched.users.add(user.id)
        return await self._again(user.id)

    async def edit(
        self, user_id: str, now: float, *, display_name: str | None = None, enabled: bool | None = None
    ) -> User:
        row = await self._row(user_id)
        if display_name is not None:
            row.display_name = display_name
        if enabled is not None and enabled != row.enabled:
            row.enabled = enabled
            self.touched.meaning = True  # who is disabled is left out of the clusters' bindings
        row.updated_at = now
        row.version += 1
        await self.session.flush()
        self.touched.users.add(user_id)
        return await self._again(user_id)

    async def set_groups(self, user_id: str, group_ids: Sequence[str], now: float) -> User:
        before = set(await self.all(select(GroupMemberRow.group_id).where(GroupMemberRow.user_id == user_id)))
        after = set(group_ids)
        await self.session.execute(
            delete(GroupMemberRow).where(GroupMemberRow.user_id == user_id, GroupMemberRow.group_id.in_(before - after))
        )
        self.session.add_all(GroupMemberRow(group_id=group_id, user_id=user_id) for group_id in after - before)
        await self.session.flush()
        await self.session.execute(
            update(GroupRow).where(GroupRow.id.in_(before ^ after)).values(version=GroupRow.version + 1, updated_at=now)
        )
        self.touched.users.add(user_id)
        return await self._again(user_id)

    async def password_hash(self, user_id: str) -> Secret | None:
        value = await self.one(select(UserRow.password_hash).where(UserRow.id == user_id))
        return None if value is None else Secret(value)

    async def set_password_hash(self, user_id: str, password_hash: Secret | None, now: float) -> None:
        value = None if password_hash is None else password_hash.reveal()
        await self.session.execute(
            update(UserRow).where(UserRow.id == user_id).values(password_hash=value, updated_at=now)
        )

    async def remove(self, user_id: str) -> None:
        entered = select(MembershipRow.cluster_id).where(MembershipRow.user_id == user_id)
        self.touched.members.update(await self.all(entered))
        inside = select(GroupMemberRow.group_id).where(GroupMemberRow.user_id == user_id)
        await self.session.execute(update(GroupRow).where(GroupRow.id.in_(inside)).values(version=GroupRow.version + 1))
        await self._bindings.forget(user_id)
        await self.session.execute(delete(UserRow).where(UserRow.id == user_id))
        self.touched.users.add(user_id)

    async def records(self, rows: Sequence[UserRow]) -> list[User]:
        """Rows with their groups as records, in the same order."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for some in chunks(row.id for row in rows):
            statement = (
                select(GroupMemberRow.user_id, GroupRow.id, GroupRow.name)
                .join(GroupRow, GroupRow.id == GroupMemberRow.group_id)
                .where(GroupMemberRow.user_id.in_(some))
                .order_by(GroupRow.name)
            )
            for user_id, group_id, name in await self.session.execute(statement):
                groups.setdefault(user_id, []).append((group_id, name))
        return [
            User(
                id=row.id,
                name=row.name,
                uid=row.uid,
                display_name=row.display_name,
                enabled=row.enabled,
                groups=tuple(groups.get(row.id, ())),
                created_at=row.created_at,
                updated_at=row.updated_at,
                version=row.version,
            )
            for row in rows
        ]

    async def _row(self, user_id: str) -> UserRow:
        row = await self.one(select(UserRow).where(UserRow.id == user_id))
        if row is None:
            raise LookupError(user_id)
        return row

    async def _again(self, user_id: str) -> User:
        return (await self.records([await self._row(user_id)]))[0]


class SqlGroups(Repository):
    def __init__(self, session: AsyncSession, touched: Touched, bindings: SqlBindings) -> None:
        super().__init__(session, touched)
        self._bindings = bindings

    async def get(self, ref: str) -> Group | None:
        row = await self.one(select(GroupRow).where(matches(GroupRow.id, GroupRow.name, ref)))
        return None if row is None else (await self.records([row]))[0]

    async def named(self, refs: Iterable[str]) -> dict[str, tuple[str, str]]:
        return await self.names(GroupRow.id, GroupRow.name, refs)

    async def page(self, paging: Paging, *, name: str | None = None, member: str | None = None) -> Page[Group]:
        statement = select(GroupRow)
        if name is not None:
            statement = statement.where(GroupRow.name == name)
        if member is not None:
            having = (
                select(GroupMemberRow.group_id)
                .join(UserRow, UserRow.id == GroupMemberRow.user_id)
                .where(matches(UserRow.id, UserRow.name, member))
            )
            statement = statement.where(GroupRow.id.in_(having))
        found = await self.rows(statement, [GroupRow.name], paging, lambda row: (row.name,))
        return Page(await self.records(found.items), found.next, found.total)

    async def add(self, group: Group) -> Group:
        plain = skeleton(group.name)
        for name in (await self.session.scalars(select(GroupRow.name))).all():
            if skeleton(name) == plain:  # who binds a group reads its name, and must not take one for the other
                alike = "" if name == group.name else f", and {group.name!r} looks like it"
                raise Taken("name", f"there is a group {name!r} already{alike}")
        self.session.add(
            GroupRow(
                id=group.id,
                name=group.name,
                description=group.description,
                builtin=group.builtin,
                created_at=group.created_at,
                updated_at=group.updated_at,
                version=group.version,
            )
        )
        await self.session.flush()
        return await self._again(group.id)

    async def edit(self, group_id: str, now: float, *, description: str | None = None) -> Group:
        row = await self._row(group_id)
        if description is not None:
            row.description = description
        row.updated_at = now
        row.version += 1
        await self.session.flush()
        return await self._again(group_id)

    async def change_members(self, group_id: str, now: float, *, add: Iterable[str], remove: Iterable[str]) -> Group:
        before = set(await self.all(select(GroupMemberRow.user_id).where(GroupMemberRow.group_id == group_id)))
        leaving = set(remove) & before
        joining = set(add) - before
        for some in chunks(leaving):
            await self.session.execute(
                delete(GroupMemberRow).where(GroupMemberRow.group_id == group_id, GroupMemberRow.user_id.in_(some))
            )
        self.session.add_all(GroupMemberRow(group_id=group_id, user_id=user_id) for user_id in joining)
        await self.session.flush()
        for some in chunks(leaving | joining):
            await self.session.execute(
                update(UserRow).where(UserRow.id.in_(some)).values(version=UserRow.version + 1, updated_at=now)
            )
        row = await self._row(group_id)
        row.updated_at = now
        row.version += 1
        await self.session.flush()
        self.touched.users.update(leaving | joining)
        return await self._again(group_id)

    async def remove(self, group_id: str) -> None:
        members = await self.all(select(GroupMemberRow.user_id).where(GroupMemberRow.group_id == group_id))
        for some in chunks(members):
            await self.session.execute(update(UserRow).where(UserRow.id.in_(some)).values(version=UserRow.version + 1))
        self.touched.users.update(members)
        entered = select(MembershipRow.cluster_id).where(MembershipRow.group_id == group_id)
        self.touched.members.update(await self.all(entered))
        await self._bindings.forget(group_id)
        await self.session.execute(delete(GroupRow).where(GroupRow.id == group_id))

    async def enabled_admins(self) -> int:
        return await self.count(
            select(UserRow.id)
            .join(GroupMemberRow, GroupMemberRow.user_id == UserRow.id)
            .where(GroupMemberRow.group_id == ADMIN_GROUP_ID, UserRow.enabled.is_(True))
        )

    async def records(self, rows: Sequence[GroupRow]) -> list[Group]:
        """Rows with their members as records, in the same order."""
        members: dict[str, list[tuple[str, str]]] = {}
        for some in chunks(row.id for row in rows):
            statement = (
                select(GroupMemberRow.group_id, UserRow.id, UserRow.name)
                .join(UserRow, UserRow.id == GroupMemberRow.user_id)
                .where(GroupMemberRow.group_id.in_(some))
                .order_by(UserRow.name)
            )
            for group_id, user_id, name in await self.session.execute(statement):
                members.setdefault(group_id, []).append((user_id, name))
        return [
            Group(
                id=row.id,
                name=row.name,
                description=row.description,
                builtin=row.builtin,
                members=tuple(members.get(row.id, ())),
                created_at=row.created_at,
                updated_at=row.updated_at,
                version=row.version,
            )
            for row in rows
        ]

    async def _row(self, group_id: str) -> GroupRow:
        row = await self.one(select(GroupRow).where(GroupRow.id == group_id))
        if row is None:
            raise LookupError(group_id)
        return row

    async def _again(self, group_id: str) -> Group:
        return (await self.records([await self._row(group_id)]))[0]
