# SPDX-License-Identifier: Apache-2.0
"""Tables: what the built-in roles give, verb by resource, written by hand; and whether an API server says the same.

They are not taken from the policy's own evaluator. Whoever asks does so as a user, on whatever road the user takes: a
test hands in the call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
GROUPS = {
    **dict.fromkeys(("deployments",), "apps"),
    **dict.fromkeys(("ingresses",), "networking.k8s.io"),
    **dict.fromkeys(("rolebindings",), "rbac.authorization.k8s.io"),
    **dict.fromkeys(("storageclasses",), "storage.k8s.io"),
}


def words(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.split(","))


# What each part of a role gives; a probe is `verb resource`.
WORKLOADS = words("get pods, get pods/log, get deployments")
PROJECT_VIEW = WORKLOADS | words(
    "get services, get ingresses, get configmaps, get persistentvolumeclaims, get serviceaccounts, get rolebindings,"
    "list namespaces"
)
MAKE_WORKLOADS = WORKLOADS | words("create pods, create deployments")
MEMBER = (
    PROJECT_VIEW
    | MAKE_WORKLOADS
    | words("create services, create ingresses, create configmaps, create persistentvolumeclaims")
    | words("get secrets, create secrets")
)
OWNER = MEMBER | words("create rolebindings, create serviceaccounts, create serviceaccounts/token, create pods/exec")
NODES = words("get nodes")
STORAGE = words("get persistentvolumes, get persistentvolumeclaims, get storageclasses")
CLUSTER_VIEW = PROJECT_VIEW | NODES | STORAGE
OTHERS = words(
    "patch nodes, create persistentvolumes, create storageclasses, create namespaces, get nodes/proxy,impersonate users"
)
PROBES = sorted(OWNER | CLUSTER_VIEW | OTHERS)
ALL = frozenset(PROBES)

IN_PROJECT: dict[str, frozenset[str]] = {
    "project-owner": OWNER,
    "project-member": MEMBER,
    "project-read-only": PROJECT_VIEW,
    "namespaces-create": frozenset(),
    "workloads-manage": MAKE_WORKLOADS,
    "workloads-view": WORKLOADS,
    "services-manage": words("get services, create services"),
    "services-view": words("get services"),
    "ingress-manage": words("get ingresses, create ingresses"),
    "ingress-view": words("get ingresses"),
    "configmaps-manage": words("get configmaps, create configmaps"),
    "configmaps-view": words("get configmaps"),
    "secrets-manage": words("get secrets, create secrets"),
    "secrets-view": words("get secrets"),
    "volumes-manage": words("get persistentvolumeclaims, create persistentvolumeclaims"),
    "volumes-view": words("get persistentvolumeclaims"),
    "serviceaccounts-manage": words("get serviceaccounts, create serviceaccounts"),
    "serviceaccounts-view": words("get serviceaccounts"),
    "project-bindings-manage": words("get rolebindings"),
    "project-bindings-view": words("get rolebindings"),
}
IN_CLUSTER: dict[str, frozenset[str]] = {
    "cluster-owner": ALL,
    "cluster-member": NODES | STORAGE | words("list namespaces"),
    "cluster-viewer": CLUSTER_VIEW,
    "nodes-manage": NODES | words("patch nodes, get pods"),
    "nodes-view": NODES,
    "storage-manage": STORAGE | words("create persistentvolumes, create storageclasses"),
    "storage-view": STORAGE,
    "cluster-bindings-manage": words("get rolebindings"),
    "cluster-bindings-view": words("get rolebindings"),
    "backups-manage": frozenset(),
    "projects-create": frozenset(),
    "projects-view": words("list namespaces"),
}
GLOBAL: dict[str, frozenset[str] | None] = {
    "admin": ALL,
    "user": None,  # no way into a cluster
    "user-base": None,
    "clusters-create": None,
    "users-manage": None,
    "roles-manage": None,
    "settings-manage": None,
    "audit-view": None,
}


Ask = Callable[[str, str, Any], tuple[int, Any]]
"""(method, path, body) -> (status, answer), as one user in one cluster."""


def may(ask: Ask, probe: str, namespace: str) -> bool | None:
    """What the API server says to the user about itself; None: it does not let the user in."""
    verb, _space, resource = probe.partition(" ")
    resource, _slash, subresource = resource.partition("/")
    asked = {"verb": verb, "resource": resource, "subresource": subresource, "namespace": namespace}
    asked["group"] = GROUPS.get(resource, "")
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    status, seen = ask("POST", REVIEWS, review)
    if status in (401, 403):
        return None
    assert status == 201, (probe, status)
    return bool(seen["status"]["allowed"])


def differences(ask: Ask, namespace: str, expected: frozenset[str]) -> list[str]:
    """Where the API server says something else than the table."""
    return [
        f"{namespace}: {probe}: {'missing' if probe in expected else 'too much'}"
        for probe in PROBES
        if may(ask, probe, namespace) is not (probe in expected)
    ]
