# SPDX-License-Identifier: Apache-2.0
"""Projects: sets of namespaces in a cluster, with what limits them.

What limits a project (quota, pod-security level, isolation, namespaces that exist already) is changed by who may update
projects in the whole cluster; who may in the project only changes the rest. So nobody frees themselves of a limit, or
pulls in a namespace such as `kube-system`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.params import JSONBody, QueryParameter
from msgspec import UNSET, Meta, UnsetType

from mooring.api.access import Caller, Deps, may, needs, require
from mooring.api.common import (
    Cursor,
    Description,
    IfMatch,
    Input,
    Limit,
    NameFilter,
    Output,
    PathRef,
    Ref,
    check_match,
    check_ref,
    check_text,
    named_by,
    next_cursor,
    time_text,
)
from mooring.api.policies import Change, RoleName, either, page_of, with_etag
from mooring.api.problems import forbidden, invalid, not_found
from mooring.api.rules import Quantities, quantities
from mooring.api.services import Services
from mooring.authn.identity import Identity
from mooring.lib.ids import new_id
from mooring.policy.builtin import PROJECT_PREFIX as PREFIX
from mooring.store.policies import PodSecurity, Policy, Project, ProjectNamespace
from mooring.store.records import Cluster

TAGS = ["projects"]
RESOURCE = "projects"

NamespaceName = Annotated[str, Meta(min_length=1, max_length=63)]
OfCluster = Annotated[
    str | None,
    QueryParameter(max_length=253, required=False, description="The cluster, where `ref` is a name."),
]


class NamespaceOut(Output):
    name: str
    create: bool
    quota: dict[str, str]


class ProjectOut(Output):
    id: str
    name: str
    cluster: str
    cluster_id: str
    description: str
    namespaces: list[NamespaceOut]
    quota: dict[str, str]
    namespace_quota: dict[str, str]
    container_limits: dict[str, str]
    container_requests: dict[str, str]
    pod_security: PodSecurity | None
    isolated: bool
    created_at: str
    updated_at: str
    version: int


class ProjectList(Output):
    items: list[ProjectOut]
    next: str | None
    total: int


class NamespaceIn(Input):
    """`create`: the agent makes it if it is not there, and takes it only if nobody else made it. Without, it is there
    already. `quota` overrides the project's `namespace_quota`."""

    name: NamespaceName
    create: bool = True
    quota: Quantities = msgspec.field(default_factory=dict)


Namespaces = Annotated[list[NamespaceIn], Meta(max_length=1000)]


class ProjectNew(Input):
    """`quota` is for all namespaces together, `namespace_quota` the default for each; both map resources to quantities,
    as `hard` of a ResourceQuota does. `isolated`: pods are reached from namespaces of the same project only."""

    name: RoleName
    cluster: Ref
    description: Description = ""
    namespaces: Namespaces = msgspec.field(default_factory=list)
    quota: Quantities = msgspec.field(default_factory=dict)
    namespace_quota: Quantities = msgspec.field(default_factory=dict)
    container_limits: Quantities = msgspec.field(default_factory=dict)
    container_requests: Quantities = msgspec.field(default_factory=dict)
    pod_security: PodSecurity | None = None
    isolated: bool = False


class ProjectEdit(Input):
    """What is given takes the place of what is there, `namespaces` as a whole list."""

    description: Description | UnsetType = UNSET
    namespaces: Namespaces | UnsetType = UNSET
    quota: Quantities | UnsetType = UNSET
    namespace_quota: Quantities | UnsetType = UNSET
    container_limits: Quantities | UnsetType = UNSET
    container_requests: Quantities | UnsetType = UNSET
    pod_security: PodSecurity | UnsetType | None = UNSET
    isolated: bool | UnsetType = UNSET


@get("/projects", opt=needs(RESOURCE, "list", "somewhere"), tags=TAGS, summary="The projects that the caller may list")
async def list_projects(
    services: Deps,
    caller: Caller,
    limit: Limit = 100,
    cursor: Cursor = None,
    name: NameFilter = None,
    cluster: NameFilter = None,
    namespace: NameFilter = None,
) -> ProjectList:
    page = page_of(
        services.book.policy.projects.values(),
        limit,
        cursor,
        lambda project: (
            name in (None, project.name)
            and cluster in (None, project.cluster_id, project.cluster_name)
            and (namespace is None or any(space.name == namespace for space in project.namespaces))
            and may(services, caller, RESOURCE, "list", project=project.id)
        ),
        lambda project: (project.name, project.id),
    )
    return ProjectList(items=[out(project) for project in page.items], next=next_cursor(page), total=page.total)


