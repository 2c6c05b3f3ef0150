# SPDX-License-Identifier: Apache-2.0
"""What the objects of the import manifest are built with: names and labels, accounts, roles and bindings."""

from __future__ import annotations

from typing import Any, Final, Literal

from mooring.kube.names import AGENT
from mooring.lib.version import VERSION

Manifest = dict[str, Any]

RBAC: Final = "rbac.authorization.k8s.io"
MARKS: Final = {"app.kubernetes.io/name": AGENT, "app.kubernetes.io/part-of": "mooring"}
"""Labels of what the agent itself makes."""


def labels() -> dict[str, str]:
    """What every object of the manifest carries."""
    return {**MARKS, "app.kubernetes.io/version": VERSION}


def meta(name: str, namespace: str | None = None) -> Manifest:
    """Metadata; without a namespace that of an object of the cluster."""
    found: Manifest = {"name": name, "labels": labels()}
    if namespace is not None:
        found["namespace"] = namespace
    return found


def service_account(namespace: str, name: str, about: str) -> Manifest:
    """A service account. Pods get a token only where they ask for it: the agent's Deployment does."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {**meta(name, namespace), "annotations": {"mooring.fleet/description": about}},
        "automountServiceAccountToken": False,
    }


def subject(namespace: str, name: str) -> Manifest:
    """A service account as a subject."""
    return {"kind": "ServiceAccount", "name": name, "namespace": namespace}


def role(kind: Literal["Role", "ClusterRole"], metadata: Manifest, rules: list[Manifest]) -> Manifest:
    """A role."""
    return {"apiVersion": f"{RBAC}/v1", "kind": kind, "metadata": metadata, "rules": rules}


def binding(kind: str, metadata: Manifest, role_kind: str, role_name: str, who: Manifest) -> Manifest:
    """A binding of one subject."""
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": kind,
        "metadata": metadata,
        "roleRef": {"apiGroup": RBAC, "kind": role_kind, "name": role_name},
        "subjects": [who],
    }


def rule(groups: list[str], resources: list[str], verbs: list[str], names: list[str] | None = None) -> Manifest:
    """A rule of a role, for these objects only if names are given."""
    found: Manifest = {"apiGroups": groups, "resources": resources}
    if names is not None:
        found["resourceNames"] = names
    return {**found, "verbs": verbs}
