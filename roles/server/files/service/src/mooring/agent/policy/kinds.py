# SPDX-License-Identifier: Apache-2.0
"""The kinds of objects that a policy is made of, and how one is read.

Objects are read with typed structs, so that of a list of thousands only what is compared is ever held.
It must not: know any other kind. What is not here cannot be asked for, written or deleted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import msgspec

from mooring.kube.transition import Key, Manifest

FIELD_MANAGER: Final = "mooring-policy"
"""Server-side apply knows our fields by it (https://kubernetes.io/docs/reference/using-api/server-side-apply/)."""
LABEL: Final = "mooring.fleet/policy"
SELECTOR: Final = "labelSelector=mooring.fleet%2Fpolicy%3Dtrue"
MADE: Final = "mooring.fleet/made-by"
"""Annotation of a namespace that the agent made for a project."""
NAMESPACE: Final = "Namespace"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind: `parts` are the members that hold its content."""

    name: str
    version: str
    resource: str
    namespaced: bool
    parts: tuple[str, ...]

    def collection(self, namespace: str = "") -> str:
        """The path of all of them, or of those in one namespace."""
        root = "/api/v1" if self.version == "v1" else f"/apis/{self.version}"
        inside = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
        return f"{root}{inside}/{self.resource}"

    def path(self, key: Key) -> str:
        """The path of one."""
        return f"{self.collection(key[1])}/{quote(key[2], safe=':')}"


_RBAC: Final = "rbac.authorization.k8s.io/v1"
KINDS: Final[dict[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("ClusterRole", _RBAC, "clusterroles", False, ("rules", "aggregationRule")),
        Kind("ClusterRoleBinding", _RBAC, "clusterrolebindings", False, ("roleRef", "subjects")),
        Kind("RoleBinding", _RBAC, "rolebindings", True, ("roleRef", "subjects")),
        Kind("ResourceQuota", "v1", "resourcequotas", True, ("spec",)),
        Kind("LimitRange", "v1", "limitranges", True, ("spec",)),
        Kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies", True, ("spec",)),
    )
}
SPACES: Final = Kind(NAMESPACE, "v1", "namespaces", False, ())
BINDINGS: Final = ("ClusterRoleBinding", "RoleBinding")


class Owner(msgspec.Struct):
    """Who wrote fields of an object."""

    manager: str = ""
    operation: str = ""


class Meta(msgspec.Struct):
    """What is read of an object's metadata."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    version: str = msgspec.field(name="resourceVersion", default="")
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    deleted: str | None = msgspec.field(name="deletionTimestamp", default=None)
    owners: list[Owner] = msgspec.field(name="managedFields", default_factory=list)


class Item(msgspec.Struct):
    """An object of any of the kinds, or of only its metadata."""

    metadata: Meta
    rules: Any = None
    aggregation: Any = msgspec.field(name="aggregationRule", default=None)
    role: Any = msgspec.field(name="roleRef", default=None)
    subjects: Any = None
    spec: Any = None

    @property
    def ours(self) -> bool:
        """Whether our field manager applied it."""
        return any(o.manager == FIELD_MANAGER and o.operation == "Apply" for o in self.metadata.owners)

    @property
    def labelled(self) -> bool:
        """Whether it carries the label of policies."""
        return self.metadata.labels.get(LABEL) == "true"

    @property
    def number(self) -> int:
        """Its resource version as a number, to tell older from newer; 0 if it is none."""
        return int(self.metadata.version) if self.metadata.version.isdigit() else 0

    def key(self, kind: Kind) -> Key:
        """What identifies it."""
        return kind.name, self.metadata.namespace if kind.namespaced else "", self.metadata.name

    def manifest(self, kind: Kind) -> Manifest:
        """What of it is compared."""
        meta: Manifest = {"name": self.metadata.name, "labels": self.metadata.labels}
        if kind.namespaced:
            meta["namespace"] = self.metadata.namespace
        if self.metadata.annotations:
            meta["annotations"] = self.metadata.annotations
        found: Manifest = {"apiVersion": kind.version, "kind": kind.name, "metadata": meta}
        parts = {
            "rules": self.rules,
            "aggregationRule": self.aggregation,
            "roleRef": self.role,
            "subjects": self.subjects,
            "spec": self.spec,
        }
        found.update({name: parts[name] for name in kind.parts if parts[name] is not None})
        return found


class ListMeta(msgspec.Struct):
    """Of a list, or of a page of one."""

    version: str = msgspec.field(name="resourceVersion", default="")
    more: str = msgspec.field(name="continue", default="")


class ItemList(msgspec.Struct):
    """A list, or a page of one."""

    metadata: ListMeta
    items: list[Item] | None = None


def title(key: Key) -> str:
    """An object in words: `RoleBinding dev/mooring:edit:always`."""
    kind, namespace, name = key
    return f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"
