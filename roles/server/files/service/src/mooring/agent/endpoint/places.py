# SPDX-License-Identifier: Apache-2.0
"""Where the cluster's own API server is, for people outside: its control-plane nodes, and the port on them.

Looked at once in a while and not watched: a node object is 15 KB and says something every few minutes, and an address
of a control plane hardly ever changes. A hosted cluster has no such nodes; then there is nothing to say.
It must not: say more of a node than name and address, or hold more than `MOST` of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, TypeVar

import msgspec

from mooring.kube.client import KubeApi, KubeError, message_of

MOST: Final = 32
"""Nodes."""
DEFAULT_PORT: Final = 6443
_LABELS: Final = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")
_SLICE: Final = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"
_KINDS: Final = ("ExternalIP", "InternalIP")
"""The first that a node has is taken."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """A node and where the API server on it listens."""

    name: str
    host: str
    port: int


class _Address(msgspec.Struct):
    type: str = ""
    address: str = ""


class _Meta(msgspec.Struct):
    name: str = ""


class _Status(msgspec.Struct):
    addresses: list[_Address] = []


class _Node(msgspec.Struct):
    metadata: _Meta
    status: _Status


class _Nodes(msgspec.Struct):
    items: list[_Node] | None = None


class _Port(msgspec.Struct):
    name: str | None = None
    port: int | None = None


class _Slice(msgspec.Struct):
    ports: list[_Port] | None = None


async def places(kube: KubeApi) -> list[Place]:
    """The control-plane nodes by name. Raises KubeError, FetchError, BadConfig."""
    nodes: list[_Node] = []
    for label in _LABELS:
        found = await _get(kube, f"/api/v1/nodes?labelSelector={label.replace('/', '%2F')}&limit={MOST}", _Nodes)
        nodes = list(found.items or ()) if found is not None else []
        if nodes:
            break
    if not nodes:
        return []
    port = await _port(kube)
    made = [Place(node.metadata.name, host, port) for node in nodes if (host := _host(node))]
    return sorted(made[:MOST], key=lambda place: place.name)


async def _port(kube: KubeApi) -> int:
    found = await _get(kube, _SLICE, _Slice)
    for port in (found.ports if found is not None else None) or ():
        if port.name == "https" and port.port is not None and 0 < port.port < 65536:
            return port.port
    return DEFAULT_PORT


def _host(node: _Node) -> str:
    for kind in _KINDS:
        for entry in node.status.addresses:
            if entry.type == kind and _is_address(entry.address):
                return entry.address
    return ""


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


async def _get(kube: KubeApi, path: str, kind: type[T]) -> T | None:
    answer = await kube.call("GET", path)
    if answer.status == 404:
        return None
    if answer.status != 200:
        raise KubeError(answer.status, f"{path.split('?')[0]}: {message_of(answer)}")
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except msgspec.MsgspecError:
        raise KubeError(502, f"{path.split('?')[0]}: the answer is not what it should be") from None
