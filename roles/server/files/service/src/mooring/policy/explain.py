# SPDX-License-Identifier: Apache-2.0
"""Why somebody may do something, and what somebody may do where: answers for people, from the policy alone.

    who_can    each binding that gives the right asked for, with the role, the way of inheritance, and the rule
    what_can   each binding of a user or group, with where it holds and all rules that it gives there

What an external ClusterRole holds is not known here: a binding to one is told as a possibility (`certain` is false),
so that nobody reads an answer as complete when it is not. RBAC that others wrote into a cluster is not looked at.

It must not: decide anything. `mooring.policy.effective` does; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mooring.policy import rules
from mooring.policy.effective import Labels, Who, fits, flatten, holds_for, live
from mooring.policy.rules import Attributes
from mooring.store.policies import OWN_GROUP, Binding, Policy, RoleTemplate, Rule, Subject


@dataclass(frozen=True, slots=True)
class Place:
    """Where a right is asked for: everywhere on our API (no cluster), in a cluster, in a namespace or a project of it;
    ids, but for the namespace."""

    cluster: str = ""
    namespace: str = ""
    project: str = ""


@dataclass(frozen=True, slots=True)
class Reason:
    """`binding` gives the right to its subjects. `path` are the names of the roles from the bound one to the one that
    has the `rule`. Not `certain`: the last one stands for the ClusterRole `external`, whose rules only the cluster
    knows."""

    binding: Binding
    path: tuple[str, ...]
    rule: Rule | None
    external: str = ""

    @property
    def certain(self) -> bool:
        """Whether the policy alone gives the right."""
        return self.rule is not None

    @property
    def sentence(self) -> str:
        """The reason in words."""
        role = f"the {self.binding.kind} binding {self.binding.name!r} gives the role {self.path[0]!r}"
        way = "".join(f", which inherits from {name!r}" for name in self.path[1:])
        if self.rule is None:
            return f"{role}{way}, which stands for the ClusterRole {self.external!r} of the cluster: it may allow this"
        return f"{role}{way}, whose rule allows: {rules.text(self.rule)}"


@dataclass(frozen=True, slots=True)
class Access:
    """What one binding gives to somebody who is a subject of it as `subject`: `own` on our API, `kube` in Kubernetes
    with the ClusterRoles `externals`. `clusters` are the ids of those in which it holds; None: it is of no cluster."""

    binding: Binding
    subject: Subject
    own: tuple[Rule, ...]
    kube: tuple[Rule, ...]
    externals: tuple[str, ...] = ()
    clusters: tuple[str, ...] | None = None


def who_can(policy: Policy, labels: Labels, asked: Attributes, place: Place, now: float) -> list[Reason]:
    """The bindings that give the right at the time `now`, in the order of kinds and names; one reason for each, a
    certain one if there is one."""
    found = []
    projects = _projects(policy, place)
    for binding in _sorted(policy):
        if live(binding, now) and binding.subjects:
            reason = _reason(policy, labels, binding, asked, place, projects)
            if reason is not None:
                found.append(reason)
    return found


def what_can(
    policy: Policy, labels: Labels, who: Who, now: float, cluster: str = "", limit: int | None = None
) -> list[Access]:
    """What each binding of `who` gives at the time `now`, in the order of kinds and names; with `cluster`, only what
    holds in that one. At most `limit` of them."""
    found: list[Access] = []
    for binding in _sorted(policy):
        if limit is not None and len(found) >= limit:
            break
        if live(binding, now) and holds_for(binding, who):
            access = _access(policy, labels, binding, who)
            if access is not None and (not cluster or access.clusters is None or cluster in access.clusters):
                found.append(access)
    return found


def project_of(policy: Policy, cluster: str, namespace: str) -> str:
    """The id of the project that the namespace of the cluster is in, or ""."""
    for project in policy.projects.values():
        if project.cluster_id == cluster and any(found.name == namespace for found in project.namespaces):
            return project.id
    return ""


def _projects(policy: Policy, place: Place) -> str:
    if place.project:
        known = policy.projects.get(place.project)
        return place.project if known is not None and known.cluster_id == place.cluster else ""
    return project_of(policy, place.cluster, place.namespace) if place.namespace else ""


def _reason(
    policy: Policy, labels: Labels, binding: Binding, asked: Attributes, place: Place, project: str
) -> Reason | None:
    ours = asked.group == OWN_GROUP and not asked.path
    if binding.kind == "global":
        role = policy.global_roles.get(binding.role_id)
        if role is None:
            return None
        given = role.rules if ours else ()
        if place.cluster and fits(role.cluster_selector, labels.get(place.cluster, {})):
            given += rules.own(role.cluster_rules) if ours else rules.kube(role.cluster_rules)
        rule = rules.first(given, asked)
        return None if rule is None else Reason(binding, (role.name,), rule)
    if binding.cluster_id != place.cluster or not place.cluster:
        return None
    if binding.kind == "project" and (not project or binding.project_id != project):
        return None
    possible: Reason | None = None
    for path, template in paths(policy, binding.role_id):
        given = rules.own(template.rules) if ours else () if template.external else rules.kube(template.rules)
        rule = rules.first(given, asked)
        if rule is not None:
            return Reason(binding, path, rule)
        if template.external and not ours and possible is None:
            possible = Reason(binding, path, None, template.external)
    return possible


def paths(policy: Policy, template_id: str) -> Iterator[tuple[tuple[str, ...], RoleTemplate]]:
    """The template and all that it inherits from, each once with the names on the shortest way to it, nearest first."""
    seen = {template_id}
    waiting: list[tuple[tuple[str, ...], str]] = [((), template_id)]
    while waiting:
        way, current = waiting.pop(0)
        template = policy.templates.get(current)
        if template is None:
            continue
        path = (*way, template.name)
        yield path, template
        for parent in template.inherits:
            if parent not in seen:
                seen.add(parent)
                waiting.append((path, parent))


def _access(policy: Policy, labels: Labels, binding: Binding, who: Who) -> Access | None:
    subject = next(
        subject
        for subject in binding.subjects
        if (subject.kind == "user" and subject.id == who.user_id)
        or (subject.kind == "group" and subject.id in who.group_ids)
    )
    if binding.kind == "global":
        role = policy.global_roles.get(binding.role_id)
        if role is None:
            return None
        reached = None
        if role.cluster_rules:
            reached = tuple(sorted(c for c, found in labels.items() if fits(role.cluster_selector, found)))
        given = (*role.rules, *rules.own(role.cluster_rules))
        return Access(binding, subject, given, rules.kube(role.cluster_rules), clusters=reached)
    flat = flatten(policy.templates, binding.role_id)
    cluster = () if binding.cluster_id is None else (binding.cluster_id,)
    return Access(binding, subject, rules.own(flat.rules), rules.kube(flat.rules), flat.externals, cluster)


def _sorted(policy: Policy) -> list[Binding]:
    order = {"global": 0, "cluster": 1, "project": 2}
    return sorted(policy.bindings.values(), key=lambda binding: (order[binding.kind], binding.name, binding.id))