@post("/projects", opt=needs(RESOURCE, "create", "somewhere"), tags=TAGS, summary="Make a project in a cluster")
async def create_project(data: JSONBody[ProjectNew], services: Deps, caller: Caller) -> Response[ProjectOut]:
    async with Change(services, caller) as change:
        made = await create(change, data)
    return with_etag(out(made), made.version, 201)


@get("/projects/{ref:str}", opt=needs(RESOURCE, "get", "somewhere"), tags=TAGS, summary="One project, by id or name")
async def get_project(ref: PathRef, services: Deps, caller: Caller, cluster: OfCluster = None) -> Response[ProjectOut]:
    project = visible(services, caller, services.book.policy, ref, cluster)
    return with_etag(out(project), project.version)


@patch("/projects/{ref:str}", opt=needs(RESOURCE, "update", "somewhere"), tags=TAGS, summary="Change a project")
async def edit_project(
    ref: PathRef,
    data: JSONBody[ProjectEdit],
    services: Deps,
    caller: Caller,
    cluster: OfCluster = None,
    if_match: IfMatch = None,
) -> Response[ProjectOut]:
    async with Change(services, caller) as change:
        project = visible(services, caller, change.policy, ref, cluster)
        check_match(if_match, project.version)
        project = await edit(change, project, data)
    return with_etag(out(project), project.version)


@delete(
    "/projects/{ref:str}",
    opt=needs(RESOURCE, "delete", "somewhere"),
    tags=TAGS,
    summary="Delete a project and its bindings; its namespaces stay in the cluster",
)
async def delete_project(
    ref: PathRef, services: Deps, caller: Caller, cluster: OfCluster = None, if_match: IfMatch = None
) -> None:
    async with Change(services, caller) as change:
        project = visible(services, caller, change.policy, ref, cluster)
        check_match(if_match, project.version)
        await remove(change, project)


async def create(change: Change, data: ProjectNew) -> Project:
    """Raises Problem."""
    cluster: Cluster = await named_by("cluster", "cluster", data.cluster, change.tx.clusters.get)
    require(change.services, change.caller, RESOURCE, "create", cluster=cluster.id)
    project = Project(
        id=new_id(PREFIX),
        name=data.name,
        cluster_id=cluster.id,
        cluster_name=cluster.name,
        description=check_text("description", data.description),
        namespaces=_spaces(data.namespaces),
        quota=quantities("quota", data.quota),
        namespace_quota=quantities("namespace_quota", data.namespace_quota),
        container_limits=quantities("container_limits", data.container_limits),
        container_requests=quantities("container_requests", data.container_requests),
        pod_security=data.pod_security,
        isolated=data.isolated,
        created_at=change.now,
        updated_at=change.now,
    )
    limits(change, project, spaces=project.namespaces)
    made = await change.add(project)
    await change.bind_creator("project", made)
    return made


async def edit(change: Change, project: Project, data: ProjectEdit) -> Project:
    """Raises Problem."""
    require(change.services, change.caller, RESOURCE, "update", project=project.id, name=project.name)
    after = replace(
        project,
        description=check_text("description", either(data.description, project.description)),
        namespaces=project.namespaces if data.namespaces is UNSET else _spaces(data.namespaces),
        quota=_edited("quota", data.quota, project.quota),
        namespace_quota=_edited("namespace_quota", data.namespace_quota, project.namespace_quota),
        container_limits=_edited("container_limits", data.container_limits, project.container_limits),
        container_requests=_edited("container_requests", data.container_requests, project.container_requests),
        pod_security=either(data.pod_security, project.pod_security),
        isolated=either(data.isolated, project.isolated),
    )
    for field in ("quota", "namespace_quota", "container_limits", "container_requests", "pod_security", "isolated"):
        if getattr(after, field) != getattr(project, field):
            limits(change, project, why=field)
    before = {space.name: space for space in project.namespaces}
    added = tuple(space for space in after.namespaces if space.name not in before)
    if added:
        require(change.services, change.caller, "namespaces", "create", project=project.id)
    if before.keys() - {space.name for space in after.namespaces}:
        require(change.services, change.caller, "namespaces", "delete", project=project.id)
    if any(space != before[space.name] for space in after.namespaces if space.name in before):
        limits(change, project, why="namespaces")
    limits(change, project, spaces=added, why="quota" if any(space.quota for space in added) else "")
    return await change.edit(project, after)


