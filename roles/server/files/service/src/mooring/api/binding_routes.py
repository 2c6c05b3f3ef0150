# SPDX-License-Identifier: Apache-2.0
"""The routes of the three kinds of bindings; what they do is in `bindings`."""

from __future__ import annotations

from litestar import Response, delete, get, patch, post
from litestar.params import JSONBody

from mooring.api import bindings
from mooring.api.access import Caller, Deps, needs
from mooring.api.bindings import (
    BindingEdit,
    BindingList,
    BindingOut,
    ClusterBindingNew,
    Expired,
    Filter,
    GlobalBindingNew,
    ProjectBindingNew,
)
from mooring.api.common import Cursor, IfMatch, Limit, NameFilter, PathRef, check_match
from mooring.api.policies import Change, with_etag
from mooring.api.services import Services
from mooring.authn.identity import Identity
from mooring.store.policies import BindingKind

GLOBAL, CLUSTER, PROJECT = ["global bindings"], ["cluster bindings"], ["project bindings"]


async def _create(
    services: Services,
    caller: Identity,
    kind: BindingKind,
    data: GlobalBindingNew | ClusterBindingNew | ProjectBindingNew,
) -> Response[BindingOut]:
    async with Change(services, caller) as change:
        made = await bindings.create(change, kind, data)
    return with_etag(bindings.out(made), made.version, 201)


def _get(services: Services, caller: Identity, kind: BindingKind, ref: str) -> Response[BindingOut]:
    binding = bindings.visible(services, caller, services.book.policy, kind, ref)
    return with_etag(bindings.out(binding), binding.version)


async def _edit(
    services: Services, caller: Identity, kind: BindingKind, ref: str, data: BindingEdit, if_match: str | None
) -> Response[BindingOut]:
    async with Change(services, caller) as change:
        binding = bindings.visible(services, caller, change.policy, kind, ref)
        check_match(if_match, binding.version)
        binding = await bindings.edit(change, binding, data)
    return with_etag(bindings.out(binding), binding.version)


async def _delete(services: Services, caller: Identity, kind: BindingKind, ref: str, if_match: str | None) -> None:
    async with Change(services, caller) as change:
        binding = bindings.visible(services, caller, change.policy, kind, ref)
        check_match(if_match, binding.version)
        await bindings.remove(change, binding)


@get("/global-bindings", opt=needs("globalbindings", "list"), tags=GLOBAL, summary="All global bindings")
async def list_global_bindings(
    services: Deps,
    caller: Caller,
    limit: Limit = 100,
    cursor: Cursor = None,
    name: NameFilter = None,
    role: NameFilter = None,
    user: NameFilter = None,
    group: NameFilter = None,
    expired: Expired = None,
) -> BindingList:
    wanted = Filter(name=name, role=role, user=user, group=group, expired=expired)
    return bindings.listed(services, caller, "global", limit, cursor, wanted)


@post("/global-bindings", opt=needs("globalbindings", "create"), tags=GLOBAL, summary="Bind a global role")
async def create_global_binding(
    data: JSONBody[GlobalBindingNew], services: Deps, caller: Caller
) -> Response[BindingOut]:
    return await _create(services, caller, "global", data)


@get("/global-bindings/{ref:str}", opt=needs("globalbindings", "get"), tags=GLOBAL, summary="One, by id or name")
async def get_global_binding(ref: PathRef, services: Deps, caller: Caller) -> Response[BindingOut]:
    return _get(services, caller, "global", ref)


@patch("/global-bindings/{ref:str}", opt=needs("globalbindings", "update"), tags=GLOBAL, summary="Change who has it")
async def edit_global_binding(
    ref: PathRef, data: JSONBody[BindingEdit], services: Deps, caller: Caller, if_match: IfMatch = None
) -> Response[BindingOut]:
    return await _edit(services, caller, "global", ref, data, if_match)


@delete("/global-bindings/{ref:str}", opt=needs("globalbindings", "delete"), tags=GLOBAL, summary="Take it away")
async def delete_global_binding(ref: PathRef, services: Deps, caller: Caller, if_match: IfMatch = None) -> None:
    await _delete(services, caller, "global", ref, if_match)


