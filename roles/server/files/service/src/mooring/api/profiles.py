# SPDX-License-Identifier: Apache-2.0
"""What a cluster's agent could not carry out by its profile is refused when it is written, with the reason.

`proxy-only` manages no roles at all, `read-only` gives reading only (`mooring.lib.profiles`). A global role is for
whatever clusters there are, so its bindings are not refused; what of it an agent cannot apply, the agent reports.
"""

from __future__ import annotations

from collections.abc import Iterable

from mooring.api.problems import Problem, conflict
from mooring.lib.profiles import READING
from mooring.policy import rules
from mooring.policy.effective import Flat, flatten, lineage
from mooring.store.policies import Binding, GlobalRole, Policy, Project, RoleTemplate
from mooring.store.ports import Transaction
from mooring.store.records import Cluster


async def check(tx: Transaction, policy: Policy, thing: GlobalRole | RoleTemplate | Project | Binding) -> None:
    """Raises Problem (409, `profile`)."""
    match thing:
        case Binding(cluster_id=str() as cluster_id):
            await _check_rules(tx, {cluster_id}, flatten(policy.templates, thing.role_id))
        case RoleTemplate() if thing.id in policy.templates:
            templates = {**policy.templates, thing.id: thing}
            for role_id, places in _bound(policy).items():
                if any(parent.id == thing.id for parent in lineage(templates, role_id)):
                    await _check_rules(tx, places, flatten(templates, role_id))
        case Project():
            cluster = await tx.clusters.get(thing.cluster_id)
            if cluster is not None and cluster.profile != "admin":
                _check_project(cluster, thing)


def _bound(policy: Policy) -> dict[str, set[str]]:
    """Template -> the clusters where it is bound."""
    found: dict[str, set[str]] = {}
    for binding in policy.bindings.values():
        if binding.cluster_id is not None:
            found.setdefault(binding.role_id, set()).add(binding.cluster_id)
    return found


async def _check_rules(tx: Transaction, places: Iterable[str], role: Flat) -> None:
    held = rules.kube(role.rules)
    if not held and not role.externals:
        return
    for cluster_id in sorted(places):
        cluster = await tx.clusters.get(cluster_id)
        if cluster is None or cluster.profile == "admin":
            continue
        if cluster.profile == "proxy-only":
            raise _refused(cluster, "its agent manages no roles there")
        if role.externals:
            raise _refused(cluster, f"nobody knows what the ClusterRole {role.externals[0]!r} gives")
        for rule in held:
            if not READING.issuperset(rule.verbs):
                raise _refused(cluster, f"its agent gives reading only there, and not: {rules.text(rule)}")


def _check_project(cluster: Cluster, project: Project) -> None:
    made = [space.name for space in project.namespaces if space.create]
    if made:
        raise _refused(cluster, f"its agent makes no namespaces there: {', '.join(made)}")
    for field in ("quota", "namespace_quota", "container_limits", "container_requests", "pod_security", "isolated"):
        if getattr(project, field):
            raise _refused(cluster, f"its agent cannot keep {field!r} there")


def _refused(cluster: Cluster, reason: str) -> Problem:
    return conflict(
        "profile",
        f"the cluster {cluster.name!r} has the profile {cluster.profile!r}: {reason}",
        hint="apply the manifest of a wider profile in the cluster and change its profile here",
    )
