# SPDX-License-Identifier: Apache-2.0
"""Clusters: what a person writes, what is seen of them, their join tokens and their import manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

from litestar import Response, delete, get, patch, post
from litestar.params import JSONBody, QueryParameter
from msgspec import UNSET, Meta, UnsetType, field

from mooring.api import endpoints
from mooring.api.access import USER, Caller, Deps, grant_refused, may, may_see, needs, rights
from mooring.api.common import (
    Cursor,
    Description,
    IfMatch,
    Input,
    Limit,
    NameFilter,
    Output,
    PathRef,
    Ttl,
    check_labels,
    check_match,
    check_text,
    etag,
    found,
    named,
    next_cursor,
    paging,
    time_text,
)
from mooring.api.policies import Change
from mooring.api.problems import conflict, invalid, not_found
from mooring.api.services import Services
from mooring.authn import tokens
from mooring.authn.identity import Identity
from mooring.kube import manifest as kube_manifest
from mooring.kube.names import DEFAULT_NAMESPACE
from mooring.lib import logging
from mooring.lib.ids import new_id
from mooring.lib.names import check_cluster_name
from mooring.lib.profiles import DEFAULT_PROFILE, Profile
from mooring.lib.secrets import Secret
from mooring.policy import check as policy_check
from mooring.policy.rules import PolicyRefused
from mooring.policy.standing import State, stand
from mooring.store.policies import PolicyStatus
from mooring.store.ports import Transaction, VisibleTo
from mooring.store.records import Cluster, ClusterState, JoinToken

MAX_JOIN_TOKENS = 100
_log = logging.get("mooring.api")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}")
_ENDPOINT_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}")  # or an address


class ConditionOut(Output):
    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    last_transition_at: str


class ClusterPolicyOut(Output):
    """How the policy stands in the cluster, in short; `GET /clusters/{ref}/policy` says more."""

    state: State
    desired_revision: int
    applied_revision: int
    lag_seconds: float | None
    profile: str
    errors: int
    healed: int


class ClusterOut(Output):
    """`version` and the ETag count what people write; reports of the agent do not change them."""

    id: str
    name: str
    description: str
    labels: dict[str, str]
    profile: Profile
    state: ClusterState
    state_reason: str
    conditions: list[ConditionOut]
    created_at: str
    updated_at: str
    registered_at: str | None
    last_seen_at: str | None
    connected_at: str | None
    kubernetes_version: str
    node_count: int | None
    nodes_ready: int | None
    api_server_healthy: bool | None
    agent_version: str
    cluster_uid: str | None
    policy: ClusterPolicyOut
    proxy_url: str
    version: int


class ClusterList(Output):
    items: list[ClusterOut]
    next: str | None
    total: int


class ClusterNew(Input):
    """`profile` says how much of the cluster its agent may change: `proxy-only` (nothing), `read-only` (roles and
    bindings that give reading), `admin` (whatever a policy says)."""

    name: Annotated[str, Meta(max_length=63)]
    description: Description = ""
    labels: dict[str, str] = field(default_factory=dict)
    profile: Profile = DEFAULT_PROFILE


class ClusterEdit(Input):
    """A new `profile` holds once its manifest is applied in the cluster."""

    description: Description | UnsetType = UNSET
    labels: dict[str, str] | UnsetType = UNSET
    profile: Profile | UnsetType = UNSET


class JoinTokenNew(Input):
    ttl_seconds: Ttl | None = None


class JoinTokenOut(Output):
    """`join_token` is shown here and never again; it is good once."""

    id: str
    join_token: str
    expires_at: str


HostName = Annotated[str, Meta(min_length=1, max_length=253)]


class ManifestNew(Input):
    """Without a `join_token` the manifest leaves the join Secret as it is: for an agent that has registered.

    `endpoint_...` counts where the cluster's endpoint is served by its agent: the type of the Service that leads to it,
    and names and addresses for its certificate beside the one of the endpoint's settings."""

    join_token: bool = True
    ttl_seconds: Ttl | None = None
    image: str | None = None
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    admin_binding: bool = True
    workload: Literal["deployment", "none"] = "deployment"
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    namespace: str = DEFAULT_NAMESPACE
    endpoint_service: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    endpoint_node_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    endpoint_names: Annotated[list[Annotated[str, Meta(min_length=1, max_length=253)]], Meta(max_length=32)] = field(
        default_factory=list
    )


