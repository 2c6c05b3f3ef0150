# SPDX-License-Identifier: Apache-2.0
"""The policy as the store gives and takes it: roles, projects and bindings, as plain values.

    GlobalRole    rules on our own API, and rules in all clusters or in those that a selector takes
    RoleTemplate  rules in one cluster, or in the namespaces of one project; may inherit
    Project       a set of namespaces of one cluster
    Binding       a role for subjects: everywhere (global), in one cluster, or in one project

Rights on our own API are rules like any other, of the API group `mooring.fleet`; `mooring.policy` says what they mean.
Times are Unix seconds (UTC).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

OWN_GROUP = "mooring.fleet"
"""The API group that names the resources of our own REST API in rules."""

Context = Literal["cluster", "project"]
BindingKind = Literal["global", "cluster", "project"]
SubjectKind = Literal["user", "group", "serviceaccount"]
PodSecurity = Literal["privileged", "baseline", "restricted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule of Kubernetes' RBAC (`rbac.authorization.k8s.io/v1`, PolicyRule), its lists sorted and without doubles."""

    verbs: tuple[str, ...]
    api_groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    resource_names: tuple[str, ...] = ()
    non_resource_urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalRole:
    """`rules` are on our own API. `cluster_rules` hold in every cluster whose labels have all of `cluster_selector`
    (empty: in every cluster). `new_user_default`: each new user is bound to it."""

    id: str
    name: str
    display_name: str = ""
    description: str = ""
    rules: tuple[Rule, ...] = ()
    cluster_rules: tuple[Rule, ...] = ()
    cluster_selector: Mapping[str, str] = field(default_factory=dict)
    new_user_default: bool = False
    builtin: bool = False
    created_at: float
    updated_at: float
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleTemplate:
    """Rules of the group `mooring.fleet` are on our API, within the cluster or project of the binding; the others are
    Kubernetes'. `external` names a ClusterRole that is in the clusters already: then there are no Kubernetes rules
    here. A `locked` template cannot be bound anew, a `hidden` one is not offered. `creator_default`: who makes a
    cluster (or project) is bound to it there. `inherits` are ids of templates of the same context."""

    id: str
    name: str
    display_name: str = ""
    description: str = ""
    context: Context
    rules: tuple[Rule, ...] = ()
    inherits: tuple[str, ...] = ()
    external: str = ""
    locked: bool = False
    hidden: bool = False
    creator_default: bool = False
    builtin: bool = False
    created_at: float
    updated_at: float
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectNamespace:
    """A namespace of a project. `create`: it was made through our API, so the agent makes it if it is not there (and
    takes it only if nobody else made it). `quota` overrides the project's default for a namespace."""

    name: str
    create: bool = False
    quota: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """`quota` is for all namespaces together, `namespace_quota` the default for each: resource -> quantity, as in a
    ResourceQuota's `hard`. `container_limits` and `container_requests`: what a container has that does not say it.
    `isolated`: pods are reached from namespaces of the same project only. A name is unique in its cluster."""

    id: str
    name: str
    cluster_id: str
    cluster_name: str
    description: str = ""
    namespaces: tuple[ProjectNamespace, ...] = ()
    quota: Mapping[str, str] = field(default_factory=dict)
    namespace_quota: Mapping[str, str] = field(default_factory=dict)
    container_limits: Mapping[str, str] = field(default_factory=dict)
    container_requests: Mapping[str, str] = field(default_factory=dict)
    pod_security: PodSecurity | None = None
    isolated: bool = False
    created_at: float
    updated_at: float
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Who is bound. Users and groups by the id and name that they have here; a service account by `name` and
    `namespace` (its cluster is the binding's; global bindings cannot have any)."""

    kind: SubjectKind
    id: str = ""
    name: str
    namespace: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A role for subjects. `role_id` is a GlobalRole's for kind `global`, else a RoleTemplate's of that context.
    `cluster_id` is set for `cluster` and `project` (the project's), `project_id` for `project`. A name is unique among
    the bindings of its kind. From `expires_at` on it gives nothing."""

    id: str
    kind: BindingKind
    name: str
    role_id: str
    role_name: str
    cluster_id: str | None = None
    cluster_name: str | None = None
    project_id: str | None = None
    project_name: str | None = None
    subjects: tuple[Subject, ...] = ()
    expires_at: float | None = None
    reason: str = ""
    builtin: bool = False
    created_by: str = ""
    created_at: float
    updated_at: float
    version: int = 1


@dataclass(frozen=True, slots=True)
class Policy:
    """All of it, by id. What a pure function of the policy is given."""

    global_roles: Mapping[str, GlobalRole] = field(default_factory=dict)
    templates: Mapping[str, RoleTemplate] = field(default_factory=dict)
    projects: Mapping[str, Project] = field(default_factory=dict)
    bindings: Mapping[str, Binding] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PolicyDelta:
    """What one transaction changed. None means that the thing is gone."""

    global_roles: Mapping[str, GlobalRole | None] = field(default_factory=dict)
    templates: Mapping[str, RoleTemplate | None] = field(default_factory=dict)
    projects: Mapping[str, Project | None] = field(default_factory=dict)
    bindings: Mapping[str, Binding | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PolicyFault:
    """An object that could not be applied, and why, as the agent reported it."""

    object: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyStatus:
    """What of the policy is wanted in a cluster, and what its agent says is there. Revision 0 and digest "": nothing
    yet. `profile` is the one that the agent reports ("": it did not yet); `healed` counts the objects put right since
    it began to count."""

    cluster_id: str
    cluster_name: str
    desired_revision: int = 0
    desired_digest: str = ""
    applied_revision: int = 0
    applied_digest: str = ""
    applied_at: float | None = None
    profile: str = ""
    errors: tuple[PolicyFault, ...] = ()
    healed: int = 0
    reported_at: float | None = None
