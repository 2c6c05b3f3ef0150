# SPDX-License-Identifier: Apache-2.0
"""Global roles: rights on our own API, and rules in all clusters or in those with certain labels.

Those that are built in are shown and bound like any other, and are never changed.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.params import JSONBody
from msgspec import UNSET, UnsetType

from mooring.api.access import Caller, Deps, needs
from mooring.api.common import (
    Cursor,
    Description,
    Flag,
    IfMatch,
    Input,
    Limit,
    NameFilter,
    Output,
    PathRef,
    check_labels,
    check_match,
    check_text,
    next_cursor,
    time_text,
)
from mooring.api.policies import Change, DisplayName, RoleName, by_ref, either, page_of, with_etag
from mooring.api.rules import RuleOut, Rules, rules_in, rules_out
from mooring.lib.ids import new_id
from mooring.policy.builtin import GLOBAL_ROLE_PREFIX as PREFIX
from mooring.store.policies import GlobalRole

TAGS = ["global roles"]
RESOURCE = "globalroles"


class GlobalRoleOut(Output):
    id: str
    name: str
    display_name: str
    description: str
    rules: list[RuleOut]
    cluster_rules: list[RuleOut]
    cluster_selector: dict[str, str]
    new_user_default: bool
    builtin: bool
    created_at: str
    updated_at: str
    version: int


class GlobalRoleList(Output):
    items: list[GlobalRoleOut]
    next: str | None
    total: int


class GlobalRoleNew(Input):
    """`rules` are on Mooring's own API (API group `mooring.fleet`); `cluster_rules` hold in each cluster whose labels
    have all of `cluster_selector` (empty: in every cluster). `new_user_default`: users made later are bound to it."""

    name: RoleName
    display_name: DisplayName = ""
    description: Description = ""
    rules: Rules = msgspec.field(default_factory=list)
    cluster_rules: Rules = msgspec.field(default_factory=list)
    cluster_selector: dict[str, str] = msgspec.field(default_factory=dict)
    new_user_default: bool = False


class GlobalRoleEdit(Input):
    """What is given takes the place of what is there. Who is bound has the new rules at once."""

    display_name: DisplayName | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    rules: Rules | UnsetType = UNSET
    cluster_rules: Rules | UnsetType = UNSET
    cluster_selector: dict[str, str] | UnsetType = UNSET
    new_user_default: bool | UnsetType = UNSET


@get("/global-roles", opt=needs(RESOURCE, "list"), tags=TAGS, summary="All global roles")
async def list_global_roles(
    services: Deps, limit: Limit = 100, cursor: Cursor = None, name: NameFilter = None, builtin: Flag = None
) -> GlobalRoleList:
    page = page_of(
        services.book.policy.global_roles.values(),
        limit,
        cursor,
        lambda role: name in (None, role.name) and builtin in (None, role.builtin),
        lambda role: (role.name, role.id),
    )
    return GlobalRoleList(items=[out(role) for role in page.items], next=next_cursor(page), total=page.total)


@post("/global-roles", opt=needs(RESOURCE, "create"), tags=TAGS, summary="Make a global role")
async def create_global_role(data: JSONBody[GlobalRoleNew], services: Deps, caller: Caller) -> Response[GlobalRoleOut]:
    async with Change(services, caller) as change:
        made = await change.add(new(change, data))
    return with_etag(out(made), made.version, 201)


@get("/global-roles/{ref:str}", opt=needs(RESOURCE, "get"), tags=TAGS, summary="One global role, by id or name")
async def get_global_role(ref: PathRef, services: Deps) -> Response[GlobalRoleOut]:
    role = by_ref("global role", services.book.policy.global_roles.values(), ref)
    return with_etag(out(role), role.version)


@patch("/global-roles/{ref:str}", opt=needs(RESOURCE, "update"), tags=TAGS, summary="Change a global role")
async def edit_global_role(
    ref: PathRef, data: JSONBody[GlobalRoleEdit], services: Deps, caller: Caller, if_match: IfMatch = None
) -> Response[GlobalRoleOut]:
    async with Change(services, caller) as change:
        role = by_ref("global role", change.policy.global_roles.values(), ref)
        check_match(if_match, role.version)
        role = await change.edit(role, edited(role, data))
    return with_etag(out(role), role.version)


@delete("/global-roles/{ref:str}", opt=needs(RESOURCE, "delete"), tags=TAGS, summary="Delete a role that nobody has")
async def delete_global_role(ref: PathRef, services: Deps, caller: Caller, if_match: IfMatch = None) -> None:
    async with Change(services, caller) as change:
        role = by_ref("global role", change.policy.global_roles.values(), ref)
        check_match(if_match, role.version)
        await change.remove(role)


def new(change: Change, data: GlobalRoleNew) -> GlobalRole:
    """The role that a body describes. Raises Problem."""
    return GlobalRole(
        id=new_id(PREFIX),
        name=data.name,
        display_name=check_text("display_name", data.display_name),
        description=check_text("description", data.description),
        rules=rules_in("rules", data.rules),
        cluster_rules=rules_in("cluster_rules", data.cluster_rules),
        cluster_selector=check_labels(data.cluster_selector, "cluster_selector"),
        new_user_default=data.new_user_default,
        created_at=change.now,
        updated_at=change.now,
    )


def edited(role: GlobalRole, data: GlobalRoleEdit) -> GlobalRole:
    """The role as it is to be. Raises Problem."""
    selector = either(data.cluster_selector, dict(role.cluster_selector))
    return replace(
        role,
        display_name=check_text("display_name", either(data.display_name, role.display_name)),
        description=check_text("description", either(data.description, role.description)),
        rules=role.rules if data.rules is UNSET else rules_in("rules", data.rules),
        cluster_rules=role.cluster_rules
        if data.cluster_rules is UNSET
        else rules_in("cluster_rules", data.cluster_rules),
        cluster_selector=check_labels(selector, "cluster_selector"),
        new_user_default=either(data.new_user_default, role.new_user_default),
    )


def out(role: GlobalRole) -> GlobalRoleOut:
    return GlobalRoleOut(
        id=role.id,
        name=role.name,
        display_name=role.display_name,
        description=role.description,
        rules=rules_out(role.rules),
        cluster_rules=rules_out(role.cluster_rules),
        cluster_selector=dict(role.cluster_selector),
        new_user_default=role.new_user_default,
        builtin=role.builtin,
        created_at=time_text(role.created_at) or "",
        updated_at=time_text(role.updated_at) or "",
        version=role.version,
    )
