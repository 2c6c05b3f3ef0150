# SPDX-License-Identifier: Apache-2.0
"""A kubeconfig with a context for each cluster that the caller may enter.

With `mode: token`, each context has a token of its own that is good for that cluster's Kubernetes API and nothing else,
so that a lost file does not open the REST API. With `mode: exec`, no secret is in the file: kubectl asks
`mooring credential`, which renews by itself.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import yaml
from litestar import post
from litestar.params import JSONBody
from msgspec import Meta

from mooring.api.access import USER, Caller, Deps, may_enter
from mooring.api.common import Input, Output, Ref, Ttl, time_text
from mooring.api.issue import end_of_life, issue
from mooring.api.problems import conflict, invalid, quoted
from mooring.api.services import Services
from mooring.authn.identity import Identity
from mooring.authn.index import ClusterView
from mooring.lib.secrets import Secret

MAX_CONTEXTS = 200


class KubeconfigNew(Input):
    """Without `clusters`: every cluster that the caller may enter."""

    clusters: Annotated[list[Ref], Meta(max_length=MAX_CONTEXTS)] | None = None
    mode: Literal["token", "exec"] = "token"
    ttl_seconds: Ttl | None = None
    current_context: Ref | None = None


class Kubeconfig(Output):
    """`kubeconfig` is the file's text. `expires_at` is when its tokens end; null with `mode: exec`."""

    kubeconfig: str
    contexts: list[str]
    current_context: str | None
    expires_at: str | None


@post("/kubeconfig", opt=USER, status_code=200, tags=["kubeconfig"], summary="A kubeconfig for the caller")
async def create_kubeconfig(data: JSONBody[KubeconfigNew], services: Deps, caller: Caller) -> Kubeconfig:
    clusters = _chosen(data, services, caller)
    names = [cluster.name for cluster in clusters]
    current = data.current_context or (names[0] if names else None)
    if data.current_context is not None and data.current_context not in names:
        raise invalid("current_context", f"is none of the contexts: {', '.join(names) or 'there is none'}")
    expires_at: float | None = None
    if data.mode == "exec":
        if data.ttl_seconds is not None:
            raise invalid("ttl_seconds", "does not go with mode 'exec', where no token is in the file")
        users = [_exec_user(services, name) for name in names]
    else:
        expires_at = end_of_life(services, caller, data.ttl_seconds, services.settings.login_ttl)
        secrets = await _tokens(services, caller, clusters, expires_at)
        users = [{"token": secret.reveal()} for secret in secrets]
    return Kubeconfig(
        kubeconfig=_render(services, names, users, current),
        contexts=names,
        current_context=current,
        expires_at=time_text(expires_at),
    )


def _chosen(data: KubeconfigNew, services: Services, caller: Identity) -> list[ClusterView]:
    def enters(cluster: ClusterView) -> bool:
        return may_enter(services, caller, cluster.id)

    if data.clusters is None:
        clusters = [cluster for cluster in services.index.clusters() if enters(cluster)]
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
        if cluster is None or not enters(cluster):
            raise invalid("clusters", f"there is no cluster {quoted(ref)}")
        chosen[cluster.id] = cluster
    return list(chosen.values())


async def _tokens(services: Services, caller: Identity, clusters: list[ClusterView], expires_at: float) -> list[Secret]:
    secrets = []
    async with services.store.write() as tx:
        user = await tx.users.get(caller.user_id)
        for view in clusters:
            cluster = await tx.clusters.get(view.id)
            if user is None or cluster is None:
                raise conflict("changed_meanwhile", f"cluster {view.name!r} is gone", hint="try again")
            secrets.append((await issue(tx, services, user, f"kubeconfig for {view.name}", expires_at, cluster))[1])
    return secrets


def _exec_user(services: Services, cluster: str) -> dict[str, Any]:
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "mooring",
            "args": ["credential", "--server", services.settings.url, "--cluster", cluster],
            "interactiveMode": "IfAvailable",
            "provideClusterInfo": False,
            "installHint": "The command 'mooring' is missing: pip install 'mooring[cli]'.",
        }
    }


def _render(services: Services, names: list[str], users: list[dict[str, Any]], current: str | None) -> str:
    settings = services.settings
    ca = base64.b64encode(settings.ca_pem.encode()).decode()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "clusters": [
            {
                "name": name,
                "cluster": {"server": f"{settings.url}/k8s/clusters/{name}", "certificate-authority-data": ca},
            }
            for name in names
        ],
        "users": [{"name": f"mooring-{name}", "user": user} for name, user in zip(names, users, strict=True)],
        "contexts": [{"name": name, "context": {"cluster": name, "user": f"mooring-{name}"}} for name in names],
        "current-context": current or "",
    }
    return yaml.safe_dump(config, sort_keys=False, width=2**20)
