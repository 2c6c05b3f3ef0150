# SPDX-License-Identifier: Apache-2.0
"""Bindings: a role for users, groups or service accounts; everywhere, in a cluster, or in a project.

The three kinds differ in where they hold; all else is here once. The routes are in `binding_routes`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Final

import msgspec
from litestar.params import QueryParameter
from msgspec import UNSET, Meta, UnsetType

from mooring.api.access import may, require
from mooring.api.common import Description, Input, Output, Ref, check_ref, check_text, named_by, next_cursor, time_text
from mooring.api.policies import Change, by_ref, field_ref, page_of
from mooring.api.problems import conflict, invalid, not_found
from mooring.api.projects import find
from mooring.api.rules import MAX_SUBJECTS, Instant, Refs, instant, subjects_in, subjects_out
from mooring.api.services import Services
from mooring.authn.identity import Identity
from mooring.lib.ids import new_id
from mooring.policy.builtin import BINDING_PREFIX
from mooring.store.policies import Binding, BindingKind, Policy, Project, Subject

RESOURCES: Final[dict[BindingKind, str]] = {
    "global": "globalbindings",
    "cluster": "clusterbindings",
    "project": "projectbindings",
}
BindingName = Annotated[str, Meta(max_length=63)]
Expired = Annotated[
    bool | None, QueryParameter(required=False, description="true: only those that have ended; false: the others.")
]


class BindingOut(Output):
    """`cluster` and `project` are null where the kind has none."""

    id: str
    name: str
    role: str
    role_id: str
    cluster: str | None
    cluster_id: str | None
    project: str | None
    project_id: str | None
    users: list[str]
    groups: list[str]
    service_accounts: list[str]
    expires_at: str | None
    reason: str
    builtin: bool
    created_by: str
    created_at: str
    updated_at: str
    version: int


class BindingList(Output):
    items: list[BindingOut]
    next: str | None
    total: int


class GlobalBindingNew(Input):
    """`role` is a global role. From `expires_at` on the binding gives nothing."""

    name: BindingName
    role: Ref
    users: Refs = msgspec.field(default_factory=list)
    groups: Refs = msgspec.field(default_factory=list)
    expires_at: Instant | None = None
    reason: Description = ""


class ClusterBindingNew(GlobalBindingNew, kw_only=True):
    """`role` is a role template of the context `cluster`; service accounts (`namespace/name`) are the cluster's."""

    cluster: Ref
    service_accounts: Refs = msgspec.field(default_factory=list)


class ProjectBindingNew(GlobalBindingNew, kw_only=True):
    """`role` is a role template of the context `project`; `project` is an id, or a name together with `cluster`.
    Service accounts (`namespace/name`) are of the project's own namespaces."""

    project: Ref
    cluster: Ref | None = None
    service_accounts: Refs = msgspec.field(default_factory=list)


class BindingEdit(Input):
    """`users`, `groups`, `service_accounts` are whole lists; `add_` and `remove_` change them, and do not go with them.
    Role and place stay: make another binding for those. `expires_at: null` takes the end away."""

    users: Refs | UnsetType = UNSET
    groups: Refs | UnsetType = UNSET
    service_accounts: Refs | UnsetType = UNSET
    add_users: Refs = msgspec.field(default_factory=list)
    add_groups: Refs = msgspec.field(default_factory=list)
    add_service_accounts: Refs = msgspec.field(default_factory=list)
    remove_users: Refs = msgspec.field(default_factory=list)
    remove_groups: Refs = msgspec.field(default_factory=list)
    remove_service_accounts: Refs = msgspec.field(default_factory=list)
    expires_at: Instant | UnsetType | None = UNSET
    reason: Description | UnsetType = UNSET


