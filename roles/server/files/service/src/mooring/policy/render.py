# SPDX-License-Identifier: Apache-2.0
"""What a policy is in one cluster: Kubernetes objects and namespaces, a pure function whose result does not depend on
the order of what it is given.

    ClusterRole         mooring:<role>:<hash of its rules>            what is bound here; never changed, only replaced
    ClusterRoleBinding  mooring:<role>:<hash>:<until>[-<bits>]        global and cluster bindings
    RoleBinding         the same, in each namespace of a project      project bindings
    ResourceQuota, LimitRange, NetworkPolicy                          per namespace of a project that has them

Why: bindings of one role, place and end are one object with many subjects (`mooring.policy.subjects` says how many),
so what is in a cluster grows with roles times namespaces, not with people. A role carries the hash of its rules in its
name: an edited one is another object, so that nobody has for a moment what neither the old nor the new policy gives
(`mooring.kube.transition`).

It must not: give what the policy does not. A template that inherits itself, a namespace of two projects, a binding to
what is gone: what is wrong in a policy was refused when it was written, and gives less here, never more. Rules of our
own API (group `mooring.fleet`) stay on the server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from math import floor
from typing import Any, Final

from mooring.policy.check_project import namespace_quota
from mooring.policy.effective import fits, lineage, live
from mooring.policy.subjects import People, Subjects, rules_hash
from mooring.store.policies import OWN_GROUP, Binding, Context, Policy, Project, Rule

Manifest = dict[str, Any]

LABELS: Final[Mapping[str, str]] = {"app.kubernetes.io/managed-by": "mooring", "mooring.fleet/policy": "true"}
"""On each object, so that the agent finds its own."""
EXPIRES_AT: Final = "mooring.fleet/expires-at"
PROJECT_LABEL: Final = "mooring.fleet/project"
POD_SECURITY_LABEL: Final = "pod-security.kubernetes.io/enforce"
QUOTA: Final = "mooring-quota"
LIMITS: Final = "mooring-limits"
ISOLATION: Final = "mooring-isolation"

_RBAC: Final = "rbac.authorization.k8s.io"
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._-]")
_LABEL_VALUE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What of a cluster a policy depends on. `uid` is that of its namespace `kube-system`, once an agent registered."""

    id: str
    name: str
    uid: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rendered:
    """`objects` are whole manifests, sorted; parts of them are shared, so that nobody may change them. `namespaces` are
    those of projects: `{name, create, project, labels}`."""

    objects: tuple[Manifest, ...] = ()
    namespaces: tuple[Manifest, ...] = ()