@get("/clusters", opt=USER, tags=["clusters"], summary="The clusters that the caller may get or enter")
async def list_clusters(
    services: Deps,
    caller: Caller,
    limit: Limit = 100,
    cursor: Cursor = None,
    name: NameFilter = None,
    in_state: Annotated[ClusterState | None, QueryParameter(name="state", required=False)] = None,
    label: Annotated[
        list[str] | None, QueryParameter(required=False, description="`key=value`; repeat it for several.")
    ] = None,
) -> ClusterList:
    sees_all = may(services, caller, "clusters", "get")
    visible = None if sees_all else VisibleTo(caller.user_id, services.clock.now())
    if name is not None:
        check_text("name", name)
    async with services.store.read() as tx:
        page = await tx.clusters.page(
            paging(limit, cursor), name=name, state=in_state, labels=_selector(label or []), visible_to=visible
        )
    return ClusterList(
        items=[_out(services, cluster) for cluster in page.items], next=next_cursor(page), total=page.total
    )


@post(
    "/clusters", opt=needs("clusters", "create"), tags=["clusters"], summary="Make a cluster, to be joined by its agent"
)
async def create_cluster(data: JSONBody[ClusterNew], services: Deps, caller: Caller) -> Response[ClusterOut]:
    """Who makes a cluster is bound there to the templates that say `creator_default`."""
    now = services.clock.now()
    cluster = Cluster(
        id=new_id("c"),
        name=named("name", check_cluster_name, data.name, "cluster name"),
        description=check_text("description", data.description),
        labels=check_labels(data.labels),
        profile=data.profile,
        created_at=now,
        updated_at=now,
        state_reason="no agent has registered yet",
    )
    async with Change(services, caller) as change:
        _check_labels_held(services, caller, cluster.id, cluster.labels)
        made = await change.tx.clusters.add(cluster)
        await change.bind_creator("cluster", made)
    return _with_etag(services, made, 201)


@get("/clusters/{ref:str}", opt=USER, tags=["clusters"], summary="One cluster, by id or name")
async def get_cluster(ref: PathRef, services: Deps, caller: Caller) -> Response[ClusterOut]:
    async with services.store.read() as tx:
        cluster = await found("cluster", ref, tx.clusters.get)
    if not may_see(services, caller, cluster.id, cluster.name):
        raise not_found("cluster", ref)
    return _with_etag(services, cluster)


@patch(
    "/clusters/{ref:str}",
    opt=needs("clusters", "update", "cluster"),
    tags=["clusters"],
    summary="Change description or labels",
)
async def edit_cluster(
    ref: PathRef, data: JSONBody[ClusterEdit], services: Deps, caller: Caller, if_match: IfMatch = None
) -> Response[ClusterOut]:
    """Global roles choose clusters by labels: what they would give here by new ones, the caller has to hold here."""
    description = None if data.description is UNSET else check_text("description", data.description)
    labels = None if data.labels is UNSET else check_labels(data.labels)
    profile = None if isinstance(data.profile, UnsetType) else data.profile
    async with services.store.write() as tx:
        cluster = await found("cluster", ref, tx.clusters.get)
        check_match(if_match, cluster.version)
        changed = (description is not None and description != cluster.description) or (
            labels is not None and labels != dict(cluster.labels)
        )
        changed = changed or profile not in (None, cluster.profile)
        if labels is not None:
            _check_labels_held(services, caller, cluster.id, labels)
        if changed:
            cluster = await tx.clusters.edit(
                cluster.id, services.clock.now(), description=description, labels=labels, profile=profile
            )
        return _with_etag(services, cluster)


