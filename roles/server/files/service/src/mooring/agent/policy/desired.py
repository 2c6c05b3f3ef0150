# SPDX-License-Identifier: Apache-2.0
"""What a bundle may say, checked once more in the cluster before anything of it is done.

The server's signature says who wrote the bundle; this says what may be in one at all: the kinds of a policy, with names
that only policies have, in the namespaces of projects. A server that was broken into cannot make the agent write a
workload, a Secret, something in `kube-system`, or a right for `system:masters`.

It must not: take a part of a bundle. One wrong object, and the last good policy stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from mooring.agent.policy.kinds import BINDINGS, KINDS, LABEL
from mooring.kube.transition import Key, Manifest, expires_at
from mooring.lib.errors import MooringError

MAX_OBJECTS: Final = 100_000
_DNS_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAMES: Final = {
    "ClusterRole": re.compile(r"mooring:[A-Za-z0-9._=:-]{1,245}"),
    "ClusterRoleBinding": re.compile(r"mooring:[^/%\x00-\x20\x7f]{1,400}"),
    "RoleBinding": re.compile(r"mooring:[^/%\x00-\x20\x7f]{1,400}"),
    "ResourceQuota": re.compile(r"mooring-[a-z0-9-]{1,50}"),
    "LimitRange": re.compile(r"mooring-[a-z0-9-]{1,50}"),
    "NetworkPolicy": re.compile(r"mooring-[a-z0-9-]{1,50}"),
}
_CONTENT: Final = {kind.name: frozenset(kind.parts) - {"aggregationRule"} for kind in KINDS.values()}
_LABELS: Final = ("mooring.fleet/", "pod-security.kubernetes.io/")


class Unacceptable(MooringError):
    """A bundle says something that no policy may say."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object as it shall be, as JSON: thousands of them are held for as long as the agent runs."""

    body: bytes
    expires_at: float | None

    def manifest(self) -> Manifest:
        """The object."""
        found: Manifest = msgspec.json.decode(self.body)
        return found


@dataclass(frozen=True, slots=True)
class Space:
    """A namespace of a project. `create`: the agent makes it."""

    create: bool
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class Desired:
    """A policy in this cluster. `digest` names the bundle that it came in."""

    revision: int
    digest: str
    objects: dict[Key, Wanted] = field(default_factory=dict)
    spaces: dict[str, Space] = field(default_factory=dict)


def accept(
    revision: int, digest: str, objects: Iterable[Any], namespaces: Iterable[Any], own_namespace: str
) -> Desired:
    """The policy of a bundle. Raises Unacceptable, with the object that may not be in one."""
    spaces: dict[str, Space] = {}
    for entry in namespaces:
        name, space = _space(entry, own_namespace)
        spaces[name] = space
    found: dict[Key, Wanted] = {}
    for item in objects:
        key = _check(item, spaces, own_namespace)
        if key in found:
            raise Unacceptable(f"the policy names {key} twice")
        if len(found) >= MAX_OBJECTS:
            raise Unacceptable(f"the policy has more than {MAX_OBJECTS} objects")
        found[key] = Wanted(msgspec.json.encode(item), expires_at(item) if key[0] in BINDINGS else None)
    return Desired(revision, digest, found, spaces)


def _space(entry: Any, own: str) -> tuple[str, Space]:
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not _is_namespace(name, own):
        raise Unacceptable(f"the policy names a namespace that no project can have: {str(entry)[:200]}")
    labels = entry.get("labels") or {}
    if not isinstance(labels, dict) or not all(
        isinstance(key, str) and isinstance(value, str) and key.startswith(_LABELS) for key, value in labels.items()
    ):
        raise Unacceptable(f"the policy gives the namespace {name} labels that are not its to give")
    return name, Space(entry.get("create") is True, labels)


def _is_namespace(name: str, own: str) -> bool:
    return _DNS_LABEL.fullmatch(name) is not None and not name.startswith("kube-") and name != own


def _check(item: Any, spaces: dict[str, Space], own: str) -> Key:
    """The key of an object that a policy may have. Raises Unacceptable."""
    kind = KINDS.get(item.get("kind", "")) if isinstance(item, dict) else None
    meta = item.get("metadata") if kind is not None else None
    if kind is None or not isinstance(meta, dict) or item.get("apiVersion") != kind.version:
        raise Unacceptable(f"the policy holds what is no part of one: {str(item)[:200]}")
    name, namespace = meta.get("name"), meta.get("namespace", "")
    if not isinstance(name, str) or _NAMES[kind.name].fullmatch(name) is None:
        raise Unacceptable(f"the policy holds a {kind.name} with a name that none of ours has: {str(name)[:200]}")
    where = f"{kind.name} {namespace}/{name}"
    if bool(namespace) != kind.namespaced or (kind.namespaced and namespace not in spaces):
        raise Unacceptable(f"the policy holds {where}, which is in no namespace of a project")
    if (
        not set(meta) <= {"name", "namespace", "labels", "annotations"}
        or (meta.get("labels") or {}).get(LABEL) != "true"
    ):
        raise Unacceptable(f"the policy holds {where} with other metadata than ours")
    if set(item) - {"kind", "apiVersion", "metadata"} - _CONTENT[kind.name]:
        raise Unacceptable(f"the policy holds {where} with more than its kind has in a policy")
    if kind.name in BINDINGS:
        _check_binding(item, where, own)
    return kind.name, namespace, name


def _check_binding(item: Any, where: str, own: str) -> None:
    role = item.get("roleRef")
    if not isinstance(role, dict) or role.get("kind") != "ClusterRole" or not isinstance(role.get("name"), str):
        raise Unacceptable(f"{where} of the policy does not bind to a ClusterRole")
    subjects = item.get("subjects") or []
    for entry in subjects if isinstance(subjects, list) else [None]:
        one = entry if isinstance(entry, dict) else {}
        kind, name = one.get("kind"), one.get("name")
        if not isinstance(name, str) or not name or kind not in ("User", "Group", "ServiceAccount"):
            raise Unacceptable(f"{where} of the policy has a subject that is none")
        if kind != "ServiceAccount" and name.startswith("system:"):
            raise Unacceptable(f"{where} of the policy binds {name}, which is Kubernetes' own")
        if kind == "ServiceAccount" and one.get("namespace") == own:
            raise Unacceptable(f"{where} of the policy binds a service account of the agent's own namespace")
