# SPDX-License-Identifier: Apache-2.0
"""A kubeconfig with the ways to each cluster that the caller may enter: through this server, and straight to it.

With `mode: token`, there is one token for each cluster's way through the server and one for its direct ways, each good
for that cluster's Kubernetes API and nothing else, so that a lost file does not open the REST API. With `mode: exec`,
no secret is in the file: kubectl asks `mooring credential`, which renews by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from litestar import post
from litestar.params import JSONBody
from msgspec import Meta

from mooring.api.access import USER, Caller, Deps, may_enter
from mooring.api.common import Input, Output, Ref, Ttl, check_ref, time_text
from mooring.api.endpoints import DELIVERY_SECONDS, MAX_TTL, places
from mooring.api.issue import end_of_life, issue, issue_endpoint
from mooring.api.problems import conflict, invalid, quoted
from mooring.api.services import Services
from mooring.authn.identity import Identity
from mooring.authn.index import ClusterView
from mooring.kube import configtext
from mooring.kube.kubeconfig import Context, Kind, contexts, document, exec_user
from mooring.store.records import Cluster

MAX_CONTEXTS = 200
"""Clusters in one file."""
Way = Literal["proxy", "fqdn", "nodes"]
_KINDS: dict[Way, Kind] = {"proxy": "proxy", "fqdn": "fqdn", "nodes": "node"}


class KubeconfigNew(Input):
    """Without `clusters`: every cluster that the caller may enter. Without `contexts`: all ways that there are:
    `<cluster>` through this server (proxy), `<cluster>-fqdn` and `<cluster>-<node>` straight to the cluster; `prefix`
    goes before each name. `current_context` names a context or a cluster. `prefer_direct`: the current context is a
    direct one if there is one, and `mooring credential` falls back to the proxy's while it cannot be reached, in the
    file `path` if that is given. Tokens live for `ttl_seconds`; without it, as short as the one with the shortest
    default does."""

    clusters: Annotated[list[Ref], Meta(max_length=MAX_CONTEXTS)] | None = None
    contexts: Annotated[list[Way], Meta(min_length=1, max_length=3)] | None = None
    mode: Literal["token", "exec"] = "token"
    ttl_seconds: Ttl | None = None
    current_context: Annotated[str, Meta(min_length=1, max_length=600)] | None = None
    prefer_direct: bool = False
    prefix: Annotated[str, Meta(pattern="^[A-Za-z0-9._-]*$", max_length=64)] = ""
    path: Annotated[str, Meta(pattern="^/", max_length=4096)] | None = None


class ContextOut(Output):
    name: str
    cluster: str
    kind: Kind
    server: str


class Kubeconfig(Output):
    """`kubeconfig` is the file's text. `expires_at` is when its tokens end; null with `mode: exec`. `undelivered`: the
    clusters that did not say in time that they have the token for their endpoint."""

    kubeconfig: str
    contexts: list[str]
    details: list[ContextOut]
    current_context: str | None
    expires_at: str | None
    undelivered: list[str]


@post("/kubeconfig", opt=USER, status_code=200, tags=["kubeconfig"], summary="A kubeconfig for the caller")
async def create_kubeconfig(data: JSONBody[KubeconfigNew], services: Deps, caller: Caller) -> Kubeconfig:
    if data.mode == "exec" and data.ttl_seconds is not None:
        raise invalid("ttl_seconds", "does not go with mode 'exec', where no token is in the file")
    check_ref("path", data.path or "")
    check_ref("prefix", data.prefix)
    clusters = await _clusters(services, _chosen(data, services, caller))
    found = _contexts(data, services, caller, clusters)
    current = _current(data, found)
    expires_at: float | None = None
    undelivered: list[str] = []
    if data.mode == "exec":
        users = _exec_users(data, services, found)
    else:
        expires_at = _end(data, services, caller, clusters, found)
        users, undelivered = await _token_users(services, caller, found, expires_at)
    return Kubeconfig(
        kubeconfig=configtext.dump(document(services.settings.url, found, users, current or "")),
        contexts=[context.name for context in found],
        details=[
            ContextOut(name=c.name, cluster=c.place.cluster, kind=c.place.kind, server=c.place.server) for c in found
        ],
        current_context=current,
        expires_at=time_text(expires_at),
        undelivered=undelivered,
    )


def _entered(services: Services, caller: Identity) -> list[ClusterView]:
    return [cluster for cluster in services.index.clusters() if may_enter(services, caller, cluster.id)]


def _chosen(data: KubeconfigNew, services: Services, caller: Identity) -> list[ClusterView]:
    if data.clusters is None:
        clusters = _entered(services, caller)
        if len(clusters) > MAX_CONTEXTS:
            raise conflict(
                "too_many_clusters",
                f"there are {len(clusters)} clusters, and a kubeconfig holds {MAX_CONTEXTS} at most",
                field="clusters",
                hint="name the clusters",
            )
        return clusters
    chosen: dict[str, ClusterView] = {}
    for ref in data.clusters:
        cluster = services.index.cluster(ref)
        if cluster is None or not may_enter(services, caller, cluster.id):
            raise invalid("clusters", f"there is no cluster {quoted(ref)}")
        chosen[cluster.id] = cluster
    return list(chosen.values())


async def _clusters(services: Services, views: Sequence[ClusterView]) -> list[Cluster]:
    clusters = []
    async with services.store.read() as tx:
        for view in views:
            cluster = await tx.clusters.get(view.id)
            if cluster is None:
                raise _gone(view.name)
            clusters.append(cluster)
    return clusters


def _contexts(data: KubeconfigNew, services: Services, caller: Identity, clusters: Sequence[Cluster]) -> list[Context]:
    kinds = {_KINDS[way] for way in data.contexts or _KINDS}
    wanted = [place for cluster in clusters for place in places(services, cluster) if place.kind in kinds]
    taken = [cluster.name for cluster in _entered(services, caller)]
    found = contexts(wanted, prefix=data.prefix, taken=taken)
    if data.clusters is not None:
        there = {context.place.cluster for context in found}
        for cluster in clusters:
            if cluster.name not in there:
                raise invalid("contexts", f"the cluster {cluster.name!r} has none of these: {', '.join(sorted(kinds))}")
    return found


def _current(data: KubeconfigNew, found: Sequence[Context]) -> str | None:
    """The name of the current context: what was asked for, or the first one; with `prefer_direct` a direct one."""
    wished = data.current_context
    by_name = {context.name: context for context in found}
    if wished is None:
        chosen = found[0] if found else None
    else:
        chosen = by_name.get(wished) or next((c for c in found if c.place.cluster == wished), None)
        if chosen is None:
            raise invalid("current_context", f"is none of the contexts: {', '.join(by_name) or 'there is none'}")
    if chosen is None:
        return None
    if data.prefer_direct and chosen.place.kind == "proxy":
        direct = (c for c in found if c.place.cluster == chosen.place.cluster and c.place.kind != "proxy")
        chosen = next(direct, chosen)
    return chosen.name


def _exec_users(data: KubeconfigNew, services: Services, found: Sequence[Context]) -> dict[str, dict[str, Any]]:
    """Each user's credential: `mooring credential` for the right kind of token."""
    proxied = {context.place.cluster for context in found if context.place.kind == "proxy"}
    direct = {context.place.cluster for context in found if context.place.kind != "proxy"}
    preference = ["--prefer-direct", *(["--kubeconfig", data.path] if data.path else [])]
    users = {}
    for context in found:
        cluster = context.place.cluster
        arguments = ["--server", services.settings.url, "--cluster", cluster]
        prefers = data.prefer_direct and cluster in proxied and cluster in direct
        if context.place.kind != "proxy":
            arguments.append("--endpoint")
        elif cluster in direct:
            arguments.append("--keep-endpoint")
        if prefers:
            arguments += preference
        users[context.user] = exec_user(arguments, tell_cluster=prefers and context.place.kind != "proxy")
    return users


