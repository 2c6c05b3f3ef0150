# SPDX-License-Identifier: Apache-2.0
"""Role templates: rules in one cluster, or in the namespaces of one project, once a binding says where and for whom.

Those that are built in are shown and bound like any other, and are never changed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.params import JSONBody, QueryParameter
from msgspec import UNSET, Meta, UnsetType

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
    check_match,
    check_ref,
    check_text,
    next_cursor,
    time_text,
)
from mooring.api.policies import (
    Change,
    DisplayName,
    RoleName,
    by_ref,
    either,
    field_ref,
    page_of,
    with_etag,
)
from mooring.api.rules import RuleOut, Rules, rules_in, rules_out
from mooring.lib.ids import new_id
from mooring.policy.builtin import TEMPLATE_PREFIX as PREFIX
from mooring.store.policies import Context, Policy, RoleTemplate

TAGS = ["role templates"]
RESOURCE = "roletemplates"

External = Annotated[str, Meta(max_length=253)]
Inherits = Annotated[list[Annotated[str, Meta(min_length=1, max_length=253)]], Meta(max_length=100)]


class TemplateOut(Output):
    """`inherits` are names of templates of the same context."""

    id: str
    name: str
    display_name: str
    description: str
    context: Context
    rules: list[RuleOut]
    inherits: list[str]
    external: str
    locked: bool
    hidden: bool
    creator_default: bool
    builtin: bool
    created_at: str
    updated_at: str
    version: int


class TemplateList(Output):
    items: list[TemplateOut]
    next: str | None
    total: int


class TemplateNew(Input):
    """`external` names a ClusterRole that is in the clusters already; then there are no Kubernetes rules here.
    `locked`: it cannot be bound anew. `hidden`: it is not offered. `creator_default`: who makes a cluster (a project)
    gets it."""

    name: RoleName
    context: Context
    display_name: DisplayName = ""
    description: Description = ""
    rules: Rules = msgspec.field(default_factory=list)
    inherits: Inherits = msgspec.field(default_factory=list)
    external: External = ""
    locked: bool = False
    hidden: bool = False
    creator_default: bool = False


class TemplateEdit(Input):
    """What is given takes the place of what is there. Who is bound has the new rules at once."""

    display_name: DisplayName | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    rules: Rules | UnsetType = UNSET
    inherits: Inherits | UnsetType = UNSET
    external: External | UnsetType = UNSET
    locked: bool | UnsetType = UNSET
    hidden: bool | UnsetType = UNSET
    creator_default: bool | UnsetType = UNSET


@get("/role-templates", opt=needs(RESOURCE, "list", "somewhere"), tags=TAGS, summary="All role templates")
async def list_role_templates(
    services: Deps,
    limit: Limit = 100,
    cursor: Cursor = None,
    name: NameFilter = None,
    context: Annotated[Context | None, QueryParameter(required=False)] = None,
    builtin: Flag = None,
    hidden: Flag = None,
) -> TemplateList:
    policy = services.book.policy
    page = page_of(
        policy.templates.values(),
        limit,
        cursor,
        lambda role: (
            name in (None, role.name)
            and context in (None, role.context)
            and builtin in (None, role.builtin)
            and hidden in (None, role.hidden)
        ),
        lambda role: (role.name, role.id),
    )
    return TemplateList(items=[out(policy, role) for role in page.items], next=next_cursor(page), total=page.total)


@post("/role-templates", opt=needs(RESOURCE, "create"), tags=TAGS, summary="Make a role template")
async def create_role_template(data: JSONBody[TemplateNew], services: Deps, caller: Caller) -> Response[TemplateOut]:
    async with Change(services, caller) as change:
        made = await change.add(new(change, data))
    return with_etag(out(change.policy, made), made.version, 201)


@get(
    "/role-templates/{ref:str}",
    opt=needs(RESOURCE, "get", "somewhere"),
    tags=TAGS,
    summary="One role template, by id or name",
)
async def get_role_template(ref: PathRef, services: Deps) -> Response[TemplateOut]:
    policy = services.book.policy
    role = by_ref("role template", policy.templates.values(), ref)
    return with_etag(out(policy, role), role.version)


@patch("/role-templates/{ref:str}", opt=needs(RESOURCE, "update"), tags=TAGS, summary="Change a role template")
async def edit_role_template(
    ref: PathRef, data: JSONBody[TemplateEdit], services: Deps, caller: Caller, if_match: IfMatch = None
) -> Response[TemplateOut]:
    async with Change(services, caller) as change:
        role = by_ref("role template", change.policy.templates.values(), ref)
        check_match(if_match, role.version)
        role = await change.edit(role, edited(change, role, data))
    return with_etag(out(change.policy, role), role.version)


@delete("/role-templates/{ref:str}", opt=needs(RESOURCE, "delete"), tags=TAGS, summary="Delete one that nobody has")
async def delete_role_template(ref: PathRef, services: Deps, caller: Caller, if_match: IfMatch = None) -> None:
    async with Change(services, caller) as change:
        role = by_ref("role template", change.policy.templates.values(), ref)
        check_match(if_match, role.version)
        await change.remove(role)


def new(change: Change, data: TemplateNew) -> RoleTemplate:
    """The template that a body describes. Raises Problem."""
    return RoleTemplate(
        id=new_id(PREFIX),
        name=data.name,
        display_name=check_text("display_name", data.display_name),
        description=check_text("description", data.description),
        context=data.context,
        rules=rules_in("rules", data.rules),
        inherits=_inherits(change.policy, data.inherits),
        external=check_ref("external", data.external),
        locked=data.locked,
        hidden=data.hidden,
        creator_default=data.creator_default,
        created_at=change.now,
        updated_at=change.now,
    )


def edited(change: Change, role: RoleTemplate, data: TemplateEdit) -> RoleTemplate:
    """The template as it is to be. Raises Problem."""
    return replace(
        role,
        display_name=check_text("display_name", either(data.display_name, role.display_name)),
        description=check_text("description", either(data.description, role.description)),
        rules=role.rules if data.rules is UNSET else rules_in("rules", data.rules),
        inherits=role.inherits if data.inherits is UNSET else _inherits(change.policy, data.inherits),
        external=check_ref("external", either(data.external, role.external)),
        locked=either(data.locked, role.locked),
        hidden=either(data.hidden, role.hidden),
        creator_default=either(data.creator_default, role.creator_default),
    )


def _inherits(policy: Policy, refs: list[str]) -> tuple[str, ...]:
    """Ids, in a fixed order."""
    return tuple(sorted({field_ref("inherits", "role template", policy.templates.values(), ref).id for ref in refs}))


def out(policy: Policy, role: RoleTemplate) -> TemplateOut:
    return TemplateOut(
        id=role.id,
        name=role.name,
        display_name=role.display_name,
        description=role.description,
        context=role.context,
        rules=rules_out(role.rules),
        inherits=sorted(policy.templates[parent].name for parent in role.inherits),
        external=role.external,
        locked=role.locked,
        hidden=role.hidden,
        creator_default=role.creator_default,
        builtin=role.builtin,
        created_at=time_text(role.created_at) or "",
        updated_at=time_text(role.updated_at) or "",
        version=role.version,
    )
