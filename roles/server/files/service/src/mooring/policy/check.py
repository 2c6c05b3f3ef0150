# SPDX-License-Identifier: Apache-2.0
"""What may be written into the policy, and by whom: nobody gives what they do not hold.

    role       its rules with all that it inherits must be held everywhere, or `escalate` on it
    binding    the role's rules must be held where it binds, or `bind` on the role
    project    see `mooring.policy.check_project`
    labels     of a cluster: what global roles choose by them must be held there
    acting     setting somebody's password, adding to a group: all that they hold must be held

The wish comes as the record that would be stored; what comes back is the same in normal form. Errors name the field,
and the one rule that is too much. Whether the author may write such a thing at all is asked before, by the guard of the
route. What an external ClusterRole holds is not known here, so that only who holds everything can give it.

It must not: write, or know how a request was made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final, TypeVar

from mooring.kube.names import DEFAULT_NAMESPACE
from mooring.lib.names import InvalidName, check_name
from mooring.policy import builtin, rules
from mooring.policy.check_project import adoption, project
from mooring.policy.effective import Flat, Rights, fits, flatten, lineage
from mooring.policy.fields import check_description, check_plain_name, check_selector
from mooring.policy.rules import PolicyRefused
from mooring.store.policies import Binding, GlobalRole, Policy, Project, RoleTemplate, Rule, Subject

__all__ = [
    "PolicyRefused",
    "acting_for",
    "adoption",
    "binding",
    "cluster_labels",
    "global_role",
    "project",
    "removal",
    "template",
]

MAX_INHERITED: Final = 32
"""Templates that one names itself."""
MAX_LINEAGE: Final = 100
"""Templates that one inherits from in all."""
MAX_SUBJECTS: Final = 100_000
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_NAMESPACE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_CLUSTER_ROLE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.:_-]{0,251}[A-Za-z0-9])?", re.ASCII)
_T = TypeVar("_T", GlobalRole, RoleTemplate)


# --- roles ----------------------------------------------------------------------------------------------------------


def global_role(policy: Policy, author: Rights, wish: GlobalRole, before: GlobalRole | None = None) -> GlobalRole:
    """The role as it may be written. `before` is what it takes the place of. Raises PolicyRefused."""
    _names(wish, before, "global role", builtin.GLOBAL_ROLE_PREFIX, policy.global_roles.values())
    check_selector(wish.cluster_selector, "cluster_selector")
    checked = replace(
        wish,
        rules=rules.checked(wish.rules, "rules", "own"),
        cluster_rules=rules.checked(wish.cluster_rules, "cluster_rules", "cluster"),
        cluster_selector=dict(sorted(wish.cluster_selector.items())),
    )
    if checked.cluster_selector and not checked.cluster_rules:
        raise PolicyRefused("cluster_selector", "it chooses clusters for cluster_rules, and there are none")
    if before is not None and before.builtin:
        _unchanged(replace(checked, new_user_default=before.new_user_default), before)
    same = before is not None and (checked.rules, checked.cluster_rules, checked.cluster_selector) == (
        before.rules,
        before.cluster_rules,
        dict(before.cluster_selector),
    )
    newly_default = checked.new_user_default and not (before is not None and before.new_user_default)
    if (not same or newly_default) and not author.may("escalate", "globalroles", name=checked.name):
        _held(author.own, checked.rules, "rules", "everywhere")
        _held(
            (*author.own, *author.everywhere(checked.cluster_selector)),
            checked.cluster_rules,
            "cluster_rules",
            "in all clusters that it chooses",
        )
    return checked


def template(policy: Policy, author: Rights, wish: RoleTemplate, before: RoleTemplate | None = None) -> RoleTemplate:
    """The template as it may be written. `before` is what it takes the place of. Raises PolicyRefused."""
    _names(wish, before, "role template", builtin.TEMPLATE_PREFIX, policy.templates.values())
    checked = replace(
        wish,
        rules=rules.checked(wish.rules, "rules", wish.context),
        inherits=tuple(sorted(set(wish.inherits))),
    )
    _external(checked)
    _inheritance(policy, checked)
    if before is not None:
        if before.context != checked.context:
            raise PolicyRefused("context", f"a template of a {before.context} stays one", hint="make a new one")
        if before.builtin:
            _unchanged(
                replace(checked, locked=before.locked, hidden=before.hidden, creator_default=before.creator_default),
                before,
            )
    same = before is not None and (checked.rules, checked.inherits, checked.external) == (
        before.rules,
        before.inherits,
        before.external,
    )
    newly_default = checked.creator_default and not (before is not None and before.creator_default)
    if (not same or newly_default) and not author.may("escalate", "roletemplates", name=checked.name):
        flat = flatten({**policy.templates, checked.id: checked}, checked.id)
        field = "rules" if not checked.inherits else "inherits"
        if checked.inherits:
            _held(_everywhere(author), checked.rules, "rules", "everywhere")
        _held_flat(_everywhere(author), flat, "external" if checked.external else field, "everywhere")
    return checked


def _everywhere(author: Rights) -> tuple[Rule, ...]:
    return (*author.own, *author.everywhere())


def _names(wish: _T, before: _T | None, what: str, prefix: str, others: Iterable[_T]) -> None:
    if before is not None and wish.name != before.name:
        # Rights to `bind` and `escalate` can be limited to names: a role must not come under one by a new name.
        raise PolicyRefused("name", f"the {what} {before.name!r} keeps its name", hint="make a new one")
    if before is None:
        check_plain_name(wish.name, "name", what, prefix)
    for other in others:
        if other.id != wish.id and other.name == wish.name:
            raise PolicyRefused("name", f"there is a {what} {wish.name!r} already")
    check_description(wish.display_name, "display_name")
    check_description(wish.description, "description")


def _unchanged(wish: _T, before: _T) -> None:
    kept = replace(wish, created_at=before.created_at, updated_at=before.updated_at, version=before.version)
    if kept != before:
        raise PolicyRefused(
            "name",
            f"the role {before.name!r} is built in and cannot be changed",
            hint="make a role of your own that inherits from it, or lock or hide this one",
        )


def _external(wish: RoleTemplate) -> None:
    if not wish.external:
        return
    if _CLUSTER_ROLE.fullmatch(wish.external) is None:
        raise PolicyRefused("external", f"{wish.external!r} is no name of a ClusterRole")
    if wish.external.startswith("mooring"):
        raise PolicyRefused("external", "ClusterRoles whose names begin with mooring are made by us", hint="inherit")
    if rules.kube(wish.rules):
        raise PolicyRefused(
            "rules", "an external template has no rules of Kubernetes: they are in the ClusterRole that it names"
        )


def _inheritance(policy: Policy, wish: RoleTemplate) -> None:
    if len(wish.inherits) > MAX_INHERITED:
        raise PolicyRefused("inherits", f"a template inherits from at most {MAX_INHERITED} others")
    for parent_id in wish.inherits:
        parent = policy.templates.get(parent_id)
        if parent_id == wish.id:
            raise PolicyRefused("inherits", "a template cannot inherit from itself")
        if parent is None:
            raise PolicyRefused("inherits", f"there is no template {parent_id!r}")
        if parent.context != wish.context:
            raise PolicyRefused(
                "inherits",
                f"{parent.name!r} is for a {parent.context}, this one for a {wish.context}; they do not mix",
            )
        way = _way(policy.templates, parent_id, wish.id)
        if way:
            names = " inherits from ".join([wish.name, *way])
            raise PolicyRefused("inherits", f"that would be a circle: {names}")
    if len(lineage({**policy.templates, wish.id: wish}, wish.id)) > MAX_LINEAGE:
        raise PolicyRefused("inherits", f"that comes to more than {MAX_LINEAGE} templates in all")


def _way(templates: Mapping[str, RoleTemplate], start: str, goal: str) -> list[str]:
    """The names along the way by which `start` inherits from `goal`, or nothing."""
    came: dict[str, str] = {start: ""}
    waiting = [start]
    while waiting:
        current = waiting.pop(0)
        if current == goal:
            names = []
            while current:
                names.append(templates[current].name if current in templates else current)
                current = came[current]
            return names[::-1]
        found = templates.get(current)
        for parent in found.inherits if found is not None else ():
            if parent not in came:
                came[parent] = current
                waiting.append(parent)
    return []


# --- bindings -------------------------------------------------------------------------------------------------------


def binding(policy: Policy, author: Rights, wish: Binding, now: float, before: Binding | None = None) -> Binding:
    """The binding as it may be written at the time `now`, its subjects in order and without doubles. `before` is what
    it takes the place of. Raises PolicyRefused."""
    if before is not None and before.builtin:
        raise PolicyRefused("name", f"the binding {before.name!r} is built in and cannot be changed")
    check_plain_name(wish.name, "name", "binding", builtin.BINDING_PREFIX)
    check_description(wish.reason, "reason")
    if before is not None and (wish.kind, wish.role_id, wish.cluster_id, wish.project_id) != (
        before.kind,
        before.role_id,
        before.cluster_id,
        before.project_id,
    ):
        raise PolicyRefused("role", "the role and the place of a binding stay", hint="make a new one and delete this")
    for other in policy.bindings.values():
        if other.id != wish.id and other.kind == wish.kind and other.name == wish.name:
            raise PolicyRefused("name", f"there is a {wish.kind} binding {wish.name!r} already")
    owner = _place(policy, wish)
    checked = replace(wish, subjects=_subjects(policy, wish, owner))
    grows = before is None or _grows(checked, before)
    expiry = checked.expires_at
    if expiry is not None and (before is None or before.expires_at != expiry) and not now < expiry < 2**53:
        raise PolicyRefused("expires_at", "it has passed already", hint="give a time in the future, or delete it")
    if grows:
        _grant(policy, author, checked)
    return checked


def _grows(wish: Binding, before: Binding) -> bool:
    """Whether it gives somebody something, or for longer, than before."""
    longer = before.expires_at is not None and (wish.expires_at is None or wish.expires_at > before.expires_at)
    return longer or bool(set(map(_key, wish.subjects)) - set(map(_key, before.subjects)))


def _place(policy: Policy, wish: Binding) -> Project | None:
    if wish.kind == "global":
        if wish.cluster_id or wish.project_id:
            raise PolicyRefused("cluster", "a global binding is of no cluster and no project")
        if wish.role_id not in policy.global_roles:
            known = policy.templates.get(wish.role_id)
            raise PolicyRefused("role", _wrong(wish, "a global role", known))
        return None
    role = policy.templates.get(wish.role_id)
    if role is None or role.context != wish.kind:
        raise PolicyRefused("role", _wrong(wish, f"a template of a {wish.kind}", role))
    if not wish.cluster_id:
        raise PolicyRefused("cluster", "it is missing")
    if wish.kind == "cluster":
        if wish.project_id:
            raise PolicyRefused("project", "a cluster binding is of no project")
        return None
    found = policy.projects.get(wish.project_id or "")
    if found is None or found.cluster_id != wish.cluster_id:
        raise PolicyRefused("project", "there is no such project in the cluster")
    return found


def _wrong(wish: Binding, wanted: str, found: RoleTemplate | None) -> str:
    if found is None:
        return f"there is no such role; a {wish.kind} binding is of {wanted}"
    return f"{found.name!r} is a template of a {found.context}; a {wish.kind} binding is of {wanted}"


def _key(subject: Subject) -> tuple[str, str, str]:
    return subject.kind, subject.namespace, subject.id or subject.name


def _subjects(policy: Policy, wish: Binding, owner: Project | None) -> tuple[Subject, ...]:
    if len(wish.subjects) > MAX_SUBJECTS:
        raise PolicyRefused("subjects", f"a binding has at most {MAX_SUBJECTS} subjects", hint="bind a group")
    inside = {namespace.name for namespace in owner.namespaces} if owner is not None else set()
    found = {_key(subject): subject for subject in wish.subjects}
    for subject in found.values():
        if subject.kind != "serviceaccount":
            try:
                check_name(subject.name, f"{subject.kind} name")
            except InvalidName as error:
                raise PolicyRefused(f"{subject.kind}s", error.reason, hint=error.hint) from None
            continue
        account = f"{subject.namespace}/{subject.name}"
        if wish.kind == "global":
            raise PolicyRefused("service_accounts", "a service account is of one cluster; it cannot be bound globally")
        if _SUBDOMAIN.fullmatch(subject.name) is None or _NAMESPACE.fullmatch(subject.namespace) is None:
            raise PolicyRefused("service_accounts", f"{account!r} is no service account; write namespace/name")
        if subject.namespace == DEFAULT_NAMESPACE:
            raise PolicyRefused(
                "service_accounts", "accounts of the agent's own namespace hold what they must and get no more"
            )
        if owner is not None and subject.namespace not in inside:
            raise PolicyRefused(
                "service_accounts",
                f"{account!r} is of a namespace that is not in the project {owner.name!r}",
                hint="only accounts of the project's own namespaces can be bound in it",
            )
    return tuple(found[key] for key in sorted(found))


def _grant(policy: Policy, author: Rights, wish: Binding) -> None:
    if wish.kind == "global":
        role = policy.global_roles[wish.role_id]
        if author.may("bind", "globalroles", name=role.name):
            return
        _held(author.own, role.rules, "role", "everywhere")
        _held(
            (*author.own, *author.everywhere(role.cluster_selector)),
            role.cluster_rules,
            "role",
            "in all clusters that the role chooses",
        )
        return
    given = policy.templates[wish.role_id]
    if given.locked:
        raise PolicyRefused("role", f"the role {given.name!r} is locked: nobody is bound to it any more")
    cluster, project_id = wish.cluster_id or "", wish.project_id or ""
    if author.may("bind", "roletemplates", cluster=cluster, project=project_id, name=given.name):
        return
    place = "in the project" if wish.kind == "project" else "in the cluster"
    holder = (
        *author.own_rules(cluster=cluster, project=project_id),
        *author.kube_rules(cluster=cluster, project=project_id),
    )
    _held_flat(holder, flatten(policy.templates, given.id), "role", place, paths=wish.kind == "cluster")


# --- what others hold -------------------------------------------------------------------------------------------------


def cluster_labels(policy: Policy, author: Rights, cluster_id: str, labels: Mapping[str, str]) -> None:
    """Whether the author may give a cluster these labels: what global roles then give there must be held there.

    Call it for a new cluster too, with the id that it will have. Raises PolicyRefused.
    """
    old = author.labels.get(cluster_id)
    holder: tuple[Rule, ...] | None = None
    for role in policy.global_roles.values():
        selector = role.cluster_selector
        if not selector or not role.cluster_rules or not fits(selector, labels):
            continue
        if old is not None and fits(selector, old):
            continue
        if holder is None:
            # What the author holds by these labels does not count: it is what they are about to give themselves.
            holder = (
                *author.own_rules(cluster=cluster_id),
                *author.kube_rules(cluster=cluster_id),
                *author.everywhere(),
            )
        lacking = rules.uncovered(holder, role.cluster_rules)
        if lacking is not None:
            raise PolicyRefused(
                "labels",
                f"the global role {role.name!r} chooses clusters by these labels and would give there what you do not "
                f"hold there: {rules.text(lacking)}",
                lacking,
            )


def acting_for(author: Rights, other: Rights, field: str) -> None:
    """Whether the author holds all that another person or group holds, so that they may act as them: set a password,
    make a token, put somebody into the group. Raises PolicyRefused."""
    _held(author.own, other.own, field, "everywhere, as they do")
    for selector, given in other.by_selector:
        _held((*author.own, *author.everywhere(selector)), given, field, "in all clusters where they do")
    for cluster, given in other.clusters.items():
        holder = (*author.own_rules(cluster=cluster), *author.kube_rules(cluster=cluster))
        _held(holder, given, field, "in the cluster where they do")
    for project_id, given in other.projects.items():
        cluster = other.cluster_of(project_id)
        holder = (
            *author.own_rules(cluster=cluster, project=project_id),
            *author.kube_rules(cluster=cluster, project=project_id),
        )
        _held(holder, given, field, "in the project where they do")
    for cluster, project_id, name in other.externals:
        holder = author.kube_rules(cluster=cluster, project=project_id)
        _held_flat(holder, Flat((), (name,)), field, "where they have it", paths=not project_id)


def removal(policy: Policy, thing: GlobalRole | RoleTemplate | Project | Binding) -> None:
    """Whether the thing may be deleted: not what is built in, and no role or project on which something rests. Raises
    PolicyRefused."""
    if not isinstance(thing, Project) and thing.builtin:
        raise PolicyRefused("name", f"{thing.name!r} is built in and cannot be deleted", hint="lock or hide it")
    if isinstance(thing, RoleTemplate):
        for other in policy.templates.values():
            if thing.id in other.inherits:
                raise PolicyRefused("name", f"the template {other.name!r} inherits from {thing.name!r}")
    for held in policy.bindings.values():
        if isinstance(thing, GlobalRole | RoleTemplate) and held.role_id == thing.id:
            raise PolicyRefused("name", f"the {held.kind} binding {held.name!r} gives {thing.name!r}; delete it first")


# --- inside -----------------------------------------------------------------------------------------------------------


def _held(holder: Iterable[Rule], wanted: Iterable[Rule], field: str, where: str) -> None:
    """Our rules are compared with ours, Kubernetes' with Kubernetes': `*` of theirs is nothing here."""
    held, asked = tuple(holder), tuple(wanted)
    lacking = rules.uncovered(rules.own(held), rules.own(asked)) or rules.uncovered(rules.kube(held), rules.kube(asked))
    if lacking is not None:
        raise PolicyRefused(
            field,
            f"you do not hold this {where}, so you cannot give it: {rules.text(lacking)}",
            lacking,
            hint="ask somebody who holds it",
        )


def _held_flat(holder: tuple[Rule, ...], flat: Flat, field: str, where: str, *, paths: bool = True) -> None:
    _held(holder, flat.rules, field, where)
    if not flat.externals:
        return
    lacking = rules.uncovered(rules.kube(holder), rules.EVERYTHING if paths else rules.EVERYTHING[:1])
    if lacking is not None:
        raise PolicyRefused(
            field,
            f"what the external ClusterRole {flat.externals[0]!r} holds is not known here, and you do not hold "
            f"everything {where}: {rules.text(lacking)}",
            lacking,
            hint="ask somebody who holds everything",
        )
