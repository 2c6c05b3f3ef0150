# SPDX-License-Identifier: Apache-2.0
"""How a request names the cluster that it is for, and how it shows who is asking.

Why: the chain is one, its doors are two. At the server a path begins with the cluster's, and tokens are the server's;
at an endpoint that a cluster serves itself every path is Kubernetes' own, and tokens are that cluster's. What differs
is here, so that nothing of the chain is written twice.

    ByPath                     /k8s/clusters/<name or id>/<Kubernetes path>, tokens mrg_...
    endpoint.entrance.Direct   /<Kubernetes path>, tokens mre_...

It must not: decide who somebody is, or what they may.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Protocol

from mooring.authn.index import ClusterView, Index, Presented, present
from mooring.proxy.answers import Refused
from mooring.wire.headers import Headers, get_all

PREFIX: Final = b"/k8s/clusters/"

_KEPT_MAX: Final = 512
_CLUSTER: Final = re.compile(rb"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/=-]{1,512})")


class Entrance(Protocol):
    """What the chain asks."""

    help: str
    """What somebody without a token is told to do."""

    def shown(self, headers: Headers, /) -> Presented | str:
        """The token that a request shows, or what is wrong: missing, malformed. A pure function of the headers."""

    def route(self, target: bytes, /) -> tuple[ClusterView, bytes]:
        """The cluster that a target names, and the rest of the target as the cluster gets it. Raises Refused."""

    def prefix(self, cluster: ClusterView, /) -> str:
        """What stands before the Kubernetes path in a target for this cluster."""


class ByPath:
    """The server's."""

    help = "log in with 'mooring login' or use a kubeconfig of this server"

    def __init__(self, index: Index) -> None:
        self._cluster = index.cluster

    def shown(self, headers: Headers) -> Presented | str:
        value = bearer(headers)
        return present(value[0]) if isinstance(value, tuple) else value

    def route(self, target: bytes) -> tuple[ClusterView, bytes]:
        ref, rest = _kept_split(target) if len(target) <= _KEPT_MAX else _split(target)
        if not ref:
            raise Refused(404, "there is no such cluster: the URL must be /k8s/clusters/<name or id>/<Kubernetes path>")
        cluster = self._cluster(ref)
        if cluster is None:
            raise Refused(404, f"there is no cluster \"{ref}\" here; see 'mooring cluster list'")
        return cluster, rest

    def prefix(self, cluster: ClusterView) -> str:
        return f"/k8s/clusters/{cluster.name}"


def _split(target: bytes) -> tuple[str, bytes]:
    """The cluster's name or id in a target of ours, empty if it cannot be one; the rest as the cluster gets it."""
    path, mark, query = target[len(PREFIX) :].partition(b"?")
    ref, _unused, rest = path.partition(b"/")
    if _CLUSTER.fullmatch(ref) is None:
        return "", b""
    return ref.decode("ascii"), b"/" + rest + mark + query


_kept_split: Final = lru_cache(maxsize=2048)(_split)


def bearer(headers: Headers) -> tuple[str] | str:
    """The one bearer token of a request, in a tuple, or what is wrong: missing, malformed."""
    values = get_all(headers, b"authorization")
    if not values:
        return "missing"
    match = _BEARER.fullmatch(values[0])
    if match is None or len(values) > 1:
        return "malformed"
    return (match[1].decode("ascii"),)
