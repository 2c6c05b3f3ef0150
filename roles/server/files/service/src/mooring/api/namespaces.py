# SPDX-License-Identifier: Apache-2.0
"""The namespaces of a project, one by one: for who may make namespaces in the project, but not change the project."""

from __future__ import annotations

from dataclasses import replace

from litestar import Response, delete, get, patch, post
from litestar.params import JSONBody

from mooring.api.access import Caller, Deps, grant_refused, may, needs, require
from mooring.api.common import Cursor, Input, Limit, Output, PathRef, check_ref, next_cursor
from mooring.api.policies import Change, page_of, with_etag
from mooring.api.problems import invalid, not_found
from mooring.api.projects import (
    RESOURCE,
    TAGS,
    NamespaceIn,
    NamespaceOut,
    OfCluster,
    ProjectOut,
    find,
    in_order,
    limits,
    out,
    space_in,
    space_out,
)
from mooring.api.rules import Quantities, quantities
from mooring.api.services import Services
from mooring.authn.identity import Identity
from mooring.policy import check
from mooring.policy.rules import PolicyRefused
from mooring.store.policies import Policy, Project, ProjectNamespace


class NamespaceList(Output):
    items: list[NamespaceOut]
    next: str | None
    total: int


class NamespaceNew(NamespaceIn):
    """`move`: take it out of the project of this cluster that has it."""

    move: bool = False


class NamespaceEdit(Input):
    quota: Quantities


@get(
    "/projects/{ref:str}/namespaces",
    opt=needs("namespaces", "list", "somewhere"),
    tags=TAGS,
    summary="The namespaces of a project",
)
async def list_namespaces(
    ref: PathRef,
    services: Deps,
    caller: Caller,
    cluster: OfCluster = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> NamespaceList:
    project = _with_right(services, caller, services.book.policy, ref, cluster, "list")
    page = page_of(project.namespaces, limit, cursor, lambda space: True, lambda space: (space.name, ""))
    return NamespaceList(items=[space_out(space) for space in page.items], next=next_cursor(page), total=page.total)


@post(
    "/projects/{ref:str}/namespaces",
    opt=needs("namespaces", "create", "somewhere"),
    tags=TAGS,
    summary="Put a namespace into a project; without `create`, by who may update projects in the cluster",
)
async def add_namespace(
    ref: PathRef, data: JSONBody[NamespaceNew], services: Deps, caller: Caller, cluster: OfCluster = None
) -> Response[ProjectOut]:
    async with Change(services, caller) as change:
        project = _with_right(services, caller, change.policy, ref, cluster, "create")
        if any(space.name == data.name for space in project.namespaces):
            raise invalid("name", f"{data.name!r} is in this project already")
        space = space_in("", data)
        limits(change, project, spaces=(space,), why="quota" if space.quota else "")
        if data.move:
            limits(change, project, why="move")
            try:
                check.adoption(change.policy, change.rights(), project, data.name)
            except PolicyRefused as error:
                raise grant_refused(error) from None
            await _take_out(change, project.cluster_id, data.name)
        project = await change.edit(project, replace(project, namespaces=in_order((*project.namespaces, space))))
    return with_etag(out(project), project.version, 201)


@patch(
    "/projects/{ref:str}/namespaces/{name:str}",
    opt=needs("namespaces", "update", "somewhere"),
    tags=TAGS,
    summary="Change the quota of a namespace",
)
async def edit_namespace(
    ref: PathRef,
    name: PathRef,
    data: JSONBody[NamespaceEdit],
    services: Deps,
    caller: Caller,
    cluster: OfCluster = None,
) -> Response[ProjectOut]:
    async with Change(services, caller) as change:
        project = _with_right(services, caller, change.policy, ref, cluster, "update")
        old = _has(project, name)
        limits(change, project, why="quota")
        space = replace(old, quota=quantities("quota", data.quota))
        rest = [other for other in project.namespaces if other is not old]
        project = await change.edit(project, replace(project, namespaces=in_order((*rest, space))))
    return with_etag(out(project), project.version)


@delete(
    "/projects/{ref:str}/namespaces/{name:str}",
    opt=needs("namespaces", "delete", "somewhere"),
    tags=TAGS,
    summary="Take a namespace out of a project; it stays in the cluster",
)
async def remove_namespace(
    ref: PathRef, name: PathRef, services: Deps, caller: Caller, cluster: OfCluster = None
) -> None:
    async with Change(services, caller) as change:
        project = _with_right(services, caller, change.policy, ref, cluster, "delete")
        old = _has(project, name)
        rest = tuple(space for space in project.namespaces if space is not old)
        await change.edit(project, replace(project, namespaces=rest))


def _with_right(
    services: Services, caller: Identity, policy: Policy, ref: str, cluster: str | None, verb: str
) -> Project:
    """The project, if the caller may do this with its namespaces. Raises 404 where it is not to be seen, else 403."""
    project = find(policy, ref, cluster)
    if project is None or not (
        may(services, caller, RESOURCE, "get", project=project.id, name=project.name)
        or may(services, caller, "namespaces", verb, project=project.id)
    ):
        raise not_found("project", ref)
    require(services, caller, "namespaces", verb, project=project.id)
    return project


async def _take_out(change: Change, cluster_id: str, name: str) -> None:
    for other in change.policy.projects.values():
        if other.cluster_id == cluster_id and any(space.name == name for space in other.namespaces):
            rest = tuple(space for space in other.namespaces if space.name != name)
            await change.edit(other, replace(other, namespaces=rest))
            return


def _has(project: Project, name: str) -> ProjectNamespace:
    for space in project.namespaces:
        if space.name == name:
            return space
    raise not_found("namespace of this project", check_ref("name", name))
