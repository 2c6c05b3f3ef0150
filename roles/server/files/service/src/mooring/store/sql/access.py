# SPDX-License-Identifier: Apache-2.0
"""Tokens, memberships and the server's own settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from sqlalchemy import delete, func, or_, select, update

from mooring.store.ports import Paging, Taken
from mooring.store.records import Audience, Membership, Page, Token
from mooring.store.sql.base import Repository, chunks, matches
from mooring.store.sql.tables import ClusterRow, GroupRow, MembershipRow, SettingRow, TokenRow, UserRow


class SqlTokens(Repository):
    async def get(self, token_id: str) -> Token | None:
        row = await self.one(select(TokenRow).where(TokenRow.id == token_id))
        return None if row is None else (await self.records([row]))[0]

    async def page(
        self,
        paging: Paging,
        *,
        user: str | None = None,
        cluster: str | None = None,
        active_at: float | None = None,
        audience: Audience | None = None,
    ) -> Page[Token]:
        statement = select(TokenRow)
        if audience is not None:
            statement = statement.where(TokenRow.audience == audience)
        if user is not None:
            owners = select(UserRow.id).where(matches(UserRow.id, UserRow.name, user))
            statement = statement.where(TokenRow.user_id.in_(owners))
        if cluster is not None:
            scopes = select(ClusterRow.id).where(matches(ClusterRow.id, ClusterRow.name, cluster))
            statement = statement.where(TokenRow.cluster_id.in_(scopes))
        if active_at is not None:
            statement = statement.where(
                TokenRow.revoked_at.is_(None), or_(TokenRow.expires_at.is_(None), TokenRow.expires_at > active_at)
            )
        found = await self.rows(
            statement, [TokenRow.created_at, TokenRow.id], paging, lambda row: (repr(row.created_at), row.id)
        )
        return Page(await self.records(found.items), found.next, found.total)

    async def add(self, token: Token) -> Token:
        self.session.add(
            TokenRow(
                id=token.id,
                hash=token.hash,
                user_id=token.user_id,
                description=token.description,
                cluster_id=token.cluster_id,
                created_at=token.created_at,
                expires_at=token.expires_at,
                last_used_at=token.last_used_at,
                revoked_at=token.revoked_at,
                audience=token.audience,
            )
        )
        await self.session.flush()
        self.touched.tokens.add(token.id)
        return token

    async def count_active(
        self, user_id: str | None, now: float, *, audience: Audience = "server", cluster_id: str | None = None
    ) -> int:
        statement = select(TokenRow.id).where(
            TokenRow.audience == audience,
            TokenRow.revoked_at.is_(None),
            or_(TokenRow.expires_at.is_(None), TokenRow.expires_at > now),
        )
        if user_id is not None:
            statement = statement.where(TokenRow.user_id == user_id)
        if cluster_id is not None:
            statement = statement.where(TokenRow.cluster_id == cluster_id)
        return await self.count(statement)

    async def of_endpoints(self, ended_after: float) -> list[Token]:
        statement = (
            select(TokenRow.__table__, UserRow.name, ClusterRow.name)
            .join(UserRow, UserRow.id == TokenRow.user_id)
            .join(ClusterRow, ClusterRow.id == TokenRow.cluster_id)
            .where(TokenRow.audience == "endpoint", TokenRow.revoked_at.is_(None))
            .where(or_(TokenRow.expires_at.is_(None), TokenRow.expires_at > ended_after))
        )
        names = [column.name for column in TokenRow.__table__.columns]
        found = []
        # There may be a hundred thousand: no objects of the mapper, and others get their turn.
        async for row in await self.session.stream(statement.execution_options(yield_per=1000)):
            *values, user, cluster = row
            found.append(Token(**dict(zip(names, values, strict=True)), user_name=user, cluster_name=cluster))
        return found

    async def revoke(self, token_ids: Iterable[str], now: float) -> None:
        for some in chunks(token_ids):
            await self.session.execute(
                update(TokenRow).where(TokenRow.id.in_(some)).values(revoked_at=func.coalesce(TokenRow.revoked_at, now))
            )
            self.touched.tokens.update(some)

    async def revoke_all_of(self, user_id: str, now: float, keep: str | None = None) -> None:
        ids = await self.all(select(TokenRow.id).where(TokenRow.user_id == user_id, TokenRow.revoked_at.is_(None)))
        await self.revoke((token_id for token_id in ids if token_id != keep), now)

    async def revoke_endpoint(self, cluster_id: str, now: float) -> int:
        of_it = TokenRow.cluster_id == cluster_id, TokenRow.audience == "endpoint", TokenRow.revoked_at.is_(None)
        ids = await self.all(select(TokenRow.id).where(*of_it))
        await self.revoke(ids, now)
        return len(ids)

    async def used(self, times: Mapping[str, float]) -> None:
        for token_id, when in times.items():
            await self.session.execute(update(TokenRow).where(TokenRow.id == token_id).values(last_used_at=when))

    async def purge(self, before: float, audience: Audience | None = None) -> int:
        ended = select(TokenRow.id).where(or_(TokenRow.revoked_at < before, TokenRow.expires_at < before))
        if audience is not None:
            ended = ended.where(TokenRow.audience == audience)
        ids = await self.all(ended)
        for some in chunks(ids):
            await self.session.execute(delete(TokenRow).where(TokenRow.id.in_(some)))
        self.touched.tokens.update(ids)
        return len(ids)

    async def records(self, rows: Sequence[TokenRow]) -> list[Token]:
        """Rows as records, with the names of their users and clusters, in the same order."""
        users: dict[str, str] = {}
        clusters: dict[str, str] = {}
        for some in chunks({row.user_id for row in rows}):
            for user_id, name in await self.session.execute(
                select(UserRow.id, UserRow.name).where(UserRow.id.in_(some))
            ):
                users[user_id] = name
        for some in chunks({row.cluster_id for row in rows if row.cluster_id is not None}):
            for cluster_id, name in await self.session.execute(
                select(ClusterRow.id, ClusterRow.name).where(ClusterRow.id.in_(some))
            ):
                clusters[cluster_id] = name
        return [
            Token(
                id=row.id,
                hash=row.hash,
                user_id=row.user_id,
                user_name=users[row.user_id],
                description=row.description,
                cluster_id=row.cluster_id,
                cluster_name=None if row.cluster_id is None else clusters[row.cluster_id],
                created_at=row.created_at,
                expires_at=row.expires_at,
                last_used_at=row.last_used_at,
                revoked_at=row.revoked_at,
                audience=cast(Audience, row.audience),
            )
            for row in rows
        ]


class SqlMemberships(Repository):
    async def get(self, membership_id: str) -> Membership | None:
        row = await self.one(select(MembershipRow).where(MembershipRow.id == membership_id))
        return None if row is None else (await self._records([row]))[0]

    async def page(
        self, paging: Paging, *, cluster: str | None = None, user: str | None = None, group: str | None = None
    ) -> Page[Membership]:
        statement = select(MembershipRow)
        if cluster is not None:
            entered = select(ClusterRow.id).where(matches(ClusterRow.id, ClusterRow.name, cluster))
            statement = statement.where(MembershipRow.cluster_id.in_(entered))
        if user is not None:
            users = select(UserRow.id).where(matches(UserRow.id, UserRow.name, user))
            statement = statement.where(MembershipRow.user_id.in_(users))
        if group is not None:
            groups = select(GroupRow.id).where(matches(GroupRow.id, GroupRow.name, group))
            statement = statement.where(MembershipRow.group_id.in_(groups))
        found = await self.rows(
            statement,
            [MembershipRow.created_at, MembershipRow.id],
            paging,
            lambda row: (repr(row.created_at), row.id),
        )
        return Page(await self._records(found.items), found.next, found.total)

    async def add(self, membership: Membership) -> Membership:
        same = select(MembershipRow.id).where(
            MembershipRow.cluster_id == membership.cluster_id,
            MembershipRow.user_id.is_(None)
            if membership.user_id is None
            else MembershipRow.user_id == membership.user_id,
            MembershipRow.group_id.is_(None)
            if membership.group_id is None
            else MembershipRow.group_id == membership.group_id,
        )
        if await self.one(same) is not None:
            field = "group" if membership.user_id is None else "user"
            name = membership.group_name if membership.user_id is None else membership.user_name
            raise Taken(field, f"the {field} {name!r} is a member of cluster {membership.cluster_name!r} already")
        self.session.add(
            MembershipRow(
                id=membership.id,
                cluster_id=membership.cluster_id,
                user_id=membership.user_id,
                group_id=membership.group_id,
                created_at=membership.created_at,
            )
        )
        await self.session.flush()
        self.touched.members.add(membership.cluster_id)
        return membership

    async def remove(self, membership_id: str) -> None:
        row = await self.one(select(MembershipRow).where(MembershipRow.id == membership_id))
        if row is not None:
            self.touched.members.add(row.cluster_id)
            await self.session.execute(delete(MembershipRow).where(MembershipRow.id == membership_id))

    async def _records(self, rows: Sequence[MembershipRow]) -> list[Membership]:
        found: dict[str, Membership] = {}
        for some in chunks(row.id for row in rows):
            statement = (
                select(MembershipRow, ClusterRow.name, UserRow.name, GroupRow.name)
                .join(ClusterRow, ClusterRow.id == MembershipRow.cluster_id)
                .outerjoin(UserRow, UserRow.id == MembershipRow.user_id)
                .outerjoin(GroupRow, GroupRow.id == MembershipRow.group_id)
                .where(MembershipRow.id.in_(some))
            )
            for row, cluster, user, group in await self.session.execute(statement):
                found[row.id] = Membership(
                    id=row.id,
                    cluster_id=row.cluster_id,
                    cluster_name=cluster,
                    user_id=row.user_id,
                    user_name=user,
                    group_id=row.group_id,
                    group_name=group,
                    created_at=row.created_at,
                )
        return [found[row.id] for row in rows]


class SqlSettings(Repository):
    async def get(self, key: str) -> str | None:
        return await self.one(select(SettingRow.value).where(SettingRow.key == key))

    async def put(self, key: str, value: str) -> None:
        await self.session.merge(SettingRow(key=key, value=value))
        await self.session.flush()
