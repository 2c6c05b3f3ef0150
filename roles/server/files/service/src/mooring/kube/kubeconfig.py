# SPDX-License-Identifier: Apache-2.0
"""Kubeconfig documents: which contexts a file of ours has, what they are called, and which entries are ours.

    <cluster>          through the server
    <cluster>-fqdn     straight to the cluster, by the name that people gave its endpoint
    <cluster>-<node>   straight to the API server of one control plane

A cluster has one user for the way through the server and one for all direct ways, since tokens are of two kinds.
Each entry bears the extension MARK, which says from which server and for which cluster it is, so that whoever merges
files can tell ours from others'.

Names of nodes come from the cluster, so they are not to be trusted: one that is no DNS name gives no context, and none
takes the name of another.

It must not: know where clusters or tokens are kept, or make a token.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

Kind = Literal["proxy", "fqdn", "node"]
MARK: Final = "mooring.fleet"
"""Name of the extension of our entries: `{server: <URL of the Mooring server>, cluster: <name of the cluster>}`."""

_ORDER: Final[dict[Kind, int]] = {"proxy": 0, "fqdn": 1, "node": 2}
_HOST: Final = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
_NODE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_MAX_NAME: Final = 253


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One way to the API of a cluster. `ca_pem` empty: clients use the CAs of their system. `node`: its name, of a
    place that is a node."""

    kind: Kind
    cluster: str
    server: str
    ca_pem: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True)
class Context:
    """A place under the name that it has in a file. `user` names the credential that goes with it."""

    name: str
    user: str
    place: Place


def https(host: str, port: int | None = None) -> str | None:
    """The URL of a host (name or address) that something reported; None: it is no host, or no port."""
    if ":" in host:
        try:
            host = f"[{ipaddress.IPv6Address(host)}]"
        except ValueError:
            return None
        if "%" in host:  # of a network of this machine only
            return None
    elif len(host) > _MAX_NAME or not _HOST.fullmatch(host):
        return None
    if port is not None and not 0 < port < 65536:
        return None
    return f"https://{host}" + ("" if port is None or port == 443 else f":{port}")


def https_of(address: str) -> str | None:
    """The URL of `host`, `host:port`, `[address]:port` or `https://` and one of these; None: it is none of them."""
    if not address.isascii() or not address.isprintable():  # urlsplit drops line feeds and tabs
        return None
    try:
        parts = urlsplit(address if "://" in address else f"https://{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme != "https" or not host or parts.username is not None or parts.path not in ("", "/"):
        return None
    return None if parts.query or parts.fragment else https(host, port)


def contexts(places: Iterable[Place], *, prefix: str = "", taken: Collection[str] = ()) -> list[Context]:
    """The contexts of these places, by cluster, the way through the server first.

    The name of a cluster is its context's; another place whose name is that of a context, or in `taken` (names of
    clusters that are not in this file but may be in the next), is called `-direct` in addition, and counted if need be.
    """
    ordered = sorted(places, key=lambda place: (place.cluster, _ORDER[place.kind], place.node))
    used = {place.cluster for place in ordered} | set(taken)
    found = []
    for place in ordered:
        if place.kind == "proxy":
            found.append(Context(prefix + place.cluster, f"{prefix}mooring-{place.cluster}", place))
            continue
        if place.kind == "node" and (len(place.node) > _MAX_NAME or not _NODE.fullmatch(place.node)):
            continue
        name = _free(f"{place.cluster}-{place.node if place.kind == 'node' else 'fqdn'}", used)
        used.add(name)
        found.append(Context(prefix + name, f"{prefix}mooring-{place.cluster}-endpoint", place))
    return found


def _free(name: str, used: Collection[str]) -> str:
    if name not in used:
        return name
    direct = f"{name}-direct"
    count = 1
    wanted = direct
    while wanted in used:
        count += 1
        wanted = f"{direct}-{count}"
    return wanted


def exec_user(arguments: Sequence[str], *, tell_cluster: bool = False) -> dict[str, Any]:
    """A credential that `mooring credential` gives. `tell_cluster`: it is told which server it is asked for."""
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "mooring",
            "args": ["credential", *arguments],
            "interactiveMode": "IfAvailable",
            "provideClusterInfo": tell_cluster,
            "installHint": "The command 'mooring' is missing: pip install 'mooring[cli]'.",
        }
    }


def document(
    url: str, found: Sequence[Context], users: Mapping[str, Mapping[str, Any]], current: str
) -> dict[str, Any]:
    """The file with these contexts. `users`: the credential of each user that a context names; `url`: of the Mooring
    server."""

    def marked(name: str, kind: str, content: Mapping[str, Any], cluster: str) -> dict[str, Any]:
        mark = {"name": MARK, "extension": {"server": url, "cluster": cluster}}
        return {"name": name, kind: {**content, "extensions": [mark]}}

    owners = {context.user: context.place.cluster for context in found}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "clusters": [marked(c.name, "cluster", _cluster(c.place), c.place.cluster) for c in found],
        "users": [marked(name, "user", users[name], cluster) for name, cluster in owners.items()],
        "contexts": [marked(c.name, "context", {"cluster": c.name, "user": c.user}, c.place.cluster) for c in found],
        "current-context": current,
    }


def _cluster(place: Place) -> dict[str, str]:
    cluster = {"server": place.server}
    if place.ca_pem:
        cluster["certificate-authority-data"] = base64.b64encode(place.ca_pem.encode()).decode()
    return cluster