@delete(
    "/clusters/{ref:str}",
    opt=needs("clusters", "delete", "cluster"),
    tags=["clusters"],
    summary="Remove a cluster: its agent is cut off at once",
)
async def delete_cluster(ref: PathRef, services: Deps, if_match: IfMatch = None) -> None:
    """The tokens in the cluster go first, while there is an agent to tell: without this server nothing else would end
    them before their time."""
    async with services.store.write() as tx:
        cluster = await found("cluster", ref, tx.clusters.get)
        check_match(if_match, cluster.version)
        if cluster.endpoint is None:
            await tx.clusters.remove(cluster.id)
            return
        await endpoints.turn_off(tx, cluster, services.clock.now())
    if not await services.endpoints.delivered(cluster.id, "", endpoints.DELIVERY_SECONDS):
        _log.warning("tokens for the endpoint are good there until they expire", cluster=cluster.name)
    async with services.store.write() as tx:
        await tx.clusters.remove(cluster.id)


@post(
    "/clusters/{ref:str}/join-tokens",
    opt=needs("jointokens", "create", "cluster"),
    tags=["clusters"],
    summary="Make a one-time join token",
)
async def create_join_token(ref: PathRef, services: Deps, data: JSONBody[JoinTokenNew | None] = None) -> JoinTokenOut:
    async with services.store.write() as tx:
        cluster = await found("cluster", ref, tx.clusters.get)
        token_id, text, expires_at = await _join_token(tx, services, cluster, data.ttl_seconds if data else None)
    return JoinTokenOut(id=token_id, join_token=text.reveal(), expires_at=time_text(expires_at) or "")


@post(
    "/clusters/{ref:str}/manifest",
    opt=needs("jointokens", "create", "cluster"),
    status_code=200,
    media_type="application/yaml",
    tags=["clusters"],
    summary="The import manifest as YAML, with a new join token inside unless told not to",
)
async def create_manifest(ref: PathRef, services: Deps, data: JSONBody[ManifestNew | None] = None) -> Response[str]:
    wanted = data or ManifestNew()
    if not _NAMESPACE.fullmatch(wanted.namespace) or wanted.namespace.startswith("kube-"):
        raise invalid("namespace", "is not the name of a namespace of its own (a DNS label, not beginning 'kube-')")
    image = wanted.image or services.settings.agent_image or kube_manifest.DEFAULT_IMAGE
    if not _IMAGE.fullmatch(image):
        raise invalid("image", "is not the name of a container image")
    async with services.store.write() as tx:
        cluster = await found("cluster", ref, tx.clusters.get)
        text = (await _join_token(tx, services, cluster, wanted.ttl_seconds))[1] if wanted.join_token else None
    objects = kube_manifest.render(
        kube_manifest.ManifestOptions(
            server_url=services.settings.url,
            ca_pem=services.settings.ca_pem,
            join_token=text,
            cluster_name=cluster.name,
            identity_prefix=services.settings.identity_prefix,
            namespace=wanted.namespace,
            image=image,
            image_pull_policy=wanted.image_pull_policy,
            replicas=wanted.replicas,
            workload=wanted.workload,
            admin_binding=wanted.admin_binding,
            profile=cluster.profile,
            endpoint="" if cluster.endpoint is None else cluster.endpoint.mode,
            service=wanted.endpoint_service,
            node_port=wanted.endpoint_node_port,
            names=_endpoint_names(cluster, wanted.endpoint_names),
            url=f"https://{cluster.endpoint.fqdn}" if cluster.endpoint is not None and cluster.endpoint.fqdn else "",
        )
    )
    return Response(kube_manifest.to_yaml(objects), media_type="application/yaml")