class Filter(msgspec.Struct, kw_only=True):
    """What a list is asked for; None takes everything. Users, groups, clusters, projects and roles by id or name."""

    name: str | None = None
    role: str | None = None
    user: str | None = None
    group: str | None = None
    cluster: str | None = None
    project: str | None = None
    expired: bool | None = None

    def takes(self, binding: Binding, now: float) -> bool:
        def one(wanted: str | None, *values: str | None) -> bool:
            return wanted is None or wanted in values

        return (
            one(self.name, binding.name)
            and one(self.role, binding.role_id, binding.role_name)
            and one(self.cluster, binding.cluster_id, binding.cluster_name)
            and one(self.project, binding.project_id, binding.project_name)
            and (self.expired is None or self.expired == (binding.expires_at is not None and binding.expires_at <= now))
            and _has(binding, "user", self.user)
            and _has(binding, "group", self.group)
        )


def _has(binding: Binding, kind: str, ref: str | None) -> bool:
    return ref is None or any(s.kind == kind and ref in (s.id, s.name) for s in binding.subjects)


def listed(
    services: Services, caller: Identity, kind: BindingKind, limit: int, cursor: str | None, wanted: Filter
) -> BindingList:
    """One page of the bindings that the caller may list."""
    now = services.clock.now()
    for field in wanted.__struct_fields__:
        value = getattr(wanted, field)
        if isinstance(value, str):
            check_ref(field, value)
    page = page_of(
        services.book.policy.bindings.values(),
        limit,
        cursor,
        lambda binding: (
            binding.kind == kind and wanted.takes(binding, now) and _may(services, caller, "list", binding, named=False)
        ),
        lambda binding: (binding.name, binding.id),
    )
    return BindingList(items=[out(binding) for binding in page.items], next=next_cursor(page), total=page.total)


def visible(services: Services, caller: Identity, policy: Policy, kind: BindingKind, ref: str) -> Binding:
    """The binding, if the caller may get it. Raises 404."""
    what = f"{kind} binding"
    binding = by_ref(what, (b for b in policy.bindings.values() if b.kind == kind), ref)
    if not _may(services, caller, "get", binding):
        raise not_found(what, ref)
    return binding


async def create(
    change: Change, kind: BindingKind, data: GlobalBindingNew | ClusterBindingNew | ProjectBindingNew
) -> Binding:
    """Raises Problem."""
    policy = change.policy
    cluster_id = cluster_name = project_id = project_name = None
    accounts: list[str] = []
    if isinstance(data, ClusterBindingNew):
        cluster = await named_by("cluster", "cluster", data.cluster, change.tx.clusters.get)
        cluster_id, cluster_name, accounts = cluster.id, cluster.name, data.service_accounts
    elif isinstance(data, ProjectBindingNew):
        project = _project(policy, data)
        cluster_id, cluster_name, accounts = project.cluster_id, project.cluster_name, data.service_accounts
        project_id, project_name = project.id, project.name
    require(
        change.services, change.caller, RESOURCES[kind], "create", cluster=cluster_id or "", project=project_id or ""
    )
    role_id, role_name = _role(policy, kind, data.role)
    binding = Binding(
        id=new_id(BINDING_PREFIX),
        kind=kind,
        name=data.name,
        role_id=role_id,
        role_name=role_name,
        cluster_id=cluster_id,
        cluster_name=cluster_name,
        project_id=project_id,
        project_name=project_name,
        subjects=_bounded(await subjects_in(change.tx, data.users, data.groups, accounts)),
        expires_at=None if data.expires_at is None else instant("expires_at", data.expires_at, change.now),
        reason=check_text("reason", data.reason),
        created_by=change.caller.user,
        created_at=change.now,
        updated_at=change.now,
    )
    return await change.add(binding)


async def edit(change: Change, binding: Binding, data: BindingEdit) -> Binding:
    """Raises Problem."""
    _require(change, "update", binding)
    expires_at = binding.expires_at
    if data.expires_at is None:
        expires_at = None
    elif not isinstance(data.expires_at, UnsetType):
        expires_at = instant("expires_at", data.expires_at, change.now)
    after = replace(
        binding,
        subjects=await _subjects(change, binding, data),
        expires_at=expires_at,
        reason=binding.reason if isinstance(data.reason, UnsetType) else check_text("reason", data.reason),
    )
    return await change.edit(binding, after)


