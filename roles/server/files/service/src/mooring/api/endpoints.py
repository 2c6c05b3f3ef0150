# SPDX-License-Identifier: Apache-2.0
"""The authorized endpoint of a cluster: how it may be reached without this server, and what its agent says of it.

Whoever may update the cluster may set it, and so decides where direct contexts of other people's kubeconfigs lead, and
which CA they trust. What such a context sends there is good in that cluster only.
"""

from __future__ import annotations

from typing import Annotated, Literal

from litestar import Response, delete, get, put
from litestar.params import JSONBody
from msgspec import Meta

from mooring.api.access import USER, Caller, Deps, may_see, needs
from mooring.api.common import IfMatch, Input, Output, PathRef, check_match, etag, found, time_text
from mooring.api.problems import invalid, not_found
from mooring.api.services import Services
from mooring.kube.kubeconfig import Place, https, https_of
from mooring.lib import pki
from mooring.store.ports import Transaction
from mooring.store.records import Cluster, EndpointSettings, EndpointStatus

MAX_TTL = 30 * 86400
"""Seconds that a token for an endpoint lives at most: while the server is away nothing else ends it."""
DELIVERY_SECONDS = 5
"""For how long a call waits until the cluster has what it changed."""
_MAX_CA = 64 * 1024


class EndpointNodeOut(Output):
    name: str
    host: str
    port: int


class EndpointStatusOut(Output):
    """What the agent last said. `nodes` and `ca_pem` are of the API server; `serving_url` and `serving_ca_pem` of the
    endpoint that the agent serves itself. `revision` and `digest` tell which tokens the cluster has; `problem` why it
    has not those that it should."""

    nodes: list[EndpointNodeOut]
    ca_pem: str
    serving_url: str
    serving_ca_pem: str
    revision: int
    digest: str
    problem: str
    reported_at: str


class EndpointOut(Output):
    """`mode` and what follows it are null or empty where there is no endpoint (`enabled` is false). `policy_key` is
    what `kube-api-auth` checks the tokens' documents with. `version` and the ETag are the cluster's."""

    cluster: str
    cluster_id: str
    cluster_uid: str | None
    policy_key: str
    enabled: bool
    mode: Literal["webhook", "agent"] | None
    fqdn: str
    ca_pem: str
    ttl_seconds: int | None
    grace_seconds: int | None
    status: EndpointStatusOut | None
    version: int


class EndpointNew(Input):
    """`mode`: the cluster's API server asks `kube-api-auth` (webhook), or its agent serves the endpoint (agent).
    `fqdn`: `host` or `host:port` that leads there, with the CA `ca_pem`; without one, the CA that the agent reports.
    `ttl_seconds`: for how long tokens are good by default; `grace_seconds`: for how long an expired one is still taken
    while the server cannot be reached."""

    mode: Literal["webhook", "agent"]
    fqdn: Annotated[str, Meta(max_length=261)] = ""
    ca_pem: Annotated[str, Meta(max_length=_MAX_CA)] = ""
    ttl_seconds: Annotated[int, Meta(ge=60, le=MAX_TTL)] = 3600
    grace_seconds: Annotated[int, Meta(ge=0, le=86400)] = 0


@get(
    "/clusters/{ref:str}/endpoint",
    opt=USER,
    tags=["endpoint"],
    summary="The endpoint of a cluster that the caller may get or enter",
)
async def get_endpoint(ref: PathRef, services: Deps, caller: Caller) -> Response[EndpointOut]:
    async with services.store.read() as tx:
        cluster = await found("cluster", ref, tx.clusters.get)
    if not may_see(services, caller, cluster.id, cluster.name):
        raise not_found("cluster", ref)
    return _answer(services, cluster)


@put(
    "/clusters/{ref:str}/endpoint",
    opt=needs("clusters", "update", "cluster"),
    tags=["endpoint"],
    summary="Set up the endpoint of a cluster, as a whole",
)
async def set_endpoint(
    ref: PathRef, data: JSONBody[EndpointNew], services: Deps, if_match: IfMatch = None
) -> Response[EndpointOut]:
    settings = _settings(services, data)
    async with services.store.write() as tx:
        cluster = await found("cluster", ref, tx.clusters.get)
        check_match(if_match, cluster.version)
        if cluster.endpoint != settings:
            cluster = await tx.clusters.set_endpoint(cluster.id, services.clock.now(), settings)
    return _answer(services, cluster)


