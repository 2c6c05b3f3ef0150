# SPDX-License-Identifier: Apache-2.0
"""A starting policy from the RBAC that a cluster has: roles become templates, bindings become bindings.

    ClusterRoleBinding                 a cluster binding
    RoleBinding                        a project binding; its namespace becomes a project of that name
    (Cluster)Role that is bound        a template with its rules, one for equal rules
    cluster-admin, admin, edit, view   an external template; so are ClusterRoles that are put together by labels

What Kubernetes or we ourselves keep is left out without a word. What cannot be said in a policy (users and groups that
do not come through the server, namespaces of the cluster itself, rules that mean nothing) is told in `notes`.

It must not: talk to anybody. It is given lists as the API server answers them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mooring.policy.check_project import is_system
from mooring.policy.rules import PolicyRefused, checked
from mooring.store.policies import Context, Rule

_BOOTSTRAP: Final = "kubernetes.io/bootstrapping"
_OURS: Final = "mooring.fleet/policy"
_WELL_KNOWN: Final = frozenset({"admin", "cluster-admin", "edit", "view"})
_RULE_LISTS: Final = (
    ("verbs", "verbs"),
    ("api_groups", "apiGroups"),
    ("resources", "resources"),
    ("resource_names", "resourceNames"),
    ("non_resource_urls", "nonResourceURLs"),
)


@dataclass
class Exported:
    """The policy in the form that the role `mooring.fleet.policies` takes, and what of the cluster's RBAC is not in it,
    one sentence each."""

    role_templates: list[dict[str, Any]] = field(default_factory=list)
    bindings: list[dict[str, Any]] = field(default_factory=list)
    projects: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def tree(self, cluster: str) -> dict[str, Any]:
        """The variable `mooring_policy`."""
        place: dict[str, Any] = {"name": cluster}
        if self.bindings:
            place["bindings"] = self.bindings
        if self.projects:
            place["projects"] = self.projects
        tree: dict[str, Any] = {"role_templates": self.role_templates} if self.role_templates else {}
        return tree | ({"clusters": [place]} if len(place) > 1 else {})


class Export:
    """Collects the RBAC objects of one cluster. Objects are given as the API server's JSON."""

    def __init__(self, cluster: str, prefix: str) -> None:
        self.cluster = cluster
        self.prefix = prefix
        self._cluster_roles: dict[str, Mapping[str, Any]] = {}
        self._roles: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._templates: dict[tuple[Context, str, tuple[Rule, ...]], str] = {}
        self._names: dict[str, set[str]] = {}
        self._out = Exported()

    def policy(
        self,
        cluster_roles: Iterable[Mapping[str, Any]],
        roles: Iterable[Mapping[str, Any]],
        cluster_role_bindings: Iterable[Mapping[str, Any]],
        role_bindings: Iterable[Mapping[str, Any]],
    ) -> Exported:
        """What these objects come to."""
        self._cluster_roles = {_name(role): role for role in cluster_roles}
        self._roles = {(_namespace(role), _name(role)): role for role in roles}
        for binding in sorted(cluster_role_bindings, key=_name):
            self._cluster_binding(binding)
        by_namespace: dict[str, list[Mapping[str, Any]]] = {}
        for binding in role_bindings:
            if not _kept_by_others(binding):
                by_namespace.setdefault(_namespace(binding), []).append(binding)
        for namespace in sorted(by_namespace):
            self._namespace_bindings(namespace, sorted(by_namespace[namespace], key=_name))
        return self._out

    def _cluster_binding(self, binding: Mapping[str, Any]) -> None:
        if _kept_by_others(binding):
            return
        place = f"ClusterRoleBinding {_name(binding)}"
        subjects = self._subjects(place, binding, None)
        role = self._template("cluster", place, binding) if subjects else None
        if role is not None:
            # Names of bindings are unique on the server, and other clusters have some of the same name.
            name = self._unique("cluster_bindings", f"{self.cluster}-{_name(binding)}")
            self._out.bindings.append({"name": name, "role": role, **subjects})

    def _namespace_bindings(self, namespace: str, bindings: list[Mapping[str, Any]]) -> None:
        if is_system(namespace):
            self._out.notes.extend(
                f"RoleBinding {namespace}/{_name(b)}: the namespace belongs to the cluster and can be in no project"
                for b in bindings
            )
            return
        found = []
        for binding in bindings:
            place = f"RoleBinding {namespace}/{_name(binding)}"
            subjects = self._subjects(place, binding, namespace)
            role = self._template("project", place, binding) if subjects else None
            if role is not None:
                name = self._unique("project_bindings", f"{self.cluster}-{namespace}-{_name(binding)}")
                found.append({"name": name, "role": role, **subjects})
        if found:
            spaces = [{"name": namespace, "create": False}]
            self._out.projects.append({"name": namespace, "namespaces": spaces, "bindings": found})

    # --- subjects ---------------------------------------------------------------------------------------------------

    def _subjects(self, place: str, binding: Mapping[str, Any], namespace: str | None) -> dict[str, list[str]]:
        found: dict[str, set[str]] = {"users": set(), "groups": set(), "service_accounts": set()}
        for subject in binding.get("subjects") or ():
            kind, name = str(subject.get("kind")), str(subject.get("name"))
            if kind in ("User", "Group"):
                if name.startswith("system:"):
                    self._out.notes.append(f"{place}: {kind.lower()} {name} is Kubernetes' own")
                elif not name.startswith(self.prefix):
                    self._out.notes.append(
                        f"{place}: {kind.lower()} {name} does not come through the server (names of its users begin "
                        f"with {self.prefix} in the cluster)"
                    )
                else:
                    found["users" if kind == "User" else "groups"].add(name.removeprefix(self.prefix))
                continue
            home = str(subject.get("namespace") or namespace or "")
            if kind != "ServiceAccount":
                self._out.notes.append(f"{place}: a subject of the kind {kind}")
            elif home == "mooring-system":
                self._out.notes.append(f"{place}: service account {home}/{name} is the agent's")
            elif namespace is not None and home != namespace:
                self._out.notes.append(f"{place}: service account {home}/{name} is of another namespace")
            else:
                found["service_accounts"].add(f"{home}/{name}")
        return {key: sorted(names) for key, names in found.items() if names}

    # --- roles ------------------------------------------------------------------------------------------------------

    def _template(self, context: Context, place: str, binding: Mapping[str, Any]) -> str | None:
        """The name of the template of what the binding gives, made if need be; None: it cannot be one."""
        ref = binding.get("roleRef") or {}
        name, kind = str(ref.get("name")), str(ref.get("kind"))
        namespaced = kind == "Role"
        role = self._roles.get((_namespace(binding), name)) if namespaced else self._cluster_roles.get(name)
        if role is None:
            self._out.notes.append(f"{place}: gives the {kind} {name}, which is not there")
            return None
        if not namespaced and (name in _WELL_KNOWN or role.get("aggregationRule") or name.startswith("system:")):
            return self._add(context, name, name, ())
        try:
            held = checked([_rule(rule) for rule in role.get("rules") or ()], "rules", context)
        except PolicyRefused as error:
            self._out.notes.append(f"{place}: the {kind} {name} cannot be a template: {error.field}: {error.reason}")
            return None
        if not held:
            self._out.notes.append(f"{place}: the {kind} {name} gives nothing")
            return None
        return self._add(context, name, "", held)

    def _add(self, context: Context, name: str, external: str, held: tuple[Rule, ...]) -> str:
        key = (context, external, held)
        known = self._templates.get(key)
        if known is None:
            known = self._templates[key] = self._unique("role_templates", f"{name}-in-{context}" if external else name)
            template: dict[str, Any] = {"name": known, "context": context}
            if external:
                template["external"] = external
            else:
                template["rules"] = [_plain(rule) for rule in held]
            self._out.role_templates.append(template)
        return known

    def _unique(self, collection: str, wanted: str) -> str:
        """A name that the server takes and that is not given yet."""
        taken = self._names.setdefault(collection, set())
        plain = re.sub(r"[^a-z0-9]+", "-", wanted.lower()).strip("-")[:63].strip("-") or "unnamed"
        name, number = plain, 1
        while name in taken:
            number += 1
            name = f"{plain[: 62 - len(str(number))].rstrip('-')}-{number}"
        taken.add(name)
        return name


def _name(thing: Mapping[str, Any]) -> str:
    return str((thing.get("metadata") or {}).get("name"))


def _namespace(thing: Mapping[str, Any]) -> str:
    return str((thing.get("metadata") or {}).get("namespace") or "")


def _kept_by_others(binding: Mapping[str, Any]) -> bool:
    """Kubernetes' own, or made by us from a policy that there is already, or for our agent."""
    labels = (binding.get("metadata") or {}).get("labels") or {}
    return _BOOTSTRAP in labels or _OURS in labels or _name(binding).startswith(("system:", "mooring"))


def _rule(rule: Mapping[str, Any]) -> Rule:
    return Rule(**{ours: tuple(map(str, rule.get(theirs) or ())) for ours, theirs in _RULE_LISTS})


def _plain(rule: Rule) -> dict[str, list[str]]:
    return {ours: list(getattr(rule, ours)) for ours, _unused in _RULE_LISTS if getattr(rule, ours)}