async def remove(change: Change, binding: Binding) -> None:
    """Raises Problem."""
    _require(change, "delete", binding)
    await change.remove(binding)


async def _subjects(change: Change, binding: Binding, data: BindingEdit) -> tuple[Subject, ...]:
    """Who is bound afterwards, in the order in which the store keeps them."""
    kinds = (("user", "users"), ("group", "groups"), ("serviceaccount", "service_accounts"))
    whole: dict[str, list[str]] = {}
    for kind, field in kinds:
        value = getattr(data, field)
        if value is not UNSET:
            if getattr(data, f"add_{field}") or getattr(data, f"remove_{field}"):
                raise invalid(field, f"does not go with add_{field} or remove_{field}")
            whole[kind] = value
    stay = {s for s in binding.subjects if s.kind not in whole}
    named = await subjects_in(change.tx, whole.get("user", []), whole.get("group", []), whole.get("serviceaccount", []))
    add = set(await subjects_in(change.tx, data.add_users, data.add_groups, data.add_service_accounts, "add_"))
    remove = set(
        await subjects_in(change.tx, data.remove_users, data.remove_groups, data.remove_service_accounts, "remove_")
    )
    if add & remove:
        raise invalid("remove_users", "names somebody who is to be added as well")
    after = (stay | set(named) | add) - remove
    if after == set(binding.subjects):
        return binding.subjects
    return _bounded(after)


def _bounded(subjects: Iterable[Subject]) -> tuple[Subject, ...]:
    found = tuple(sorted(subjects, key=lambda s: (s.kind, s.namespace, s.name, s.id)))
    if len(found) > MAX_SUBJECTS:
        raise conflict(
            "too_many_subjects",
            f"a binding has {MAX_SUBJECTS} subjects at most",
            field="users",
            hint="bind a group instead, or make a second binding",
        )
    return found


def _role(policy: Policy, kind: BindingKind, ref: str) -> tuple[str, str]:
    """Id and name. Raises 422. (Whether its context is right is `policy.check`'s to say.)"""
    if kind == "global":
        role = field_ref("role", "global role", policy.global_roles.values(), ref)
        return role.id, role.name
    template = field_ref("role", "role template", policy.templates.values(), ref)
    return template.id, template.name


def _project(policy: Policy, data: ProjectBindingNew) -> Project:
    if data.project not in policy.projects and data.cluster is None:
        raise invalid("project", "is not an id; with a name, say the cluster as well")
    project = find(policy, data.project, data.cluster)
    if project is None:
        raise invalid("project", f"there is no project {data.project!r} there")
    return project


def _may(services: Services, caller: Identity, verb: str, binding: Binding, *, named: bool = True) -> bool:
    return may(
        services,
        caller,
        RESOURCES[binding.kind],
        verb,
        cluster=binding.cluster_id or "",
        project=binding.project_id or "",
        name=binding.name if named else "",
    )


def _require(change: Change, verb: str, binding: Binding) -> None:
    require(
        change.services,
        change.caller,
        RESOURCES[binding.kind],
        verb,
        cluster=binding.cluster_id or "",
        project=binding.project_id or "",
        name=binding.name,
    )


def out(binding: Binding) -> BindingOut:
    users, groups, accounts = subjects_out(binding.subjects)
    return BindingOut(
        id=binding.id,
        name=binding.name,
        role=binding.role_name,
        role_id=binding.role_id,
        cluster=binding.cluster_name,
        cluster_id=binding.cluster_id,
        project=binding.project_name,
        project_id=binding.project_id,
        users=users,
        groups=groups,
        service_accounts=accounts,
        expires_at=time_text(binding.expires_at),
        reason=binding.reason,
        builtin=binding.builtin,
        created_by=binding.created_by,
        created_at=time_text(binding.created_at) or "",
        updated_at=time_text(binding.updated_at) or "",
        version=binding.version,
    )