@delete(
    "/clusters/{ref:str}/endpoint",
    opt=needs("clusters", "update", "cluster"),
    tags=["endpoint"],
    summary="Turn the endpoint of a cluster off and revoke the tokens for it",
)
async def remove_endpoint(ref: PathRef, services: Deps, if_match: IfMatch = None) -> None:
    """Tokens are revoked so that none of them is good again when there is an endpoint again."""
    async with services.store.write() as tx:
        cluster = await found("cluster", ref, tx.clusters.get)
        check_match(if_match, cluster.version)
        await turn_off(tx, cluster, services.clock.now())


async def turn_off(tx: Transaction, cluster: Cluster, now: float) -> None:
    """No endpoint any more, and no token for it."""
    if cluster.endpoint is not None:
        await tx.clusters.set_endpoint(cluster.id, now, None)
    await tx.tokens.revoke_endpoint(cluster.id, now)


def places(services: Services, cluster: Cluster) -> list[Place]:
    """The ways to a cluster's Kubernetes API, the one through this server first. A node whose address is none, or whose
    CA is not known yet, is left out."""
    url, ca_pem = services.settings.url, services.settings.ca_pem
    proxy = Place(kind="proxy", cluster=cluster.name, server=f"{url}/k8s/clusters/{cluster.name}", ca_pem=ca_pem)
    settings = cluster.endpoint
    if settings is None:
        return [proxy]
    status = cluster.endpoint_status or EndpointStatus(at=0.0)
    ways = [proxy]
    by_agent = settings.mode == "agent"
    address = https_of(settings.fqdn or (status.serving_url if by_agent else ""))
    if address is not None:
        ca_pem = settings.ca_pem or (status.serving_ca_pem if by_agent else status.ca_pem)
        ways.append(Place(kind="fqdn", cluster=cluster.name, server=address, ca_pem=ca_pem))
    for node in () if by_agent or not status.ca_pem else status.nodes:
        address = https(node.host, node.port)
        if address is not None:
            ways.append(Place(kind="node", cluster=cluster.name, server=address, ca_pem=status.ca_pem, node=node.name))
    return ways


def _settings(services: Services, data: EndpointNew) -> EndpointSettings:
    fqdn = data.fqdn.lower()
    if fqdn and ("://" in fqdn or https_of(fqdn) is None):
        raise invalid("fqdn", "is not HOST or HOST:PORT")
    if data.ttl_seconds > services.settings.max_ttl:
        raise invalid("ttl_seconds", f"at most {services.settings.max_ttl} seconds are allowed")
    if data.ca_pem:
        if "PRIVATE KEY" in data.ca_pem:
            raise invalid("ca_pem", "holds a private key; give the certificate only, and replace that key")
        try:
            pki.inspect(data.ca_pem, "the CA")
        except pki.CertificateError as error:
            raise invalid("ca_pem", error.reason) from None
        if not fqdn:
            raise invalid("ca_pem", "goes with fqdn only")
    return EndpointSettings(
        mode=data.mode,
        fqdn=fqdn,
        ca_pem=data.ca_pem,
        ttl_seconds=data.ttl_seconds,
        grace_seconds=data.grace_seconds,
    )


def _answer(services: Services, cluster: Cluster) -> Response[EndpointOut]:
    settings, status = cluster.endpoint, cluster.endpoint_status
    answer = EndpointOut(
        cluster=cluster.name,
        cluster_id=cluster.id,
        cluster_uid=cluster.cluster_uid,
        policy_key=services.policies.public_key,
        enabled=settings is not None,
        mode=None if settings is None else settings.mode,
        fqdn="" if settings is None else settings.fqdn,
        ca_pem="" if settings is None else settings.ca_pem,
        ttl_seconds=None if settings is None else settings.ttl_seconds,
        grace_seconds=None if settings is None else settings.grace_seconds,
        status=None if status is None else _status(status),
        version=cluster.version,
    )
    return Response(answer, headers={"ETag": etag(cluster.version)})


def _status(status: EndpointStatus) -> EndpointStatusOut:
    return EndpointStatusOut(
        nodes=[EndpointNodeOut(name=node.name, host=node.host, port=node.port) for node in status.nodes],
        ca_pem=status.ca_pem,
        serving_url=status.serving_url,
        serving_ca_pem=status.serving_ca_pem,
        revision=status.revision,
        digest=status.digest,
        problem=status.problem,
        reported_at=time_text(status.at) or "",
    )
