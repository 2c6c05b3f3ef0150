# SPDX-License-Identifier: Apache-2.0
"""The roles that every server has, with fixed ids, and the binding of the group `admins` to the role `admin`.

Why: people who ran such a system before look for these names, and our own API is authorised by them and by nothing
else. Nobody can change or delete them; `docs/roles.md` is written from them by `make roles`.

Some rules give more than they seem to, and the description of each role that has one says so: `pods/exec` and making
workloads (whoever starts a pod can mount every secret and act as every service account of its namespace), secrets,
`serviceaccounts/token`, making PersistentVolumes (a hostPath reaches the node's disk), and changing nodes. No role but
`admin` and the cluster owner has `nodes/proxy`, `impersonate`, `bind` or `escalate`.

It must not: depend on a store, or hold a rule that its description does not tell.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from mooring.policy.rules import ALL, EVERYTHING, normal
from mooring.store.policies import (
    OWN_GROUP,
    Binding,
    Context,
    GlobalRole,
    Policy,
    PolicyDelta,
    RoleTemplate,
    Rule,
    Subject,
)
from mooring.store.records import ADMIN_GROUP_ID

ADMIN: Final = "admin"
ADMINS_BINDING: Final = "admins"
CLUSTER_OWNER: Final = "cluster-owner"
PROJECT_OWNER: Final = "project-owner"

GLOBAL_ROLE_PREFIX: Final = "gr"
TEMPLATE_PREFIX: Final = "rt"
PROJECT_PREFIX: Final = "p"
BINDING_PREFIX: Final = "b"

_MANAGE: Final = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_VIEW: Final = ("get", "list", "watch")
_OWN_ALL: Final = ("create", "delete", "get", "list", "update")
_OWN_VIEW: Final = ("get", "list")


def role_id(name: str) -> str:
    """The id of the built-in global role."""
    return _id(GLOBAL_ROLE_PREFIX, name)


def template_id(name: str) -> str:
    """The id of the built-in template."""
    return _id(TEMPLATE_PREFIX, name)


def _id(prefix: str, name: str) -> str:
    """Of the form of all ids, and the same on every server."""
    digest = hashlib.sha256(f"mooring built-in {prefix} {name}".encode()).digest()
    return f"{prefix}-{base64.b32encode(digest).decode().lower()[:12]}"


def _own(verbs: Iterable[str], *resources: str) -> Rule:
    return Rule(verbs=tuple(verbs), api_groups=(OWN_GROUP,), resources=resources)


def _kube(verbs: Iterable[str], group: str, *resources: str) -> Rule:
    return Rule(verbs=tuple(verbs), api_groups=(group,), resources=resources)


def _role(
    name: str,
    title: str,
    description: str,
    *own: Rule,
    cluster_rules: tuple[Rule, ...] = (),
    new_user_default: bool = False,
) -> GlobalRole:
    return GlobalRole(
        id=role_id(name),
        name=name,
        display_name=title,
        description=description,
        rules=normal(own),
        cluster_rules=normal(cluster_rules),
        new_user_default=new_user_default,
        builtin=True,
        created_at=0.0,
        updated_at=0.0,
    )


def _template(
    context: Context,
    name: str,
    title: str,
    description: str,
    *held: Rule,
    inherits: tuple[str, ...] = (),
    creator_default: bool = False,
) -> RoleTemplate:
    return RoleTemplate(
        id=template_id(name),
        name=name,
        display_name=title,
        description=description,
        context=context,
        rules=normal(held),
        inherits=tuple(sorted(template_id(other) for other in inherits)),
        creator_default=creator_default,
        builtin=True,
        created_at=0.0,
        updated_at=0.0,
    )


# --- global roles ---------------------------------------------------------------------------------------------------

_SEE_ROLES: Final = _own(_OWN_VIEW, "globalroles", "roletemplates")

GLOBAL_ROLES: Final = (
    _role(
        ADMIN,
        "Administrator",
        "May do everything on the server and in every cluster. The group admins is bound to it.",
        _own((ALL,), ALL),
        cluster_rules=EVERYTHING,
    ),
    _role(
        "user",
        "Standard user",
        "May make clusters, of which they become owner, and see which roles there are.",
        _SEE_ROLES,
        _own(("create",), "clusters"),
    ),
    _role(
        "user-base",
        "Base user",
        "May log in, use what bindings give, and see which roles there are. Each new user is bound to it.",
        _SEE_ROLES,
        new_user_default=True,
    ),
    _role(
        "clusters-create",
        "Create clusters",
        "May make clusters; who makes one becomes its owner.",
        _own(("create",), "clusters"),
    ),
    _role(
        "users-manage",
        "Manage users",
        "May make, change and delete users and groups and revoke tokens; not of those who hold more than they do, and "
        "no group that is bound to more. Nobody can take over an administrator with it.",
        _SEE_ROLES,  # each new user gets these by user-base, so who makes users must hold them
        _own(_OWN_ALL, "groups", "users"),
        _own(("delete", "get", "list"), "tokens"),
    ),
    _role(
        "roles-manage",
        "Manage roles",
        "May make, change and delete roles of their own making, with no rule that they do not hold everywhere "
        "themselves: it has neither escalate nor bind.",
        _own(_OWN_ALL, "globalroles", "roletemplates"),
    ),
    _role(
        "settings-manage",
        "Manage settings",
        "May read and change the settings of the server.",
        _own(("get", "list", "update"), "settings"),
    ),
    _role(
        "audit-view",
        "View audit",
        "May read the audit records, which name users, clusters and paths.",
        _own(_OWN_VIEW, "audit"),
    ),
)

# --- what templates are made of -------------------------------------------------------------------------------------

_SEE_CLUSTER: Final = _own(("enter", "get", "list"), "clusters")
_SEE_PROJECT: Final = _own(_OWN_VIEW, "projects", "namespaces")

_CORE_VIEW: Final = (
    "configmaps",
    "endpoints",
    "events",
    "limitranges",
    "persistentvolumeclaims",
    "persistentvolumeclaims/status",
    "pods",
    "pods/log",
    "pods/status",
    "podtemplates",
    "replicationcontrollers",
    "replicationcontrollers/scale",
    "replicationcontrollers/status",
    "resourcequotas",
    "resourcequotas/status",
    "serviceaccounts",
    "services",
    "services/status",
)
_WORKLOADS: Final = (
    _kube(_MANAGE, "", "pods", "podtemplates", "replicationcontrollers", "replicationcontrollers/scale"),
    _kube(("create",), "", "pods/eviction"),
    _kube(("get",), "", "pods/log", "pods/status", "replicationcontrollers/status"),
    _kube(_VIEW, "", "events"),
    _kube(_VIEW, "events.k8s.io", "events"),
    _kube(
        _MANAGE,
        "apps",
        *("controllerrevisions", "daemonsets", "deployments", "deployments/rollback", "deployments/scale"),
        *("replicasets", "replicasets/scale", "statefulsets", "statefulsets/scale"),
    ),
    _kube(_MANAGE, "batch", "cronjobs", "jobs"),
    _kube(_MANAGE, "autoscaling", "horizontalpodautoscalers"),
    _kube(_MANAGE, "policy", "poddisruptionbudgets"),
    _kube(_VIEW, "metrics.k8s.io", "pods"),
)
_WORKLOADS_VIEW: Final = (
    *(
        _kube(_VIEW, "", *names)
        for names in (
            ("events", "pods", "pods/log", "pods/status", "podtemplates"),
            ("replicationcontrollers", "replicationcontrollers/scale", "replicationcontrollers/status"),
        )
    ),
    _kube(_VIEW, "events.k8s.io", "events"),
    _kube(_VIEW, "apps", ALL),
    _kube(_VIEW, "batch", ALL),
    _kube(_VIEW, "autoscaling", ALL),
    _kube(_VIEW, "policy", ALL),
    _kube(_VIEW, "metrics.k8s.io", "pods"),
)
_SHARED_VIEW: Final = (
    _kube(_VIEW, "", *_CORE_VIEW),
    _kube(_VIEW, "discovery.k8s.io", "endpointslices"),
    _kube(_VIEW, "networking.k8s.io", "ingresses", "ingresses/status", "networkpolicies"),
    _kube(_VIEW, "rbac.authorization.k8s.io", "rolebindings", "roles"),
    *_WORKLOADS_VIEW,
)
"""Reading in a namespace. No secrets, no exec, attach, port-forward or proxy; nothing of groups that others define,
since nobody knows what those hold."""

_MAKES_PODS: Final = (
    "Whoever can start pods can, through a pod, read every secret and act as every service account of the namespace."
)

# --- templates of a cluster -----------------------------------------------------------------------------------------

_CLUSTER_TEMPLATES: Final = (
    _template(
        "cluster",
        CLUSTER_OWNER,
        "Cluster owner",
        "May do everything in the cluster (also exec, secrets, nodes/proxy, impersonate, bind and escalate) and manage "
        "it here: its projects, bindings, nodes, backups and join tokens. Who makes a cluster is bound to it.",
        *EVERYTHING,
        _own(("delete", "enter", "get", "list", "update"), "clusters"),
        _own(
            _OWN_ALL,
            *("backups", "clusterbindings", "jointokens", "memberships", "namespaces", "nodes", "projectbindings"),
            "projects",
        ),
        _own(_OWN_VIEW, "metrics", "policystatus", "roletemplates"),
        creator_default=True,
    ),
    _template(
        "cluster",
        "cluster-member",
        "Cluster member",
        "May see nodes, storage and namespaces of the cluster and make projects, of which they become owner. Sees "
        "nothing that runs in namespaces of others.",
        _SEE_CLUSTER,
        _kube(_VIEW, "", "namespaces"),
        inherits=("nodes-view", "projects-create", "storage-view"),
    ),
    _template(
        "cluster",
        "cluster-viewer",
        "Cluster viewer",
        "May read everything of Kubernetes' own in the cluster (also pods' logs) but secrets, and nothing of custom "
        "resources. Cannot exec, attach, forward ports or use a proxy of pods, services or nodes.",
        _SEE_CLUSTER,
        _own(_OWN_VIEW, "backups", "clusterbindings", "memberships", "metrics", "policystatus", "projectbindings"),
        *_SHARED_VIEW,
        _kube(_VIEW, "", "componentstatuses", "namespaces/status"),
        _kube(_VIEW, "admissionregistration.k8s.io", ALL),
        _kube(_VIEW, "apiextensions.k8s.io", "customresourcedefinitions", "customresourcedefinitions/status"),
        _kube(_VIEW, "apiregistration.k8s.io", "apiservices", "apiservices/status"),
        _kube(_VIEW, "certificates.k8s.io", "certificatesigningrequests", "certificatesigningrequests/status"),
        _kube(_VIEW, "coordination.k8s.io", "leases"),
        _kube(_VIEW, "flowcontrol.apiserver.k8s.io", ALL),
        _kube(_VIEW, "networking.k8s.io", "ingressclasses", "ipaddresses", "servicecidrs"),
        _kube(_VIEW, "node.k8s.io", "runtimeclasses"),
        _kube(_VIEW, "rbac.authorization.k8s.io", "clusterrolebindings", "clusterroles"),
        _kube(_VIEW, "scheduling.k8s.io", "priorityclasses"),
        inherits=("nodes-view", "projects-view", "storage-view"),
    ),
    _template(
        "cluster",
        "nodes-manage",
        "Manage nodes",
        "May change, cordon, drain and delete nodes, and evict pods for it. Labels and taints of nodes decide where "
        "pods run, so it can move any workload. No nodes/proxy.",
        _own(_OWN_ALL, "nodes"),
        _kube(_MANAGE, "", "nodes"),
        _kube(_VIEW, "", "pods"),
        _kube(("create",), "", "pods/eviction"),
        _kube(("get", "list"), "apps", "daemonsets"),
        inherits=("nodes-view",),
    ),
    _template(
        "cluster",
        "nodes-view",
        "View nodes",
        "May read nodes, their state and what they use.",
        _SEE_CLUSTER,
        _own(_OWN_VIEW, "nodes"),
        _kube(_VIEW, "", "nodes", "nodes/status"),
        _kube(_VIEW, "metrics.k8s.io", "nodes"),
    ),
    _template(
        "cluster",
        "storage-manage",
        "Manage storage",
        "May manage persistent volumes, storage classes and snapshots. Whoever can make a PersistentVolume can, "
        "together with a claim and a pod, reach the disk of a node through a hostPath.",
        _kube(_MANAGE, "", "persistentvolumes"),
        _kube(_MANAGE, "storage.k8s.io", "csidrivers", "csinodes", "storageclasses", "volumeattachments"),
        _kube(_MANAGE, "storage.k8s.io", "csistoragecapacities", "volumeattributesclasses"),
        _kube(_MANAGE, "snapshot.storage.k8s.io", "volumesnapshotclasses", "volumesnapshotcontents", "volumesnapshots"),
        inherits=("storage-view",),
    ),
    _template(
        "cluster",
        "storage-view",
        "View storage",
        "May read persistent volumes, claims, storage classes and snapshots.",
        _SEE_CLUSTER,
        _kube(_VIEW, "", "persistentvolumeclaims", "persistentvolumes"),
        _kube(_VIEW, "storage.k8s.io", ALL),
        _kube(_VIEW, "snapshot.storage.k8s.io", "volumesnapshotclasses", "volumesnapshotcontents", "volumesnapshots"),
    ),
    _template(
        "cluster",
        "cluster-bindings-manage",
        "Manage bindings of the cluster",
        "May bind users and groups to roles in the cluster and its projects, each to no more than they hold there "
        "themselves. It writes no RBAC objects of Kubernetes.",
        _own(_OWN_ALL, "clusterbindings", "memberships", "projectbindings"),
        inherits=("cluster-bindings-view",),
    ),
    _template(
        "cluster",
        "cluster-bindings-view",
        "View bindings of the cluster",
        "May read who is bound to which role in the cluster and its projects, here and in Kubernetes.",
        _SEE_CLUSTER,
        _own(_OWN_VIEW, "clusterbindings", "memberships", "policystatus", "projectbindings", "roletemplates"),
        _kube(_VIEW, "rbac.authorization.k8s.io", "clusterrolebindings", "clusterroles", "rolebindings", "roles"),
    ),
    _template(
        "cluster",
        "backups-manage",
        "Manage backups",
        "May make, restore and delete backups of the cluster here. A backup holds all secrets of the cluster.",
        _SEE_CLUSTER,
        _own(_OWN_ALL, "backups"),
    ),
    _template(
        "cluster",
        "projects-create",
        "Create projects",
        "May make projects in the cluster; who makes one becomes its owner. Its namespaces are made new: taking "
        "namespaces that are there already into a project needs the rights of a project owner in them.",
        _SEE_CLUSTER,
        _own(("create",), "projects"),
    ),
    _template(
        "cluster",
        "projects-view",
        "View projects",
        "May read all projects of the cluster, their namespaces and quotas.",
        _SEE_CLUSTER,
        _SEE_PROJECT,
        _kube(_VIEW, "", "limitranges", "namespaces", "resourcequotas"),
    ),
)

# --- templates of a project -----------------------------------------------------------------------------------------

_PROJECT_TEMPLATES: Final = (
    _template(
        "project",
        PROJECT_OWNER,
        "Project owner",
        "May do everything with Kubernetes' own resources in the namespaces of the project, also exec, attach, "
        "port-forward, secrets and tokens of service accounts, and manage the project's namespaces and bindings here. "
        "Cannot change quotas of the project, pod security, or the objects by which they are kept. Who makes a project "
        "is bound to it.",
        _own(("get", "list", "update"), "projects"),
        _own(_OWN_ALL, "namespaces", "projectbindings"),
        _own(_OWN_VIEW, "policystatus", "roletemplates"),
        _kube(("create", "get"), "", "pods/attach", "pods/exec", "pods/portforward"),
        _kube(("create", "delete", "get", "patch", "update"), "", "pods/proxy", "services/proxy"),
        _kube(("get", "patch", "update"), "", "pods/ephemeralcontainers"),
        _kube(("create",), "", "serviceaccounts/token"),
        _kube(_MANAGE, "", "endpoints", "events"),
        _kube(_MANAGE, "coordination.k8s.io", "leases"),
        _kube(_MANAGE, "events.k8s.io", "events"),
        _kube(_MANAGE, "rbac.authorization.k8s.io", "rolebindings", "roles"),
        _kube(("create",), "authorization.k8s.io", "localsubjectaccessreviews"),
        creator_default=True,
        inherits=("project-member", "project-bindings-manage", "namespaces-create", "serviceaccounts-manage"),
    ),
    _template(
        "project",
        "project-member",
        "Project member",
        f"May manage workloads, services, ingresses, config maps, secrets and volumes of the project; no exec. "
        f"{_MAKES_PODS}",
        inherits=(
            *("configmaps-manage", "ingress-manage", "project-read-only", "secrets-manage", "services-manage"),
            *("volumes-manage", "workloads-manage"),
        ),
    ),
    _template(
        "project",
        "project-read-only",
        "Project read-only",
        "May read everything of Kubernetes' own in the namespaces of the project (also pods' logs) but secrets. No "
        "exec, attach, port-forward or proxy.",
        _SEE_PROJECT,
        _own(_OWN_VIEW, "projectbindings"),
        *_SHARED_VIEW,
        _kube(_VIEW, "", "namespaces"),
    ),
    _template(
        "project",
        "namespaces-create",
        "Create namespaces",
        "May make new namespaces in the project, within its quota.",
        _SEE_PROJECT,
        _own(("create",), "namespaces"),
    ),
    _template(
        "project",
        "workloads-manage",
        "Manage workloads",
        f"May manage pods, deployments, jobs and the like, and read their logs; no exec. {_MAKES_PODS}",
        *_WORKLOADS,
        inherits=("workloads-view",),
    ),
    _template(
        "project",
        "workloads-view",
        "View workloads",
        "May read pods, their logs, deployments, jobs and the like.",
        _SEE_PROJECT,
        *_WORKLOADS_VIEW,
    ),
    _template(
        "project",
        "services-manage",
        "Manage services",
        "May manage services. Where traffic of the namespace goes is theirs to say.",
        _kube(_MANAGE, "", "services"),
        inherits=("services-view",),
    ),
    _template(
        "project",
        "services-view",
        "View services",
        "May read services and their endpoints.",
        _SEE_PROJECT,
        _kube(_VIEW, "", "endpoints", "services", "services/status"),
        _kube(_VIEW, "discovery.k8s.io", "endpointslices"),
    ),
    _template(
        "project",
        "ingress-manage",
        "Manage ingresses",
        "May manage ingresses and network policies: what the namespaces show to the outside, and to each other.",
        _kube(_MANAGE, "networking.k8s.io", "ingresses", "networkpolicies"),
        inherits=("ingress-view",),
    ),
    _template(
        "project",
        "ingress-view",
        "View ingresses",
        "May read ingresses and network policies.",
        _SEE_PROJECT,
        _kube(_VIEW, "networking.k8s.io", "ingresses", "ingresses/status", "networkpolicies"),
    ),
    _template(
        "project",
        "configmaps-manage",
        "Manage config maps",
        "May manage config maps, and so change what programs that read them do.",
        _kube(_MANAGE, "", "configmaps"),
        inherits=("configmaps-view",),
    ),
    _template(
        "project",
        "configmaps-view",
        "View config maps",
        "May read config maps.",
        _SEE_PROJECT,
        _kube(_VIEW, "", "configmaps"),
    ),
    _template(
        "project",
        "secrets-manage",
        "Manage secrets",
        "May read and write all secrets. With one of the type service-account-token they can act as any service "
        "account of the namespace.",
        _kube(_MANAGE, "", "secrets"),
        inherits=("secrets-view",),
    ),
    _template(
        "project",
        "secrets-view",
        "View secrets",
        "May read all secrets, tokens of service accounts among them, and so act as those.",
        _SEE_PROJECT,
        _kube(_VIEW, "", "secrets"),
    ),
    _template(
        "project",
        "volumes-manage",
        "Manage volumes",
        "May manage claims of persistent volumes, and snapshots of them.",
        _kube(_MANAGE, "", "persistentvolumeclaims"),
        _kube(_MANAGE, "snapshot.storage.k8s.io", "volumesnapshots"),
        inherits=("volumes-view",),
    ),
    _template(
        "project",
        "volumes-view",
        "View volumes",
        "May read claims of persistent volumes, and snapshots of them.",
        _SEE_PROJECT,
        _kube(_VIEW, "", "persistentvolumeclaims", "persistentvolumeclaims/status"),
        _kube(_VIEW, "snapshot.storage.k8s.io", "volumesnapshots"),
    ),
    _template(
        "project",
        "serviceaccounts-manage",
        "Manage service accounts",
        "May make, change and delete service accounts; cannot ask for their tokens.",
        _kube(_MANAGE, "", "serviceaccounts"),
        inherits=("serviceaccounts-view",),
    ),
    _template(
        "project",
        "serviceaccounts-view",
        "View service accounts",
        "May read service accounts, not their tokens.",
        _SEE_PROJECT,
        _kube(_VIEW, "", "serviceaccounts"),
    ),
    _template(
        "project",
        "project-bindings-manage",
        "Manage bindings of the project",
        "May bind users, groups and the project's service accounts to roles in the project, each to no more than they "
        "hold there themselves. It writes no RBAC objects of Kubernetes.",
        _own(_OWN_ALL, "projectbindings"),
        inherits=("project-bindings-view",),
    ),
    _template(
        "project",
        "project-bindings-view",
        "View bindings of the project",
        "May read who is bound to which role in the project, here and in Kubernetes.",
        _SEE_PROJECT,
        _own(_OWN_VIEW, "policystatus", "projectbindings", "roletemplates"),
        _kube(_VIEW, "rbac.authorization.k8s.io", "rolebindings", "roles"),
    ),
)

TEMPLATES: Final = (*_CLUSTER_TEMPLATES, *_PROJECT_TEMPLATES)

BINDINGS: Final = (
    Binding(
        id=_id(BINDING_PREFIX, ADMINS_BINDING),
        kind="global",
        name=ADMINS_BINDING,
        role_id=role_id(ADMIN),
        role_name=ADMIN,
        subjects=(Subject(kind="group", id=ADMIN_GROUP_ID, name="admins"),),
        reason="built in: the members of the group admins are the administrators",
        builtin=True,
        created_at=0.0,
        updated_at=0.0,
    ),
)


def policy() -> Policy:
    """The policy of a new server."""
    return Policy(
        global_roles={role.id: role for role in GLOBAL_ROLES},
        templates={template.id: template for template in TEMPLATES},
        bindings={binding.id: binding for binding in BINDINGS},
    )


def delta(held: Policy) -> PolicyDelta:
    """What must be written so that the store has these roles as this version of the server means them.

    What administrators may set on built-in roles (`new_user_default`, `creator_default`, `locked`, `hidden`) stays. A
    role that a version no longer has stays too: bindings may rest on it; a migration says what becomes of those.
    """
    ours = policy()
    return PolicyDelta(
        global_roles={
            role.id: _kept_role(held.global_roles.get(role.id), role)
            for role in GLOBAL_ROLES
            if not _same_role(held.global_roles.get(role.id), role)
        },
        templates={
            template.id: _kept_template(held.templates.get(template.id), template)
            for template in TEMPLATES
            if not _same_template(held.templates.get(template.id), template)
        },
        bindings={b.id: b for b in ours.bindings.values() if b.id not in held.bindings},
    )


def _kept_role(held: GlobalRole | None, ours: GlobalRole) -> GlobalRole:
    return ours if held is None else replace(ours, new_user_default=held.new_user_default)


def _kept_template(held: RoleTemplate | None, ours: RoleTemplate) -> RoleTemplate:
    if held is None:
        return ours
    return replace(ours, locked=held.locked, hidden=held.hidden, creator_default=held.creator_default)


def _same_role(held: GlobalRole | None, ours: GlobalRole) -> bool:
    return held is not None and (
        held.name,
        held.display_name,
        held.description,
        held.rules,
        held.cluster_rules,
        dict(held.cluster_selector),
        held.builtin,
    ) == (
        ours.name,
        ours.display_name,
        ours.description,
        ours.rules,
        ours.cluster_rules,
        dict(ours.cluster_selector),
        ours.builtin,
    )


def _same_template(held: RoleTemplate | None, ours: RoleTemplate) -> bool:
    return held is not None and (
        held.name,
        held.display_name,
        held.description,
        held.context,
        held.rules,
        held.inherits,
        held.external,
        held.builtin,
    ) == (
        ours.name,
        ours.display_name,
        ours.description,
        ours.context,
        ours.rules,
        ours.inherits,
        ours.external,
        ours.builtin,
    )
