# SPDX-License-Identifier: Apache-2.0
"""Registration: an agent exchanges its one-time join token for the right to be known by its public key.

The same token with the same key gives the same answer again within its life, so that an agent that lost the answer can
repeat the call; with another key it is dead. A cluster never changes its uid: what was given to people for one
Kubernetes cluster must not open another.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Any

from litestar import Request, post
from litestar.params import JSONBody
from msgspec import Meta

from mooring.api.access import PUBLIC, Deps, source
from mooring.api.common import Input, Output, check_text
from mooring.api.problems import Problem, conflict, invalid, later, unauthenticated
from mooring.api.services import Services
from mooring.authn import tokens
from mooring.authn.agents import is_weak_key
from mooring.authn.bootstrap import pin_prefix
from mooring.lib import bounds
from mooring.store.ports import Taken, Transaction
from mooring.store.records import Cluster, JoinToken

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*={0,2}")
_UID = re.compile(r"[A-Za-z0-9-]{1,128}")


class Registration(Input):
    join_token: Annotated[str, Meta(min_length=1, max_length=256)]
    public_key: Annotated[str, Meta(max_length=64, description="Raw Ed25519 public key, base64url.")]
    cluster_uid: Annotated[str, Meta(max_length=128, description="Uid of the namespace kube-system.")]
    agent_version: Annotated[str, Meta(max_length=64)] = ""
    kubernetes_version: Annotated[str, Meta(max_length=64)] = ""


class Registered(Output):
    """`policy_key`: the raw Ed25519 public key (base64url) that the bundles of `GET /agents/policy` are signed with."""

    cluster_id: str
    cluster_name: str
    audience: str
    tunnel_urls: list[str]
    ca_pem: str
    policy_key: str


@post("/agents/register", opt=PUBLIC, status_code=201, tags=["agents"], summary="Register an agent by a join token")
async def register(data: JSONBody[Registration], services: Deps, request: Request[Any, Any, Any]) -> Registered:
    address = source(request)
    presented = tokens.parse(data.join_token, "mrj")
    # Counted by token, so that one agent whose token has expired does not make those behind the same NAT wait.
    subject = "" if presented is None else presented.id
    wait = services.joins.delay(subject, address, services.clock.monotonic())
    if wait > 0:
        bounds.met("join_attempts")
        raise later(429, "too_many_failures", "too many failed registrations", wait)
    key = _public_key(data.public_key)
    if not _UID.fullmatch(data.cluster_uid):
        raise invalid("cluster_uid", "is not the uid of a Kubernetes object")
    check_text("agent_version", data.agent_version)
    check_text("kubernetes_version", data.kubernetes_version)
    token: JoinToken | None = None
    try:
        async with services.store.write() as tx:
            if presented is not None:
                token = await tx.join_tokens.get(presented.id)
            if token is None or presented is None or not tokens.same(token.hash, presented.hash):
                token = None
                raise unauthenticated("the join token is unknown", "join_token_unknown", _NEW_TOKEN)
            cluster = await _register(tx, services, token, key, data)
    except Problem as problem:
        services.joins.begin(subject, address, services.clock.monotonic())
        if token is not None:
            services.control.note_refused(token.cluster_id, problem.detail)
        raise
    services.control.note_registered(cluster.id)
    return Registered(
        cluster_id=cluster.id,
        cluster_name=cluster.name,
        audience=services.settings.audience,
        tunnel_urls=[services.settings.tunnel_url],
        ca_pem=services.settings.ca_pem,
        policy_key=services.policies.public_key,
    )


_NEW_TOKEN = "make a new one with 'mooring cluster join-token' or apply a new manifest"  # noqa: S105 - a hint


async def _register(tx: Transaction, services: Services, token: JoinToken, key: bytes, data: Registration) -> Cluster:
    now = services.clock.now()
    if token.expires_at <= now:
        raise unauthenticated("the join token has expired", "join_token_expired", _NEW_TOKEN)
    cluster = await tx.clusters.get(token.cluster_id)
    if cluster is None:
        raise unauthenticated("the join token is unknown", "join_token_unknown", _NEW_TOKEN)
    if token.used_at is not None:
        again = token.used_public_key == key and cluster.public_key == key and cluster.cluster_uid == data.cluster_uid
        if not again:
            raise unauthenticated("the join token was used already", "join_token_used", _NEW_TOKEN)
        return cluster
    if cluster.cluster_uid is not None and cluster.cluster_uid != data.cluster_uid:
        raise conflict(
            "other_cluster",
            f"{cluster.name!r} is registered for another Kubernetes cluster (uid {cluster.cluster_uid})",
            field="cluster_uid",
            hint="remove it first, or make a cluster with another name",
        )
    try:
        cluster = await tx.clusters.register(
            cluster.id,
            now,
            public_key=key,
            cluster_uid=data.cluster_uid,
            agent=data.agent_version,
            kubernetes=data.kubernetes_version,
        )
    except Taken as taken:
        raise conflict(
            "cluster_registered", taken.reason, field=taken.field, hint="one Kubernetes cluster is registered once"
        ) from None
    await tx.join_tokens.spend(token.id, now, key)
    await pin_prefix(tx, services.settings.identity_prefix)
    return cluster


def _public_key(text: str) -> bytes:
    if not _BASE64URL.fullmatch(text):
        raise invalid("public_key", "is not base64url")
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error):
        raise invalid("public_key", "is not base64url") from None
    if len(raw) != 32:
        raise invalid("public_key", f"is {len(raw)} bytes long; an Ed25519 public key has 32")
    if is_weak_key(raw):
        raise invalid("public_key", "is a point of small order, with which anybody could sign")
    return raw
