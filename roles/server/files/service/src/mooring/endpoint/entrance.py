# SPDX-License-Identifier: Apache-2.0
"""The door of an endpoint that a cluster serves itself: every path is Kubernetes' own, tokens are this cluster's.

It must not: take a token of the server (`mrg_...`), or one whose hash was made for another cluster.
"""

from __future__ import annotations

from mooring.authn.index import ClusterView, Presented
from mooring.authn.tokens import ParsedToken
from mooring.proxy.answers import Refused
from mooring.proxy.entrance import bearer
from mooring.wire.endpoint import parse_token, token_hash
from mooring.wire.headers import Headers


class Direct:
    """A `proxy.entrance.Entrance` for one cluster."""

    help = "use the direct context of a kubeconfig that the Mooring server made"

    def __init__(self, cluster: ClusterView) -> None:
        self._cluster = cluster

    def shown(self, headers: Headers) -> Presented | str:
        value = bearer(headers)
        if isinstance(value, str):
            return value
        parsed = parse_token(value[0])
        if parsed is None:
            return Presented(None)
        return Presented(ParsedToken(parsed[0], token_hash(self._cluster.id, parsed[1])))

    def route(self, target: bytes) -> tuple[ClusterView, bytes]:
        if target.startswith(b"//"):
            raise Refused(400, "a path that begins with two slashes is not taken; write one")
        return self._cluster, target

    def prefix(self, cluster: ClusterView) -> str:
        return ""