async def remove(change: Change, project: Project) -> None:
    """Raises Problem."""
    require(change.services, change.caller, RESOURCE, "delete", project=project.id, name=project.name)
    await change.remove(project)


def find(policy: Policy, ref: str, cluster: str | None) -> Project | None:
    """By id, or by name (with the cluster's id or name, if the name is in several). Raises 422 if it is not clear."""
    known = policy.projects.get(check_ref("ref", ref))
    if known is not None:
        return known if cluster in (None, known.cluster_id, known.cluster_name) else None
    check_ref("cluster", cluster or "")
    fitting = [
        project
        for project in policy.projects.values()
        if project.name == ref and cluster in (None, project.cluster_id, project.cluster_name)
    ]
    if len(fitting) > 1:
        raise invalid("cluster", f"projects of several clusters have the name {ref!r}; say which cluster")
    return fitting[0] if fitting else None


def visible(services: Services, caller: Identity, policy: Policy, ref: str, cluster: str | None) -> Project:
    """The project, if the caller may get it. Raises 404."""
    project = find(policy, ref, cluster)
    if project is None or not may(services, caller, RESOURCE, "get", project=project.id, name=project.name):
        raise not_found("project", ref)
    return project


def limits(change: Change, project: Project, *, spaces: tuple[ProjectNamespace, ...] = (), why: str = "") -> None:
    """Raises 403 unless the caller may change what limits the project: namespaces that are there already, or `why`."""
    present = [space.name for space in spaces if not space.create]
    if (why or present) and not may(change.services, change.caller, RESOURCE, "update", cluster=project.cluster_id):
        what = f"namespaces that exist already ({', '.join(present)})" if present else f"{why!r} of a project"
        raise forbidden(
            f"{what} need the right to update projects in the whole cluster {project.cluster_name!r}",
            "ask who administers the cluster; or let Mooring make a new namespace ('create': true)" if present else "",
        )


def _edited(field: str, new: dict[str, str] | UnsetType, old: Mapping[str, str]) -> dict[str, str]:
    return dict(old) if isinstance(new, UnsetType) else quantities(field, new)


def _spaces(spaces: list[NamespaceIn]) -> tuple[ProjectNamespace, ...]:
    found = [space_in(f"namespaces[{position}].", space) for position, space in enumerate(spaces)]
    if len({space.name for space in found}) < len(found):
        raise invalid("namespaces", "names a namespace twice")
    return in_order(found)


def space_in(field: str, space: NamespaceIn) -> ProjectNamespace:
    name = check_ref(f"{field}name", space.name)
    return ProjectNamespace(name=name, create=space.create, quota=quantities(f"{field}quota", space.quota))


def in_order(spaces: Iterable[ProjectNamespace]) -> tuple[ProjectNamespace, ...]:
    return tuple(sorted(spaces, key=lambda space: space.name))


def space_out(space: ProjectNamespace) -> NamespaceOut:
    return NamespaceOut(name=space.name, create=space.create, quota=dict(space.quota))


def out(project: Project) -> ProjectOut:
    return ProjectOut(
        id=project.id,
        name=project.name,
        cluster=project.cluster_name,
        cluster_id=project.cluster_id,
        description=project.description,
        namespaces=[space_out(space) for space in project.namespaces],
        quota=dict(project.quota),
        namespace_quota=dict(project.namespace_quota),
        container_limits=dict(project.container_limits),
        container_requests=dict(project.container_requests),
        pod_security=project.pod_security,
        isolated=project.isolated,
        created_at=time_text(project.created_at) or "",
        updated_at=time_text(project.updated_at) or "",
        version=project.version,
    )