def _endpoint_names(cluster: Cluster, wanted: list[str]) -> tuple[str, ...]:
    """The names for the certificate of an endpoint that the agent serves."""
    fqdn = "" if cluster.endpoint is None else urlsplit(f"//{cluster.endpoint.fqdn}").hostname or ""
    for name in wanted:
        if not _ENDPOINT_HOST.fullmatch(name):
            raise invalid("endpoint_names", f"{name!r} is not a DNS name or an address")
    return tuple(dict.fromkeys(name for name in (fqdn, *wanted) if name))


async def _join_token(tx: Transaction, services: Deps, cluster: Cluster, ttl: int | None) -> tuple[str, Secret, float]:
    settings = services.settings
    if ttl is not None and ttl > settings.max_join_ttl:
        raise invalid("ttl_seconds", f"at most {settings.max_join_ttl} seconds are allowed")
    now = services.clock.now()
    if await tx.join_tokens.count_open(cluster.id, now) >= MAX_JOIN_TOKENS:
        raise conflict("too_many_join_tokens", f"{MAX_JOIN_TOKENS} join tokens of this cluster wait to be used")
    made = tokens.new_token("mrj")
    expires_at = now + (ttl or settings.join_ttl)
    await tx.join_tokens.add(
        JoinToken(id=made.id, cluster_id=cluster.id, hash=made.hash, created_at=now, expires_at=expires_at)
    )
    return made.id, made.text, expires_at


def _check_labels_held(services: Services, caller: Identity, cluster_id: str, labels: Mapping[str, str]) -> None:
    try:
        policy_check.cluster_labels(services.book.policy, rights(services, caller), cluster_id, labels)
    except PolicyRefused as error:
        raise grant_refused(error) from None


def _selector(labels: list[str]) -> dict[str, str]:
    wanted: dict[str, str] = {}
    for label in labels:
        key, equals, value = label.partition("=")
        if not key or not equals:
            raise invalid("label", f"{label!r} does not have the form key=value")
        if wanted.setdefault(key, value) != value:
            raise invalid("label", f"{key!r} cannot have two values")
    return check_labels(wanted)


def _with_etag(services: Services, cluster: Cluster, status: int = 200) -> Response[ClusterOut]:
    return Response(_out(services, cluster), status_code=status, headers={"ETag": etag(cluster.version)})


def _policy(services: Services, cluster: Cluster) -> ClusterPolicyOut:
    known = services.policies.standing(cluster.id)
    standing = known or stand(PolicyStatus(cluster_id=cluster.id, cluster_name=cluster.name), 0.0, 0.0)
    status = standing.status
    return ClusterPolicyOut(
        state=standing.state,
        desired_revision=status.desired_revision,
        applied_revision=status.applied_revision,
        lag_seconds=None if standing.lag is None else round(standing.lag, 3),
        profile=status.profile,
        errors=len(status.errors),
        healed=status.healed,
    )


def _out(services: Services, cluster: Cluster) -> ClusterOut:
    return ClusterOut(
        id=cluster.id,
        name=cluster.name,
        description=cluster.description,
        labels=dict(cluster.labels),
        profile=cluster.profile,
        state=cluster.state,
        state_reason=cluster.state_reason,
        conditions=[
            ConditionOut(
                type=condition.type,
                status=condition.status,
                reason=condition.reason,
                message=condition.message,
                last_transition_at=time_text(condition.last_transition_at) or "",
            )
            for condition in cluster.conditions
        ],
        created_at=time_text(cluster.created_at) or "",
        updated_at=time_text(cluster.updated_at) or "",
        registered_at=time_text(cluster.registered_at),
        last_seen_at=time_text(cluster.last_seen_at),
        connected_at=time_text(cluster.connected_at),
        kubernetes_version=cluster.kubernetes_version,
        node_count=cluster.node_count,
        nodes_ready=cluster.nodes_ready,
        api_server_healthy=cluster.api_server_healthy,
        agent_version=cluster.agent_version,
        cluster_uid=cluster.cluster_uid,
        policy=_policy(services, cluster),
        proxy_url=f"{services.settings.url}/k8s/clusters/{cluster.name}",
        version=cluster.version,
    )