@dataclass(frozen=True, slots=True)
class _Role:
    """A ClusterRole that is bound: `part` stands for it in names of bindings. `rules` is None if it is not ours."""

    name: str
    part: str
    rules: tuple[Rule, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """What one binding in the cluster is of; `project` is empty for the whole cluster, `until` is 0 for no end."""

    role: str
    project: str
    until: int


def render(
    policy: Policy, cluster: ClusterFacts, *, prefix: str, left_out: Set[str] = frozenset(), now: float = 0.0
) -> Rendered:
    """The objects of a policy in a cluster. `prefix` goes before names of users and groups; `left_out` are ids of users
    that get nothing. Bindings that ended before `now` (Unix seconds) are left out too; by default none are."""
    return _Render(policy, cluster, Subjects(prefix, left_out), now).result()


def kubernetes_rules(rules: Iterable[Rule], context: Context = "cluster") -> tuple[Rule, ...]:
    """Those that Kubernetes shall know: without our own group, sorted, each once. In a project there are no URLs, which
    a RoleBinding could not give either."""
    found: set[tuple[tuple[str, ...], ...]] = set()
    for rule in rules:
        groups = tuple(sorted({group for group in rule.api_groups if group != OWN_GROUP}))
        verbs = tuple(sorted(set(rule.verbs)))
        if groups and rule.resources and verbs:
            found.add((groups, tuple(sorted(set(rule.resources))), tuple(sorted(set(rule.resource_names))), (), verbs))
        if rule.non_resource_urls and verbs and context == "cluster":
            found.add(((), (), (), tuple(sorted(set(rule.non_resource_urls))), verbs))
    return tuple(
        Rule(api_groups=groups, resources=resources, resource_names=names, non_resource_urls=urls, verbs=verbs)
        for groups, resources, names, urls, verbs in sorted(found)
    )


class _Render:
    def __init__(self, policy: Policy, cluster: ClusterFacts, subjects: Subjects, now: float) -> None:
        self._policy = policy
        self._cluster = cluster
        self._subjects = subjects
        self._now = now
        self._roles: dict[str, _Role] = {}
        self._flat: dict[tuple[str, Context], tuple[_Role, ...]] = {}

    def result(self) -> Rendered:
        objects = [*self._bindings(), *self._around()]
        objects.sort(key=_sort_key)
        return Rendered(tuple(objects), tuple(self._namespaces()))

    @cached_property
    def _owners(self) -> dict[str, Project]:
        """Namespace -> the project that it is in."""
        owners: dict[str, Project] = {}
        for project in sorted(self._policy.projects.values(), key=lambda one: one.id):
            if project.cluster_id == self._cluster.id:
                for namespace in project.namespaces:
                    owners.setdefault(namespace.name, project)
        return owners

    def _bindings(self) -> list[Manifest]:
        bound: dict[_Place, list[Binding]] = {}
        for binding in self._policy.bindings.values():
            if not live(binding, self._now):
                continue
            until = 0 if binding.expires_at is None else max(1, floor(binding.expires_at))
            for role in self._roles_of(binding):
                self._roles[role.part] = role
                place = _Place(role.part, binding.project_id or "" if binding.kind == "project" else "", until)
                bound.setdefault(place, []).append(binding)
        names: dict[_Place, People] = {}
        for place, bindings in bound.items():
            people = names[place] = People()
            for binding in bindings:
                self._subjects.add(people, binding.subjects, accounts=binding.kind != "global")
        self._subjects.know(names.values())

        inside: dict[str, list[str]] = {}
        for namespace, project in self._owners.items():
            inside.setdefault(project.id, []).append(namespace)
        objects: list[Manifest] = []
        used: set[str] = set()
        for place, people in names.items():
            places = inside.get(place.project, []) if place.project else [""]
            for bits, chunk in self._subjects.chunks(people) if places else []:
                used.add(place.role)
                objects += [self._binding(place, namespace, bits, chunk) for namespace in places]
        return objects + [_cluster_role(role) for role in map(self._roles.__getitem__, used) if role.rules is not None]

    def _roles_of(self, binding: Binding) -> tuple[_Role, ...]:
        """The ClusterRoles that a binding binds to in this cluster."""
        if binding.kind == "global":
            role = self._policy.global_roles.get(binding.role_id)
            if role is None or not role.cluster_rules or not fits(role.cluster_selector, self._cluster.labels):
                return ()
            return _own_role(role.name, kubernetes_rules(role.cluster_rules))
        if binding.cluster_id != self._cluster.id:
            return ()
        if binding.kind == "project":
            project = self._policy.projects.get(binding.project_id or "")
            if project is None or project.cluster_id != self._cluster.id:
                return ()
        return self._template(binding.role_id, binding.kind)

    def _template(self, template_id: str, context: Context) -> tuple[_Role, ...]:
        """A template with all that it inherits: one role of ours, and those of others."""
        at = (template_id, context)
        if at not in self._flat:
            top = self._policy.templates.get(template_id)
            family = [one for one in lineage(self._policy.templates, template_id) if one.context == context]
            rules = kubernetes_rules((rule for one in family if not one.external for rule in one.rules), context)
            others = sorted({one.external for one in family if one.external})
            own = _own_role(top.name, rules) if top is not None else ()
            self._flat[at] = (*own, *(_Role(name, f"external={name}") for name in others))
        return self._flat[at]

    def _binding(self, place: _Place, namespace: str, bits: str, subjects: list[dict[str, str]]) -> Manifest:
        tag = str(place.until) if place.until else "always"
        meta = _meta(f"mooring:{place.role}:{tag}-{bits}" if bits else f"mooring:{place.role}:{tag}", namespace)
        if place.until:
            meta["annotations"] = {EXPIRES_AT: _rfc3339(place.until)}
        return {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": self._roles[place.role].name},
            "subjects": subjects,
        }

    def _around(self) -> list[Manifest]:
        """What is in the namespaces of projects besides rights."""
        objects: list[Manifest] = []
        inside: dict[str, list[str]] = {}
        for name, project in self._owners.items():
            inside.setdefault(project.id, []).append(name)
        for project in {project.id: project for project in self._owners.values()}.values():
            own = {namespace.name: namespace for namespace in project.namespaces}
            for name in inside[project.id]:
                quota = namespace_quota(project, own[name])
                if quota:
                    objects.append(_object("v1", "ResourceQuota", QUOTA, name, {"hard": _sorted(quota)}))
                limits = _limits(project)
                if limits:
                    objects.append(_object("v1", "LimitRange", LIMITS, name, {"limits": [limits]}))
                if project.isolated:
                    spec = _only_from(inside[project.id])
                    objects.append(_object("networking.k8s.io/v1", "NetworkPolicy", ISOLATION, name, spec))
        return objects

    def _namespaces(self) -> Iterable[Manifest]:
        for name, project in sorted(self._owners.items()):
            labels = {PROJECT_LABEL: project.name if _LABEL_VALUE.fullmatch(project.name) else project.id}
            if project.pod_security is not None:
                labels[POD_SECURITY_LABEL] = project.pod_security
            create = any(one.create for one in project.namespaces if one.name == name)
            yield {"name": name, "create": create, "project": project.name, "labels": labels}


def _own_role(name: str, rules: tuple[Rule, ...]) -> tuple[_Role, ...]:
    """A role of ours with these rules; none if there are none."""
    if not rules:
        return ()
    content = [
        (rule.api_groups, rule.resources, rule.resource_names, rule.non_resource_urls, rule.verbs) for rule in rules
    ]
    part = f"{_NOT_IN_NAMES.sub('-', name)}:{rules_hash(content)}"
    return (_Role(f"mooring:{part}", part, rules),)


def _cluster_role(role: _Role) -> Manifest:
    rules = [_manifest_of(rule) for rule in role.rules or ()]
    return {"apiVersion": f"{_RBAC}/v1", "kind": "ClusterRole", "metadata": _meta(role.name), "rules": rules}


def _manifest_of(rule: Rule) -> dict[str, list[str]]:
    parts = {
        "apiGroups": rule.api_groups,
        "resources": rule.resources,
        "resourceNames": rule.resource_names,
        "nonResourceURLs": rule.non_resource_urls,
        "verbs": rule.verbs,
    }
    return {name: list(values) for name, values in parts.items() if values}


def _limits(project: Project) -> Manifest:
    limits: Manifest = {}
    if project.container_limits:
        limits["default"] = _sorted(project.container_limits)
    if project.container_requests:
        limits["defaultRequest"] = _sorted(project.container_requests)
    return {"type": "Container", **limits} if limits else {}


def _only_from(namespaces: list[str]) -> Manifest:
    """Pods are reached from these namespaces only. By name: the label of it is set by the API server and cannot be
    changed (https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetes-io-metadata-name); a label
    with the project could be put on any other namespace by whoever may edit that."""
    inside = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": sorted(namespaces)}
    return {
        "podSelector": {},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"namespaceSelector": {"matchExpressions": [inside]}}]}],
    }


def _object(version: str, kind: str, name: str, namespace: str, spec: Manifest) -> Manifest:
    return {"apiVersion": version, "kind": kind, "metadata": _meta(name, namespace), "spec": spec}


def _meta(name: str, namespace: str = "") -> Manifest:
    meta: Manifest = {"name": name, "labels": dict(LABELS)}
    if namespace:
        meta["namespace"] = namespace
    return meta


def _sorted(values: Mapping[str, str]) -> dict[str, str]:
    return dict(sorted(values.items()))


def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _sort_key(item: Manifest) -> tuple[str, str, str]:
    return item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]