def _end(
    data: KubeconfigNew, services: Services, caller: Identity, clusters: Sequence[Cluster], found: Sequence[Context]
) -> float:
    """When the tokens in the file end: all of them together, so that no half of a file stops working by itself."""
    direct = {context.place.cluster for context in found if context.place.kind != "proxy"}
    ttls = [cluster.endpoint.ttl_seconds for cluster in clusters if cluster.endpoint and cluster.name in direct]
    default = min([services.settings.login_ttl, *ttls])
    return end_of_life(services, caller, data.ttl_seconds, default, MAX_TTL if direct else None)


async def _token_users(
    services: Services, caller: Identity, found: Sequence[Context], expires_at: float
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Each user's token, and the clusters that do not have theirs yet."""
    users: dict[str, dict[str, Any]] = {}
    made: dict[str, tuple[str, str]] = {}  # name of a cluster -> its id, id of the token for its endpoint
    async with services.store.write() as tx:
        user = await tx.users.get(caller.user_id)
        for context in found:
            if context.user in users:
                continue
            name = context.place.cluster
            cluster = await tx.clusters.get(name)
            if user is None or cluster is None:
                raise _gone(name)
            if context.place.kind == "proxy":
                text = (await issue(tx, services, user, f"kubeconfig for {name}", expires_at, cluster))[1]
            else:
                what = f"kubeconfig for the endpoint of {name}"
                token, text = await issue_endpoint(tx, services, user, what, expires_at, cluster)
                made[name] = cluster.id, token.id
            users[context.user] = {"token": text.reveal()}
    delivered = await asyncio.gather(
        *(services.endpoints.delivered(cluster, token, DELIVERY_SECONDS) for cluster, token in made.values())
    )
    return users, [name for name, done in zip(made, delivered, strict=True) if not done]


def _gone(name: str) -> Exception:
    return conflict("changed_meanwhile", f"cluster {name!r} is gone", hint="try again")