@get(
    "/cluster-bindings",
    opt=needs("clusterbindings", "list", "somewhere"),
    tags=CLUSTER,
    summary="The cluster bindings that the caller may list",
)
async def list_cluster_bindings(
    services: Deps,
    caller: Caller,
    limit: Limit = 100,
    cursor: Cursor = None,
    name: NameFilter = None,
    role: NameFilter = None,
    user: NameFilter = None,
    group: NameFilter = None,
    cluster: NameFilter = None,
    expired: Expired = None,
) -> BindingList:
    wanted = Filter(name=name, role=role, user=user, group=group, cluster=cluster, expired=expired)
    return bindings.listed(services, caller, "cluster", limit, cursor, wanted)


@post(
    "/cluster-bindings",
    opt=needs("clusterbindings", "create", "somewhere"),
    tags=CLUSTER,
    summary="Bind a role template in a cluster",
)
async def create_cluster_binding(
    data: JSONBody[ClusterBindingNew], services: Deps, caller: Caller
) -> Response[BindingOut]:
    return await _create(services, caller, "cluster", data)


@get(
    "/cluster-bindings/{ref:str}",
    opt=needs("clusterbindings", "get", "somewhere"),
    tags=CLUSTER,
    summary="One, by id or name",
)
async def get_cluster_binding(ref: PathRef, services: Deps, caller: Caller) -> Response[BindingOut]:
    return _get(services, caller, "cluster", ref)


@patch(
    "/cluster-bindings/{ref:str}",
    opt=needs("clusterbindings", "update", "somewhere"),
    tags=CLUSTER,
    summary="Change who has it",
)
async def edit_cluster_binding(
    ref: PathRef, data: JSONBody[BindingEdit], services: Deps, caller: Caller, if_match: IfMatch = None
) -> Response[BindingOut]:
    return await _edit(services, caller, "cluster", ref, data, if_match)


@delete(
    "/cluster-bindings/{ref:str}",
    opt=needs("clusterbindings", "delete", "somewhere"),
    tags=CLUSTER,
    summary="Take it away",
)
async def delete_cluster_binding(ref: PathRef, services: Deps, caller: Caller, if_match: IfMatch = None) -> None:
    await _delete(services, caller, "cluster", ref, if_match)


@get(
    "/project-bindings",
    opt=needs("projectbindings", "list", "somewhere"),
    tags=PROJECT,
    summary="The project bindings that the caller may list",
)
async def list_project_bindings(
    services: Deps,
    caller: Caller,
    limit: Limit = 100,
    cursor: Cursor = None,
    name: NameFilter = None,
    role: NameFilter = None,
    user: NameFilter = None,
    group: NameFilter = None,
    cluster: NameFilter = None,
    project: NameFilter = None,
    expired: Expired = None,
) -> BindingList:
    wanted = Filter(name=name, role=role, user=user, group=group, cluster=cluster, project=project, expired=expired)
    return bindings.listed(services, caller, "project", limit, cursor, wanted)


@post(
    "/project-bindings",
    opt=needs("projectbindings", "create", "somewhere"),
    tags=PROJECT,
    summary="Bind a role template in a project",
)
async def create_project_binding(
    data: JSONBody[ProjectBindingNew], services: Deps, caller: Caller
) -> Response[BindingOut]:
    return await _create(services, caller, "project", data)


@get(
    "/project-bindings/{ref:str}",
    opt=needs("projectbindings", "get", "somewhere"),
    tags=PROJECT,
    summary="One, by id or name",
)
async def get_project_binding(ref: PathRef, services: Deps, caller: Caller) -> Response[BindingOut]:
    return _get(services, caller, "project", ref)


@patch(
    "/project-bindings/{ref:str}",
    opt=needs("projectbindings", "update", "somewhere"),
    tags=PROJECT,
    summary="Change who has it",
)
async def edit_project_binding(
    ref: PathRef, data: JSONBody[BindingEdit], services: Deps, caller: Caller, if_match: IfMatch = None
) -> Response[BindingOut]:
    return await _edit(services, caller, "project", ref, data, if_match)


@delete(
    "/project-bindings/{ref:str}",
    opt=needs("projectbindings", "delete", "somewhere"),
    tags=PROJECT,
    summary="Take it away",
)
async def delete_project_binding(ref: PathRef, services: Deps, caller: Caller, if_match: IfMatch = None) -> None:
    await _delete(services, caller, "project", ref, if_match)
