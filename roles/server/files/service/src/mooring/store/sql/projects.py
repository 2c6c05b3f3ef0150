# SPDX-License-Identifier: Apache-2.0
"""Projects with their namespaces, and what of the policy is in each cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

import msgspec
from sqlalchemy import delete, select

from mooring.store.policies import PodSecurity, PolicyFault, PolicyStatus, Project, ProjectNamespace
from mooring.store.ports import Paging, Taken
from mooring.store.records import Page
from mooring.store.sql.base import TEXTS, Repository, chunks, encode, matches
from mooring.store.sql.tables import BindingRow, ClusterRow, NamespaceRow, PolicyStatusRow, ProjectRow

_FAULTS: Final = msgspec.json.Decoder(tuple[PolicyFault, ...])
_MOST: Final = 2**31 - 1  # of a whole number in a column


class SqlProjects(Repository):
    async def get(self, project_id: str) -> Project | None:
        row = await self.one(select(ProjectRow).where(ProjectRow.id == project_id))
        return None if row is None else (await self.records([row]))[0]

    async def by_name(self, cluster_id: str, name: str) -> Project | None:
        row = await self.one(select(ProjectRow).where(ProjectRow.cluster_id == cluster_id, ProjectRow.name == name))
        return None if row is None else (await self.records([row]))[0]

    async def of_namespace(self, cluster_id: str, namespace: str) -> Project | None:
        owner = select(NamespaceRow.project_id).where(
            NamespaceRow.cluster_id == cluster_id, NamespaceRow.name == namespace
        )
        row = await self.one(select(ProjectRow).where(ProjectRow.id.in_(owner)))
        return None if row is None else (await self.records([row]))[0]

    async def page(
        self, paging: Paging, *, cluster: str | None = None, name: str | None = None, namespace: str | None = None
    ) -> Page[Project]:
        statement = select(ProjectRow)
        if cluster is not None:
            inside = select(ClusterRow.id).where(matches(ClusterRow.id, ClusterRow.name, cluster))
            statement = statement.where(ProjectRow.cluster_id.in_(inside))
        if name is not None:
            statement = statement.where(ProjectRow.name == name)
        if namespace is not None:
            having = select(NamespaceRow.project_id).where(NamespaceRow.name == namespace)
            statement = statement.where(ProjectRow.id.in_(having))
        found = await self.rows(statement, [ProjectRow.name, ProjectRow.id], paging, lambda row: (row.name, row.id))
        return Page(await self.records(found.items), found.next, found.total)

    async def add(self, project: Project) -> Project:
        if await self.by_name(project.cluster_id, project.name) is not None:
            raise Taken("name", f"there is a project {project.name!r} in cluster {project.cluster_name!r} already")
        self.session.add(
            ProjectRow(
                id=project.id,
                name=project.name,
                cluster_id=project.cluster_id,
                created_at=project.created_at,
                updated_at=project.updated_at,
                version=project.version,
                **_columns(project),
            )
        )
        await self.session.flush()
        await self._put_namespaces(project, project.namespaces)
        self.touched.projects.add(project.id)
        return await self._again(project.id)

    async def edit(self, project: Project, now: float) -> Project:
        row = await self._row(project.id)
        for name, value in _columns(project).items():
            setattr(row, name, value)
        row.updated_at = now
        row.version += 1
        await self.session.flush()
        before = {one.name: one for one in (await self.records([row]))[0].namespaces}
        after = {one.name: one for one in project.namespaces}
        gone = [name for name, one in before.items() if after.get(name) != one]
        for some in chunks(gone):
            await self.session.execute(
                delete(NamespaceRow).where(NamespaceRow.project_id == project.id, NamespaceRow.name.in_(some))
            )
        await self._put_namespaces(project, [one for name, one in after.items() if before.get(name) != one])
        self.touched.projects.add(project.id)
        return await self._again(project.id)

    async def remove(self, project_id: str) -> None:
        row = await self._row(project_id)
        bound = await self.all(select(BindingRow.id).where(BindingRow.project_id == project_id))
        if bound:
            self.touched.bindings.update(bound)
            self.touched.members.add(row.cluster_id)
        await self.session.execute(delete(ProjectRow).where(ProjectRow.id == project_id))
        self.touched.projects.add(project_id)

    async def records(self, rows: Sequence[ProjectRow]) -> list[Project]:
        """Rows with their namespaces and clusters' names as records, in the same order."""
        namespaces: dict[str, list[ProjectNamespace]] = {}
        for some in chunks(row.id for row in rows):
            inside = select(NamespaceRow).where(NamespaceRow.project_id.in_(some)).order_by(NamespaceRow.name)
            for one in await self.all(inside):
                namespaces.setdefault(one.project_id, []).append(
                    ProjectNamespace(name=one.name, create=one.made_here, quota=TEXTS.decode(one.quota))
                )
        clusters = await cluster_names(self, (row.cluster_id for row in rows))
        return [
            Project(
                id=row.id,
                name=row.name,
                cluster_id=row.cluster_id,
                cluster_name=clusters[row.cluster_id],
                description=row.description,
                namespaces=tuple(namespaces.get(row.id, ())),
                quota=TEXTS.decode(row.quota),
                namespace_quota=TEXTS.decode(row.namespace_quota),
                container_limits=TEXTS.decode(row.container_limits),
                container_requests=TEXTS.decode(row.container_requests),
                pod_security=cast(PodSecurity | None, row.pod_security),
                isolated=row.isolated,
                created_at=row.created_at,
                updated_at=row.updated_at,
                version=row.version,
            )
            for row in rows
        ]

    async def _row(self, project_id: str) -> ProjectRow:
        row = await self.one(select(ProjectRow).where(ProjectRow.id == project_id))
        if row is None:
            raise LookupError(project_id)
        return row

    async def _again(self, project_id: str) -> Project:
        return (await self.records([await self._row(project_id)]))[0]

    async def _put_namespaces(self, project: Project, namespaces: Sequence[ProjectNamespace]) -> None:
        for some in chunks(one.name for one in namespaces):
            statement = select(NamespaceRow.name, ProjectRow.name).join(
                ProjectRow, ProjectRow.id == NamespaceRow.project_id
            )
            statement = statement.where(NamespaceRow.cluster_id == project.cluster_id, NamespaceRow.name.in_(some))
            clash = (await self.session.execute(statement.order_by(NamespaceRow.name).limit(1))).first()
            if clash is not None:
                raise Taken("namespaces", f"the namespace {clash[0]!r} is in the project {clash[1]!r} already")
        self.session.add_all(
            NamespaceRow(
                cluster_id=project.cluster_id,
                name=one.name,
                project_id=project.id,
                made_here=one.create,
                quota=encode(dict(one.quota)),
            )
            for one in namespaces
        )
        await self.session.flush()


