# SPDX-License-Identifier: Apache-2.0
"""What every resource of the policy shares: a change from its check to its line in the log, lookups and lists.

    async with Change(services, caller) as change:      the transaction, the policy as it is
        made = await change.add(role)                   checked, written, noted

`simulate` makes the same changes with `commit=False`: the same bodies, the same checks, and nothing is written. Lists
and lookups come from the policy in memory, which follows each commit before its call is answered.

It must not: write what `mooring.policy.check` did not see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Annotated, Final, TypeVar

from litestar import Response
from msgspec import Meta, Struct, UnsetType

from mooring.api import profiles
from mooring.api.access import grant_refused, rights
from mooring.api.common import check_ref, etag, paging
from mooring.api.problems import conflict, invalid, not_found
from mooring.api.services import Services
from mooring.authn.identity import Identity
from mooring.lib import logging
from mooring.lib.ids import new_id
from mooring.policy import check
from mooring.policy.builtin import BINDING_PREFIX
from mooring.policy.effective import Rights, Who, rights_by
from mooring.policy.rules import PolicyRefused
from mooring.store.policies import Binding, BindingKind, GlobalRole, Policy, Project, RoleTemplate, Subject
from mooring.store.ports import Transaction
from mooring.store.records import Cluster, Page

Thing = TypeVar("Thing", GlobalRole, RoleTemplate, Project, Binding)
AnyThing = GlobalRole | RoleTemplate | Project | Binding
Body = TypeVar("Body", bound=Struct)
Value = TypeVar("Value")

DisplayName = Annotated[str, Meta(max_length=256)]
MAX_NAME: Final = 63
RoleName = Annotated[str, Meta(max_length=MAX_NAME)]

_FIELDS: Final = {
    GlobalRole: "global_roles", RoleTemplate: "templates", Project: "projects", Binding: "bindings",
}  # fmt: skip
_log = logging.get("mooring.api")


class Change:
    """One transaction that changes the policy. `policy` is what it will be: it follows each change made here.

    Methods raise Problem: 403 for what the caller may not grant (it names the rule), 409 for what does not fit what is
    there, 422 for a field that is wrong.
    """

    tx: Transaction

    def __init__(self, services: Services, caller: Identity, *, commit: bool = True) -> None:
        self.services = services
        self.caller = caller
        self.policy = Policy()
        self.now = services.clock.now()
        self._commit = commit
        self._notes: list[dict[str, str]] = []
        self._transaction: AbstractAsyncContextManager[Transaction] = (
            services.store.write() if commit else services.store.read()
        )

    async def __aenter__(self) -> Change:
        self.tx = await self._transaction.__aenter__()
        # Not before: writers are alone, so what is checked is what is changed.
        self.policy = self.services.book.policy
        self.now = self.services.clock.now()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transaction.__aexit__(kind, error, trace)
        if error is None and self._commit:
            for note in self._notes:
                _log.info("policy changed", user=self.caller.user, token_id=self.caller.token_id, **note)

    async def add(self, thing: Thing) -> Thing:
        """A new one. Raises Problem and Taken."""
        _not_taken(self.policy, thing)
        return await self._added(await self._checked(thing, None))

    async def bind_creator(self, kind: BindingKind, place: Cluster | Project) -> None:
        """Who made the cluster or project gets the templates that say `creator_default`: the one grant of what the
        caller does not hold, and only in what is new. Nothing, if the caller holds it there already."""
        cluster = place if isinstance(place, Cluster) else None
        project = place if isinstance(place, Project) else None
        labels = dict(self.services.book.labels)
        if cluster is not None:
            labels[cluster.id] = cluster.labels
        who = Who(self.caller.user_id, self.services.index.groups_of(self.caller.user_id))
        held = rights_by(self.policy, self.services.book.bindings_of(who), labels, self.now)
        for template in sorted(self.policy.templates.values(), key=lambda template: template.name):
            if template.context != kind or not template.creator_default or template.locked:
                continue
            binding = Binding(
                id=new_id(BINDING_PREFIX),
                kind=kind,
                name=f"creator-{place.id}-{template.name}"[:MAX_NAME].rstrip("-"),
                role_id=template.id,
                role_name=template.name,
                cluster_id=place.id if project is None else project.cluster_id,
                cluster_name=place.name if project is None else project.cluster_name,
                project_id=None if project is None else project.id,
                project_name=None if project is None else project.name,
                subjects=(Subject(kind="user", id=self.caller.user_id, name=self.caller.user),),
                reason=f"made the {'project' if cluster is None else 'cluster'}",
                created_by=self.caller.user,
                created_at=self.now,
                updated_at=self.now,
            )
            given = rights_by(self.policy, [binding], labels, self.now)
            try:
                check.acting_for(held, given, "")
            except PolicyRefused:
                await self._added(binding)

    def rights(self) -> Rights:
        """What the caller may do, by the policy as it was before this change."""
        return rights(self.services, self.caller)

    async def edit(self, before: Thing, after: Thing) -> Thing:
        """What is different is written; nothing if nothing is. Raises Problem and Taken."""
        if after == before:
            return before
        after = await self._checked(after, before)
        if after == before:
            return before
        made = after
        if self._commit:
            made = await _edit(self.tx, before, after, self.now)
        self._keep(made.id, made)
        self._note("update", made)
        return made

    async def remove(self, thing: AnyThing) -> None:
        """Raises Problem for what is built in or in use."""
        keep_builtin(thing)
        not_in_use(self.policy, thing)
        with _refusals(None):
            check.removal(self.policy, thing)
        if self._commit:
            await _remove(self.tx, thing)
        if isinstance(thing, Project):
            for binding in [b for b in self.policy.bindings.values() if b.project_id == thing.id]:
                self._drop(binding)
        self._drop(thing)
        self._note("delete", thing)

    async def _checked(self, thing: Thing, before: Thing | None) -> Thing:
        """In normal form. Raises Problem for what may not be written, by this caller or by anybody."""
        held = self.rights()
        with _refusals(before):
            match thing:
                case GlobalRole():
                    thing = check.global_role(self.policy, held, thing, before)
                case RoleTemplate():
                    thing = check.template(self.policy, held, thing, before)
                case Project():
                    thing = check.project(self.policy, held, thing, before)
                case Binding():
                    thing = check.binding(self.policy, held, thing, self.now, before)
        await profiles.check(self.tx, self.policy, thing)
        return thing

    async def _added(self, thing: Thing) -> Thing:
        made = thing
        if self._commit:
            made = await _add(self.tx, thing)
        self._keep(made.id, made)
        self._note("create", made)
        return made

    def _keep(self, thing_id: str, thing: AnyThing) -> None:
        name = _FIELDS[type(thing)]
        self.policy = replace(self.policy, **{name: {**getattr(self.policy, name), thing_id: thing}})

    def _drop(self, thing: AnyThing) -> None:
        name = _FIELDS[type(thing)]
        left = {key: value for key, value in getattr(self.policy, name).items() if key != thing.id}
        self.policy = replace(self.policy, **{name: left})

    def _note(self, op: str, thing: AnyThing) -> None:
        reason = thing.reason if isinstance(thing, Binding) else ""
        self._notes.append({"op": op, "kind": kind_of(thing), "id": thing.id, "name": thing.name, "reason": reason})


@contextmanager
def _refusals(before: AnyThing | None) -> Iterator[None]:
    """Refusals as problems; of what is built in, 409, whatever it is that does not fit."""
    try:
        yield
    except PolicyRefused as error:
        if before is not None and _is_builtin(before):
            raise conflict("builtin", error.reason, field=error.field, hint=error.hint) from None
        raise grant_refused(error) from None


def _is_builtin(thing: AnyThing) -> bool:
    return not isinstance(thing, Project) and thing.builtin


async def _add(tx: Transaction, thing: Thing) -> Thing:
    match thing:
        case GlobalRole():
            return await tx.global_roles.add(thing)
        case RoleTemplate():
            return await tx.templates.add(thing)
        case Project():
            return await tx.projects.add(thing)
        case Binding():
            return await tx.bindings.add(thing)
    raise AssertionError(thing)


async def _edit(tx: Transaction, before: Thing, after: Thing, now: float) -> Thing:
    match after:
        case GlobalRole():
            return await tx.global_roles.edit(after, now)
        case RoleTemplate():
            return await tx.templates.edit(after, now)
        case Project():
            return await tx.projects.edit(after, now)
        case Binding():
            assert isinstance(before, Binding)
            made: Binding = before
            if (before.reason, before.expires_at) != (after.reason, after.expires_at):
                made = await tx.bindings.edit(after.id, now, reason=after.reason, expires_at=after.expires_at)
            old, new = set(before.subjects), set(after.subjects)
            if old != new:
                made = await tx.bindings.change_subjects(after.id, now, add=new - old, remove=old - new)
            return made
    raise AssertionError(after)


async def _remove(tx: Transaction, thing: AnyThing) -> None:
    match thing:
        case GlobalRole():
            await tx.global_roles.remove(thing.id)
        case RoleTemplate():
            await tx.templates.remove(thing.id)
        case Project():
            await tx.projects.remove(thing.id)
        case Binding():
            await tx.bindings.remove(thing.id)


def kind_of(thing: AnyThing) -> str:
    """The word for it in logs and in `simulate`: `global_role`, `cluster_binding` ..."""
    match thing:
        case Binding():
            return f"{thing.kind}_binding"
        case GlobalRole():
            return "global_role"
        case RoleTemplate():
            return "role_template"
        case Project():
            return "project"


def keep_builtin(thing: AnyThing) -> None:
    """Raises 409 for what is built in."""
    if _is_builtin(thing):
        what = kind_of(thing).replace("_", " ")
        raise conflict(
            "builtin",
            f"the {what} {thing.name!r} is built in and cannot be deleted",
            hint="lock or hide it" if isinstance(thing, RoleTemplate) else "",
        )


def not_in_use(policy: Policy, thing: AnyThing) -> None:
    """Raises 409 that says where a role is bound or inherited."""
    if not isinstance(thing, GlobalRole | RoleTemplate):
        return
    places = [f"{b.kind} binding {b.name!r}" for b in policy.bindings.values() if b.role_id == thing.id]
    places += [f"role template {t.name!r}" for t in policy.templates.values() if thing.id in t.inherits]
    if places:
        places.sort()
        more = f" and {len(places) - 10} more" if len(places) > 10 else ""
        raise conflict("in_use", f"{thing.name!r} is used by {', '.join(places[:10])}{more}", hint="change those first")


def _not_taken(policy: Policy, thing: AnyThing) -> None:
    """Raises 409 if there is one of this name."""
    for other in getattr(policy, _FIELDS[type(thing)]).values():
        elsewhere = isinstance(thing, Project) and other.cluster_id != thing.cluster_id
        if other.name == thing.name and kind_of(other) == kind_of(thing) and not elsewhere:
            what = kind_of(thing).replace("_", " ")
            raise conflict("taken", f"there is a {what} {thing.name!r} already", field="name")


def by_ref(what: str, things: Iterable[Value], ref: str, attributes: tuple[str, str] = ("id", "name")) -> Value:
    """The one with this id or name. Raises 404."""
    found = _by_ref(things, check_ref("ref", ref), attributes)
    if found is None:
        raise not_found(what, ref)
    return found


def field_ref(field: str, what: str, things: Iterable[Value], ref: str) -> Value:
    """The one that a field of the body names. Raises 422."""
    found = _by_ref(things, check_ref(field, ref), ("id", "name"))
    if found is None:
        raise invalid(field, f"there is no {what} {ref!r}")
    return found


def _by_ref(things: Iterable[Value], ref: str, attributes: tuple[str, str]) -> Value | None:
    for thing in things:
        if any(getattr(thing, name) == ref for name in attributes):
            return thing
    return None


def page_of(
    things: Iterable[Value],
    limit: int,
    cursor: str | None,
    wanted: Callable[[Value], bool],
    key: Callable[[Value], tuple[str, ...]],
) -> Page[Value]:
    """One page of those that are wanted, in the order of `key`, which is unique."""
    asked = paging(limit, cursor, (str, str))
    found = sorted(((key(thing), thing) for thing in things if wanted(thing)), key=lambda pair: pair[0])
    total = len(found)
    if asked.after is not None:
        found = [pair for pair in found if pair[0] > asked.after]
    page = found[:limit]
    return Page([thing for _unused, thing in page], page[-1][0] if len(found) > limit else None, total)


def either(new: Value | UnsetType, old: Value) -> Value:
    """A field of an edit, or what is there."""
    return old if isinstance(new, UnsetType) else new


def with_etag(body: Body, version: int, status: int = 200) -> Response[Body]:
    return Response(body, status_code=status, headers={"ETag": etag(version)})
