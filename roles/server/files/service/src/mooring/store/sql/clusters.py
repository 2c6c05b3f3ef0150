# SPDX-License-Identifier: Apache-2.0
"""Clusters, their labels and their join tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import msgspec
from sqlalchemy import ColumnElement, Table, bindparam, delete, func, or_, select, update

from mooring.lib.profiles import Profile
from mooring.store.ports import Paging, Taken, VisibleTo
from mooring.store.records import (
    Cluster,
    ClusterState,
    ClusterStatus,
    Condition,
    EndpointSettings,
    EndpointStatus,
    JoinToken,
    Page,
)
from mooring.store.sql.base import Repository, chunks, encode, fitting, matches
from mooring.store.sql.roles import global_role, reach
from mooring.store.sql.tables import (
    BindingRow,
    ClusterRow,
    GlobalRoleRow,
    GroupMemberRow,
    JoinTokenRow,
    LabelRow,
    MembershipRow,
    ProjectRow,
    SubjectRow,
)

_CONDITIONS = msgspec.json.Decoder(tuple[Condition, ...])
_ENDPOINT = msgspec.json.Decoder(EndpointSettings)
_ENDPOINT_STATUS = msgspec.json.Decoder(EndpointStatus)


class SqlClusters(Repository):
    async def get(self, ref: str) -> Cluster | None:
        row = await self.one(select(ClusterRow).where(matches(ClusterRow.id, ClusterRow.name, ref)))
        return None if row is None else (await self.records([row]))[0]

    async def get_many(self, cluster_ids: Iterable[str]) -> list[Cluster]:
        rows: list[ClusterRow] = []
        for some in chunks(cluster_ids):
            rows += await self.all(select(ClusterRow).where(ClusterRow.id.in_(some)))
        return await self.records(rows)

    async def by_uid(self, cluster_uid: str) -> Cluster | None:
        row = await self.one(select(ClusterRow).where(ClusterRow.cluster_uid == cluster_uid))
        return None if row is None else (await self.records([row]))[0]

    async def page(
        self,
        paging: Paging,
        *,
        name: str | None = None,
        state: ClusterState | None = None,
        labels: Mapping[str, str] | None = None,
        visible_to: VisibleTo | None = None,
    ) -> Page[Cluster]:
        statement = select(ClusterRow)
        if name is not None:
            statement = statement.where(ClusterRow.name == name)
        if state is not None:
            statement = statement.where(ClusterRow.state == state)
        if labels:
            statement = statement.where(ClusterRow.id.in_(fitting(labels)))
        if visible_to is not None:
            statement = statement.where(await self._visible(visible_to))
        found = await self.rows(statement, [ClusterRow.name], paging, lambda row: (row.name,))
        return Page(await self.records(found.items), found.next, found.total)

    async def add(self, cluster: Cluster) -> Cluster:
        if await self.one(select(ClusterRow.id).where(ClusterRow.name == cluster.name)) is not None:
            raise Taken("name", f"there is a cluster {cluster.name!r} already")
        self.session.add(
            ClusterRow(
                id=cluster.id,
                name=cluster.name,
                description=cluster.description,
                created_at=cluster.created_at,
                updated_at=cluster.updated_at,
                version=cluster.version,
                state=cluster.state,
                state_reason=cluster.state_reason,
                conditions=encode(cluster.conditions),
                last_seen_at=cluster.last_seen_at,
                connected_at=cluster.connected_at,
                registered_at=cluster.registered_at,
                kubernetes_version=cluster.kubernetes_version,
                node_count=cluster.node_count,
                nodes_ready=cluster.nodes_ready,
                api_server_healthy=cluster.api_server_healthy,
                agent_version=cluster.agent_version,
                cluster_uid=cluster.cluster_uid,
                public_key=cluster.public_key,
                profile=cluster.profile,
                endpoint=None if cluster.endpoint is None else encode(cluster.endpoint),
                endpoint_status=None if cluster.endpoint_status is None else encode(cluster.endpoint_status),
            )
        )
        await self.session.flush()
        await self._put_labels(cluster.id, cluster.labels)
        self.touched.clusters.add(cluster.id)
        self.touched.members.add(cluster.id)  # of bindings that reach every cluster
        self.touched.meaning = True
        return await self._again(cluster.id)

    async def edit(
        self,
        cluster_id: str,
        now: float,
        *,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
        profile: Profile | None = None,
    ) -> Cluster:
        row = await self._row(cluster_id)
        if description is not None:
            row.description = description
        if profile is not None and profile != row.profile:
            row.profile = profile
            self.touched.meaning = True
        if labels is not None:
            self.touched.members.add(cluster_id)  # of bindings that choose clusters by label
            self.touched.meaning = True
            await self.session.execute(delete(LabelRow).where(LabelRow.cluster_id == cluster_id))
            await self._put_labels(cluster_id, labels)
        row.updated_at = now
        row.version += 1
        await self.session.flush()
        self.touched.clusters.add(cluster_id)
        return await self._again(cluster_id)

    async def register(
        self, cluster_id: str, now: float, *, public_key: bytes, cluster_uid: str, agent: str, kubernetes: str
    ) -> Cluster:
        other = await self.one(
            select(ClusterRow).where(ClusterRow.cluster_uid == cluster_uid, ClusterRow.id != cluster_id)
        )
        if other is not None:
            raise Taken("cluster_uid", f"this Kubernetes cluster is registered already, as {other.name!r}")
        row = await self._row(cluster_id)
        row.public_key = public_key
        row.cluster_uid = cluster_uid
        row.registered_at = now
        row.agent_version = agent
        row.kubernetes_version = kubernetes
        await self.session.flush()
        self.touched.clusters.add(cluster_id)
        return await self._again(cluster_id)

    async def set_statuses(self, statuses: Mapping[str, ClusterStatus]) -> None:
        if not statuses:
            return
        names = [name for name in ClusterStatus.__slots__ if name != "conditions"]
        rows = [
            {
                "status_of": cluster_id,
                "conditions": encode(status.conditions),
                **{name: getattr(status, name) for name in names},
            }
            for cluster_id, status in statuses.items()
        ]
        table = ClusterRow.__table__
        one = update(cast(Table, table)).where(table.c.id == bindparam("status_of"))
        await self.session.execute(one.values({name: bindparam(name) for name in ("conditions", *names)}), rows)
        self.touched.clusters.update(statuses)

    async def set_endpoint(self, cluster_id: str, now: float, settings: EndpointSettings | None) -> Cluster:
        row = await self._row(cluster_id)
        row.endpoint = None if settings is None else encode(settings)
        row.updated_at = now
        row.version += 1
        await self.session.flush()
        self.touched.clusters.add(cluster_id)
        return await self._again(cluster_id)

    async def set_endpoint_statuses(self, statuses: Mapping[str, EndpointStatus]) -> None:
        for cluster_id, status in statuses.items():
            statement = update(ClusterRow).where(ClusterRow.id == cluster_id)
            await self.session.execute(statement.values(endpoint_status=encode(status)))
        self.touched.clusters.update(statuses)

    async def take_endpoint_revisions(self, least: Mapping[str, int], count: int) -> dict[str, int]:
        taken: dict[str, int] = {}
        for some in chunks(least):
            rows = select(ClusterRow.id, ClusterRow.endpoint_revision).where(ClusterRow.id.in_(some))
            for cluster_id, before in await self.session.execute(rows):
                taken[cluster_id] = max(before, least[cluster_id])
        for cluster_id, before in taken.items():
            statement = update(ClusterRow).where(ClusterRow.id == cluster_id)
            await self.session.execute(statement.values(endpoint_revision=before + count))
        return taken

    async def with_endpoint(self) -> dict[str, int]:
        statement = select(ClusterRow.id, ClusterRow.endpoint_revision).where(
            or_(ClusterRow.endpoint.is_not(None), ClusterRow.endpoint_revision > 0)
        )
        return {row[0]: row[1] for row in await self.session.execute(statement)}

    async def seen(self, cluster_ids: Iterable[str], now: float) -> None:
        for some in chunks(cluster_ids):
            await self.session.execute(update(ClusterRow).where(ClusterRow.id.in_(some)).values(last_seen_at=now))

    async def all_disconnected(self, reason: str) -> int:
        ids = await self.all(select(ClusterRow.id).where(ClusterRow.state == "connected"))
        for some in chunks(ids):
            await self.session.execute(
                update(ClusterRow).where(ClusterRow.id.in_(some)).values(state="disconnected", state_reason=reason)
            )
        self.touched.clusters.update(ids)
        return len(ids)

    async def remove(self, cluster_id: str) -> None:
        self.touched.projects.update(await self.all(select(ProjectRow.id).where(ProjectRow.cluster_id == cluster_id)))
        self.touched.bindings.update(await self.all(select(BindingRow.id).where(BindingRow.cluster_id == cluster_id)))
        await self.session.execute(delete(ClusterRow).where(ClusterRow.id == cluster_id))
        self.touched.clusters.add(cluster_id)

    async def any_registered(self) -> bool:
        found = await self.one(select(ClusterRow.id).where(ClusterRow.public_key.is_not(None)).limit(1))
        return found is not None

    async def records(self, rows: Sequence[ClusterRow]) -> list[Cluster]:
        """Rows with their labels as records, in the same order."""
        labels: dict[str, dict[str, str]] = {}
        for some in chunks(row.id for row in rows):
            statement = select(LabelRow).where(LabelRow.cluster_id.in_(some)).order_by(LabelRow.key)
            for label in await self.all(statement):
                labels.setdefault(label.cluster_id, {})[label.key] = label.value
        return [_record(row, labels.get(row.id, {})) for row in rows]

    async def _visible(self, to: VisibleTo) -> ColumnElement[bool]:
        groups = select(GroupMemberRow.group_id).where(GroupMemberRow.user_id == to.user_id)
        member = select(MembershipRow.cluster_id).where(
            or_(MembershipRow.user_id == to.user_id, MembershipRow.group_id.in_(groups))
        )
        subject = select(SubjectRow.binding_id).where(
            or_(SubjectRow.user_id == to.user_id, SubjectRow.group_id.in_(groups))
        )
        holds = or_(BindingRow.expires_at.is_(None), BindingRow.expires_at > to.now), BindingRow.id.in_(subject)
        bound = select(BindingRow.cluster_id).where(*holds, BindingRow.cluster_id.is_not(None))
        held = select(BindingRow.global_role_id).where(*holds)
        roles = await self.all(select(GlobalRoleRow).where(GlobalRoleRow.id.in_(held)))
        selectors = [reach(global_role(role)) for role in roles]
        return or_(
            ClusterRow.id.in_(member),
            ClusterRow.id.in_(bound),
            *(ClusterRow.id.in_(fitting(selector)) for selector in selectors if selector is not None),
        )

    async def _row(self, cluster_id: str) -> ClusterRow:
        row = await self.one(select(ClusterRow).where(ClusterRow.id == cluster_id))
        if row is None:
            raise LookupError(cluster_id)
        return row

    async def _again(self, cluster_id: str) -> Cluster:
        return (await self.records([await self._row(cluster_id)]))[0]

    async def _put_labels(self, cluster_id: str, labels: Mapping[str, str]) -> None:
        self.session.add_all(LabelRow(cluster_id=cluster_id, key=key, value=value) for key, value in labels.items())
        await self.session.flush()


class SqlJoinTokens(Repository):
    async def get(self, token_id: str) -> JoinToken | None:
        row = await self.one(select(JoinTokenRow).where(JoinTokenRow.id == token_id))
        if row is None:
            return None
        return JoinToken(
            id=row.id,
            cluster_id=row.cluster_id,
            hash=row.hash,
            created_at=row.created_at,
            expires_at=row.expires_at,
            used_at=row.used_at,
            used_public_key=row.used_public_key,
        )

    async def add(self, token: JoinToken) -> None:
        self.session.add(
            JoinTokenRow(
                id=token.id,
                cluster_id=token.cluster_id,
                hash=token.hash,
                created_at=token.created_at,
                expires_at=token.expires_at,
                used_at=token.used_at,
                used_public_key=token.used_public_key,
            )
        )
        await self.session.flush()

    async def count_open(self, cluster_id: str, now: float) -> int:
        return await self.count(
            select(JoinTokenRow.id).where(
                JoinTokenRow.cluster_id == cluster_id, JoinTokenRow.used_at.is_(None), JoinTokenRow.expires_at > now
            )
        )

    async def spend(self, token_id: str, now: float, public_key: bytes) -> None:
        await self.session.execute(
            update(JoinTokenRow)
            .where(JoinTokenRow.id == token_id)
            .values(used_at=func.coalesce(JoinTokenRow.used_at, now), used_public_key=public_key)
        )

    async def purge(self, before: float) -> int:
        ids = await self.all(select(JoinTokenRow.id).where(JoinTokenRow.expires_at < before))
        for some in chunks(ids):
            await self.session.execute(delete(JoinTokenRow).where(JoinTokenRow.id.in_(some)))
        return len(ids)


def _record(row: ClusterRow, labels: Mapping[str, str]) -> Cluster:
    return Cluster(
        id=row.id,
        name=row.name,
        description=row.description,
        labels=labels,
        created_at=row.created_at,
        updated_at=row.updated_at,
        version=row.version,
        state=cast(ClusterState, row.state),
        state_reason=row.state_reason,
        conditions=_CONDITIONS.decode(row.conditions),
        last_seen_at=row.last_seen_at,
        connected_at=row.connected_at,
        registered_at=row.registered_at,
        kubernetes_version=row.kubernetes_version,
        node_count=row.node_count,
        nodes_ready=row.nodes_ready,
        api_server_healthy=row.api_server_healthy,
        agent_version=row.agent_version,
        cluster_uid=row.cluster_uid,
        public_key=row.public_key,
        profile=cast(Profile, row.profile),
        endpoint=None if row.endpoint is None else _ENDPOINT.decode(row.endpoint),
        endpoint_status=None if row.endpoint_status is None else _ENDPOINT_STATUS.decode(row.endpoint_status),
    )
