# SPDX-License-Identifier: Apache-2.0
"""`POST /policy/simulate`: what changes of the policy would do in each cluster. Nothing is written.

The changes are made as their own routes make them, with the caller's rights and all checks, in a transaction that only
reads; then both policies are rendered and compared (`mooring.policy.simulate`).
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from litestar import post
from litestar.params import JSONBody
from msgspec import Meta

from mooring.api import bindings, globalroles, projects, templates
from mooring.api.access import USER, Caller, Deps, may_see, require
from mooring.api.bindings import BindingEdit, ClusterBindingNew, GlobalBindingNew, ProjectBindingNew
from mooring.api.common import Input, Output, Ref
from mooring.api.globalroles import GlobalRoleEdit, GlobalRoleNew
from mooring.api.policies import Change, by_ref
from mooring.api.problems import invalid
from mooring.api.projects import ProjectEdit, ProjectNew
from mooring.api.templates import TemplateEdit, TemplateNew
from mooring.policy.render import ClusterFacts
from mooring.policy.simulate import ClusterChange, Shown, simulate
from mooring.store.policies import BindingKind, Policy, PolicyDelta

MAX_CHANGES: Final = 500
Kind = Literal["global_role", "role_template", "project", "global_binding", "cluster_binding", "project_binding"]
Body = TypeVar("Body", bound=Input)
_BINDINGS: Final[dict[str, tuple[BindingKind, type[GlobalBindingNew | ClusterBindingNew | ProjectBindingNew]]]] = {
    "global_binding": ("global", GlobalBindingNew),
    "cluster_binding": ("cluster", ClusterBindingNew),
    "project_binding": ("project", ProjectBindingNew),
}
_rendering = asyncio.Semaphore(1)  # it may take a second of a processor, so one at a time


class Wish(Input):
    """`body` is what the route of the kind takes, for `create` and `update`. `name` (or id) is of what there is, for
    `update` and `delete`; for a project `cluster` says which."""

    kind: Kind
    op: Literal["create", "update", "delete"]
    name: Ref | None = None
    cluster: Ref | None = None
    body: dict[str, Any] | None = None


class Wishes(Input):
    """Made one after the other."""

    changes: Annotated[list[Wish], Meta(min_length=1, max_length=MAX_CHANGES)]


class ObjectOut(Output):
    """`manifest` as it will be (as it was, if it goes), `before` as it was, if it changes. Of a binding's subjects the
    first 100 are in it; `subjects` counts them all."""

    kind: str
    namespace: str
    name: str
    manifest: dict[str, Any]
    before: dict[str, Any] | None
    subjects: int


class ClusterChangeOut(Output):
    """At most 100 objects of each list; `counts` (`added`, `removed`, `changed`) are of all."""

    cluster: str
    added: list[ObjectOut]
    removed: list[ObjectOut]
    changed: list[ObjectOut]
    counts: dict[str, int]


class Simulation(Output):
    """Clusters where nothing changes are left out. `hidden` counts those that the caller may not see."""

    clusters: list[ClusterChangeOut]
    hidden: int


@post("/policy/simulate", opt=USER, status_code=200, tags=["policy"], summary="What changes would do in each cluster")
async def simulate_changes(data: JSONBody[Wishes], services: Deps, caller: Caller) -> Simulation:
    """Each change needs the rights that it would need if it were made."""
    before = services.book.policy
    async with Change(services, caller, commit=False) as change:
        for position, wish in enumerate(data.changes):
            await _make(change, f"changes[{position}]", wish)
        before, after = services.book.policy, change.policy
    snapshot = services.index.snapshot()
    facts = [
        ClusterFacts(id=cluster.id, name=cluster.name, uid=cluster.cluster_uid or "", labels=cluster.labels)
        for cluster in snapshot.clusters
    ]
    disabled = frozenset(user.id for user in snapshot.users if not user.enabled)
    async with _rendering:
        found = await asyncio.to_thread(
            simulate,
            before,
            _delta(before, after),
            facts,
            prefix=services.settings.identity_prefix,
            left_out=disabled,
            now=services.clock.now(),
        )
    seen = [one for one in found if may_see(services, caller, one.cluster.id, one.cluster.name)]
    return Simulation(clusters=[_out(one) for one in seen], hidden=len(found) - len(seen))


async def _make(change: Change, field: str, wish: Wish) -> None:
    """One change, as its route makes it. Raises Problem."""
    if wish.kind in _BINDINGS:
        await _make_binding(change, field, wish)
    elif wish.kind == "project":
        await _make_project(change, field, wish)
    else:
        await _make_role(change, field, wish)


async def _make_role(change: Change, field: str, wish: Wish) -> None:
    resource = "globalroles" if wish.kind == "global_role" else "roletemplates"
    require(change.services, change.caller, resource, wish.op, name=wish.name or "")
    if wish.kind == "global_role":
        if wish.op == "create":
            await change.add(globalroles.new(change, _body(field, wish, GlobalRoleNew)))
            return
        role = by_ref("global role", change.policy.global_roles.values(), _name(field, wish))
        if wish.op == "update":
            await change.edit(role, globalroles.edited(role, _body(field, wish, GlobalRoleEdit)))
        else:
            await change.remove(role)
        return
    if wish.op == "create":
        await change.add(templates.new(change, _body(field, wish, TemplateNew)))
        return
    template = by_ref("role template", change.policy.templates.values(), _name(field, wish))
    if wish.op == "update":
        await change.edit(template, templates.edited(change, template, _body(field, wish, TemplateEdit)))
    else:
        await change.remove(template)


async def _make_project(change: Change, field: str, wish: Wish) -> None:
    if wish.op == "create":
        await projects.create(change, _body(field, wish, ProjectNew))
        return
    project = projects.visible(change.services, change.caller, change.policy, _name(field, wish), wish.cluster)
    if wish.op == "update":
        await projects.edit(change, project, _body(field, wish, ProjectEdit))
    else:
        await projects.remove(change, project)


async def _make_binding(change: Change, field: str, wish: Wish) -> None:
    kind, body = _BINDINGS[wish.kind]
    if wish.op == "create":
        await bindings.create(change, kind, _body(field, wish, body))
        return
    binding = bindings.visible(change.services, change.caller, change.policy, kind, _name(field, wish))
    if wish.op == "update":
        await bindings.edit(change, binding, _body(field, wish, BindingEdit))
    else:
        await bindings.remove(change, binding)


def _name(field: str, wish: Wish) -> str:
    if wish.name is None:
        raise invalid(f"{field}.name", f"is missing, and needed for {wish.op}")
    return wish.name


def _body(field: str, wish: Wish, kind: type[Body]) -> Body:
    """The body as the route would read it. Raises Problem (422)."""
    try:
        return msgspec.convert(wish.body or {}, kind)
    except msgspec.ValidationError as error:
        raise invalid(f"{field}.body", str(error)) from None


def _delta(before: Policy, after: Policy) -> PolicyDelta:
    def changed(old: Any, new: Any) -> dict[str, Any]:
        found = {key: value for key, value in new.items() if old.get(key) is not value}
        return found | {key: None for key in old if key not in new}

    return PolicyDelta(
        global_roles=changed(before.global_roles, after.global_roles),
        templates=changed(before.templates, after.templates),
        projects=changed(before.projects, after.projects),
        bindings=changed(before.bindings, after.bindings),
    )


def _out(change: ClusterChange) -> ClusterChangeOut:
    def shown(items: tuple[Shown, ...]) -> list[ObjectOut]:
        return [
            ObjectOut(
                kind=item.kind,
                namespace=item.namespace,
                name=item.name,
                manifest=item.manifest,
                before=item.before,
                subjects=item.subjects,
            )
            for item in items
        ]

    return ClusterChangeOut(
        cluster=change.cluster.name,
        added=shown(change.added),
        removed=shown(change.removed),
        changed=shown(change.changed),
        counts=dict(change.counts),
    )
