# SPDX-License-Identifier: Apache-2.0
"""What a change of the policy would do in each cluster, before it is made: the objects that come, go and change.

    simulate(policy, delta, clusters, prefix=...) -> (ClusterChange, ...)    clusters where nothing happens are left out

It must not: check whether the change may be made (`mooring.policy.check`), or show more than `limit` objects that come,
go or change in a cluster: the counts are of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, Final

from mooring.policy.book import patched
from mooring.policy.render import ClusterFacts, Manifest, Rendered, render
from mooring.store.policies import Policy, PolicyDelta, RoleTemplate

LIMIT: Final = 100
"""Objects that are shown of what comes, goes or changes in one cluster."""
SUBJECTS: Final = 100
"""Subjects that are shown of one binding, so that the answer has a bound."""

_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Shown:
    """An object. `manifest` is what it will be (what it was, if it goes); `before` what it was, if it changes. Of a
    binding's subjects the first `SUBJECTS` are shown; `subjects` counts them all."""

    kind: str
    namespace: str
    name: str
    manifest: Manifest
    before: Manifest | None = None
    subjects: int = 0


@dataclass(frozen=True, slots=True)
class ClusterChange:
    """What happens in one cluster. `counts` are of all objects, what is listed is bounded. `namespaces` that are not
    there yet, or get other labels, are among the objects as kind `Namespace`; none is ever removed from a cluster."""

    cluster: ClusterFacts
    added: tuple[Shown, ...]
    removed: tuple[Shown, ...]
    changed: tuple[Shown, ...]
    counts: Mapping[str, int]


def simulate(
    policy: Policy,
    delta: PolicyDelta,
    clusters: Iterable[ClusterFacts],
    *,
    prefix: str,
    left_out: Set[str] = frozenset(),
    now: float = 0.0,
    limit: int = LIMIT,
) -> tuple[ClusterChange, ...]:
    """What `delta` would do, in the clusters where it does something, by their names. The rest as for `render`."""
    after = patched(policy, delta)
    changes = []
    for cluster in sorted(affected(policy, after, delta, clusters), key=lambda one: (one.name, one.id)):
        old = render(policy, cluster, prefix=prefix, left_out=left_out, now=now)
        new = render(after, cluster, prefix=prefix, left_out=left_out, now=now)
        change = compare(cluster, old, new, limit)
        if any(change.counts.values()):
            changes.append(change)
    return tuple(changes)


def affected(before: Policy, after: Policy, delta: PolicyDelta, clusters: Iterable[ClusterFacts]) -> list[ClusterFacts]:
    """The clusters whose objects may differ between the two policies: those that a binding or project of the delta is
    in, or one to a role of the delta; all of them for global roles and bindings."""
    if delta.global_roles:
        return list(clusters)
    ids: set[str] = set()
    for policy in (before, after):
        for binding_id in delta.bindings:
            binding = policy.bindings.get(binding_id)
            if binding is not None and binding.cluster_id is None:
                return list(clusters)
            ids.add((binding.cluster_id or "") if binding is not None else "")
        ids |= {policy.projects[one].cluster_id for one in delta.projects if one in policy.projects}
        templates = _heirs(policy, delta.templates)
        if templates:
            ids |= {one.cluster_id or "" for one in policy.bindings.values() if one.role_id in templates}
    return [cluster for cluster in clusters if cluster.id in ids]


def compare(cluster: ClusterFacts, old: Rendered, new: Rendered, limit: int = LIMIT) -> ClusterChange:
    """The difference between two renderings for a cluster."""
    before, after = _by_key(old), _by_key(new)
    added = sorted(after.keys() - before.keys())
    removed = sorted(key for key in before.keys() - after.keys() if key[0] != "Namespace")
    changed = sorted(key for key in before.keys() & after.keys() if before[key] != after[key])
    return ClusterChange(
        cluster,
        tuple(_shown(key, after[key]) for key in added[:limit]),
        tuple(_shown(key, before[key]) for key in removed[:limit]),
        tuple(_shown(key, after[key], before[key]) for key in changed[:limit]),
        {"added": len(added), "removed": len(removed), "changed": len(changed)},
    )


def _heirs(policy: Policy, templates: Mapping[str, RoleTemplate | None]) -> set[str]:
    """These templates, and all that inherit from them."""
    found = set(templates)
    while True:
        more = {one.id for one in policy.templates.values() if not found.isdisjoint(one.inherits)} - found
        if not more:
            return found
        found |= more


def _by_key(rendered: Rendered) -> dict[_Key, Manifest]:
    objects = {
        (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]): item
        for item in rendered.objects
    }
    for space in rendered.namespaces:
        meta = {"name": space["name"], "labels": space["labels"]}
        objects["Namespace", "", space["name"]] = {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}
    return objects


def _shown(key: _Key, item: Manifest, before: Manifest | None = None) -> Shown:
    return Shown(
        *key,
        manifest=_cut(item),
        before=None if before is None else _cut(before),
        subjects=len(item.get("subjects", ())),
    )


def _cut(item: Manifest) -> dict[str, Any]:
    subjects = item.get("subjects")
    return item if subjects is None or len(subjects) <= SUBJECTS else {**item, "subjects": subjects[:SUBJECTS]}