class SqlPolicyStatus(Repository):
    async def get(self, ref: str) -> PolicyStatus | None:
        row = await self.one(select(ClusterRow).where(matches(ClusterRow.id, ClusterRow.name, ref)))
        return None if row is None else (await self._records([row]))[0]

    async def page(self, paging: Paging) -> Page[PolicyStatus]:
        found = await self.rows(select(ClusterRow), [ClusterRow.name], paging, lambda row: (row.name,))
        return Page(await self._records(found.items), found.next, found.total)

    async def desire(self, cluster_id: str, revision: int, digest: str) -> None:
        await self._put(cluster_id, {"desired_revision": revision, "desired_digest": digest})

    async def report(self, status: PolicyStatus) -> None:
        await self._put(
            status.cluster_id,
            {
                "applied_revision": max(0, min(status.applied_revision, _MOST)),
                "applied_digest": status.applied_digest,
                "applied_at": status.applied_at,
                "profile": status.profile,
                "errors": encode(status.errors),
                "healed": max(0, min(status.healed, _MOST)),
                "reported_at": status.reported_at,
            },
        )

    async def _put(self, cluster_id: str, values: Mapping[str, Any]) -> None:
        row = await self.one(select(PolicyStatusRow).where(PolicyStatusRow.cluster_id == cluster_id))
        if row is None:
            if await self.one(select(ClusterRow.id).where(ClusterRow.id == cluster_id)) is None:
                return
            row = PolicyStatusRow(
                cluster_id=cluster_id,
                desired_revision=0,
                desired_digest="",
                applied_revision=0,
                applied_digest="",
                profile="",
                errors="[]",
                healed=0,
            )
            self.session.add(row)
        for name, value in values.items():
            setattr(row, name, value)
        await self.session.flush()

    async def _records(self, rows: Sequence[ClusterRow]) -> list[PolicyStatus]:
        found: dict[str, PolicyStatusRow] = {}
        for some in chunks(row.id for row in rows):
            for status in await self.all(select(PolicyStatusRow).where(PolicyStatusRow.cluster_id.in_(some))):
                found[status.cluster_id] = status
        return [_status(row, found.get(row.id)) for row in rows]


async def cluster_names(repository: Repository, cluster_ids: Iterable[str]) -> dict[str, str]:
    """The names of these clusters, by id."""
    names: dict[str, str] = {}
    for some in chunks(set(cluster_ids)):
        statement = select(ClusterRow.id, ClusterRow.name).where(ClusterRow.id.in_(some))
        names.update((cluster_id, name) for cluster_id, name in await repository.session.execute(statement))
    return names


def _status(cluster: ClusterRow, row: PolicyStatusRow | None) -> PolicyStatus:
    if row is None:
        return PolicyStatus(cluster_id=cluster.id, cluster_name=cluster.name)
    return PolicyStatus(
        cluster_id=cluster.id,
        cluster_name=cluster.name,
        desired_revision=row.desired_revision,
        desired_digest=row.desired_digest,
        applied_revision=row.applied_revision,
        applied_digest=row.applied_digest,
        applied_at=row.applied_at,
        profile=row.profile,
        errors=_FAULTS.decode(row.errors),
        healed=row.healed,
        reported_at=row.reported_at,
    )


def _columns(project: Project) -> Mapping[str, Any]:
    return {
        "description": project.description,
        "quota": encode(dict(project.quota)),
        "namespace_quota": encode(dict(project.namespace_quota)),
        "container_limits": encode(dict(project.container_limits)),
        "container_requests": encode(dict(project.container_requests)),
        "pod_security": project.pod_security,
        "isolated": project.isolated,
    }
