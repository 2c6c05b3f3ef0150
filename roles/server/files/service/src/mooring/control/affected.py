# SPDX-License-Identifier: Apache-2.0
"""Which clusters a change of the policy may concern. Pure.

Too many costs time, and nothing else: a cluster whose bundle comes out as before hears nothing. Too few would leave
rights where they were, so whatever is in doubt counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set

from mooring.store.policies import Binding, GlobalRole, Policy, PolicyDelta


def affected(
    before: Policy, after: Policy, delta: PolicyDelta, users: Collection[str], labels: Mapping[str, Mapping[str, str]]
) -> set[str]:
    """The ids of the clusters for which the change from `before` to `after` may matter. `users`: ids of those that were
    disabled, enabled, renamed or deleted. `labels`: of each cluster that there is."""
    templates = _with_heirs(set(delta.templates), (before, after))
    found = {
        project.cluster_id
        for project_id in delta.projects
        for policy in (before, after)
        if (project := policy.projects.get(project_id)) is not None
    }
    for policy in (before, after):
        for binding in _touched(policy, delta, users, templates):
            found |= clusters_of(binding, policy, labels)
    return found & labels.keys()


def clusters_of(binding: Binding, policy: Policy, labels: Mapping[str, Mapping[str, str]]) -> set[str]:
    """The clusters that a binding reaches."""
    if binding.kind != "global":
        return set() if binding.cluster_id is None else {binding.cluster_id}
    role = policy.global_roles.get(binding.role_id)
    return set() if role is None or not role.cluster_rules else {id for id in labels if _takes(role, labels[id])}


def next_end(policy: Policy, after: float) -> float | None:
    """When the first of the bindings ends that have not ended at the time `after`."""
    ends = [b.expires_at for b in policy.bindings.values() if b.expires_at is not None and b.expires_at > after]
    return min(ends, default=None)


def _touched(policy: Policy, delta: PolicyDelta, users: Collection[str], templates: Set[str]) -> Iterable[Binding]:
    ids = set(users)
    if not (delta.global_roles or templates or ids):  # the common case: some bindings, and nothing that many share
        return [policy.bindings[id] for id in delta.bindings if id in policy.bindings]
    return [
        binding
        for binding in policy.bindings.values()
        if binding.id in delta.bindings
        or binding.role_id in templates
        or binding.role_id in delta.global_roles
        or (ids and any(subject.kind == "user" and subject.id in ids for subject in binding.subjects))
    ]


def _with_heirs(changed: Set[str], policies: Iterable[Policy]) -> set[str]:
    """Those templates, and all that inherit them."""
    heirs: dict[str, set[str]] = {}
    for policy in policies if changed else ():
        for template in policy.templates.values():
            for parent in template.inherits:
                heirs.setdefault(parent, set()).add(template.id)
    found, todo = set(changed), list(changed)
    while todo:
        for heir in heirs.get(todo.pop(), set()) - found:
            found.add(heir)
            todo.append(heir)
    return found


def _takes(role: GlobalRole, labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in role.cluster_selector.items())
