# SPDX-License-Identifier: Apache-2.0
"""What the store gives and takes: plain values, without any trace of SQL.

Times are Unix seconds (UTC). A record never carries a password hash: those are asked for by name, as a Secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from mooring.lib.profiles import Profile
from mooring.store.policies import PolicyDelta

ClusterState = Literal["pending", "connected", "disconnected", "refused"]
CLUSTER_STATES: tuple[ClusterState, ...] = ("pending", "connected", "disconnected", "refused")
EndpointMode = Literal["webhook", "agent"]
Audience = Literal["server", "endpoint"]
"""Who takes a token: this server, or one cluster's own endpoint. Neither takes the other's."""

ADMIN_GROUP_ID = "g-adminsadmins"
"""The id of the built-in group ``admins``; the first migration makes it."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list. ``next`` is the sort key to go on after, or None at the end; ``total`` counts all pages."""

    items: list[T]
    next: tuple[str, ...] | None
    total: int


@dataclass(frozen=True, slots=True)
class Condition:
    """One observed fact of a cluster, in the manner of Kubernetes conditions."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    last_transition_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """How a cluster may be reached without this server. `mode`: whether its API server asks `kube-api-auth` (webhook),
    or its agent serves the endpoint (agent). `fqdn`: a name, with or without a port, that leads to it; "": none;
    `ca_pem` is the CA of that name. `ttl_seconds`: for how long tokens are good by default. `grace_seconds`: for how
    long an expired token is still taken while the server cannot be reached; 0: not at all."""

    mode: EndpointMode = "webhook"
    fqdn: str = ""
    ca_pem: str = ""
    ttl_seconds: int = 3600
    grace_seconds: int = 0


@dataclass(frozen=True, slots=True)
class EndpointNode:
    """Where one control-plane node serves the Kubernetes API."""

    name: str
    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointStatus:
    """What the agent last said, at the time `at`. `ca_pem` is the CA of the API server on `nodes`; `serving_url` and
    `serving_ca_pem` are of the endpoint that the agent serves itself. `revision` and `digest` are of the tokens that it
    has put into the cluster; `problem` says why it could not."""

    nodes: tuple[EndpointNode, ...] = ()
    ca_pem: str = ""
    serving_url: str = ""
    serving_ca_pem: str = ""
    revision: int = 0
    digest: str = ""
    problem: str = ""
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A downstream cluster: what a person wrote (name, description, labels) and what was seen of it (the rest).

    ``version`` counts what people wrote only, so that an agent's report never makes a person's edit fail.
    ``public_key`` is the raw Ed25519 key of the agent (32 bytes); None means that nobody registered yet. ``profile`` is
    what its manifest was made for. ``endpoint``: how it may be reached without this server; None: not at all.
    """

    id: str
    name: str
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    created_at: float
    updated_at: float
    version: int = 1
    state: ClusterState = "pending"
    state_reason: str = ""
    conditions: tuple[Condition, ...] = ()
    last_seen_at: float | None = None
    connected_at: float | None = None
    registered_at: float | None = None
    kubernetes_version: str = ""
    node_count: int | None = None
    nodes_ready: int | None = None
    api_server_healthy: bool | None = None
    agent_version: str = ""
    cluster_uid: str | None = None
    public_key: bytes | None = None
    profile: Profile = "proxy-only"
    endpoint: EndpointSettings | None = None
    endpoint_status: EndpointStatus | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """What is seen of a cluster, written as a whole by its controller and by nobody else."""

    state: ClusterState
    state_reason: str
    conditions: tuple[Condition, ...]
    last_seen_at: float | None
    connected_at: float | None
    kubernetes_version: str
    node_count: int | None
    nodes_ready: int | None
    api_server_healthy: bool | None
    agent_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """A one-time token with which an agent registers. ``used_public_key`` is the key that it was spent on."""

    id: str
    cluster_id: str
    hash: bytes
    created_at: float
    expires_at: float
    used_at: float | None = None
    used_public_key: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A local user. ``groups`` are (id, name) pairs in the order of their names."""

    id: str
    name: str
    uid: str
    display_name: str = ""
    enabled: bool = True
    groups: tuple[tuple[str, str], ...] = ()
    created_at: float
    updated_at: float
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A group of users. ``members`` are (id, name) pairs in the order of their names."""

    id: str
    name: str
    description: str = ""
    builtin: bool = False
    members: tuple[tuple[str, str], ...] = ()
    created_at: float
    updated_at: float
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token, without its secret: ``hash`` is SHA-256 of it. ``cluster_id`` limits it to that cluster's proxy.

    One with the audience `endpoint` is good at the endpoint of its cluster and nowhere else; its hash is
    `wire.endpoint.token_hash`.
    """

    id: str
    hash: bytes
    user_id: str
    user_name: str
    description: str = ""
    cluster_id: str | None = None
    cluster_name: str | None = None
    created_at: float
    expires_at: float | None
    last_used_at: float | None = None
    revoked_at: float | None = None
    audience: Audience = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A user or a group (exactly one of them) may enter a cluster."""

    id: str
    cluster_id: str
    cluster_name: str
    user_id: str | None = None
    user_name: str | None = None
    group_id: str | None = None
    group_name: str | None = None
    created_at: float


@dataclass(frozen=True, slots=True)
class Members:
    """Who may enter one cluster: user id or group id -> the id of the fact that lets them in.

    A fact is a membership or a binding that reaches the cluster; of several, the one that lasts longest. ``until``:
    fact id -> the time from which on it lets nobody in; facts without an end are not in it.
    """

    users: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    until: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delta:
    """What one transaction changed, read back before its commit. None means that the thing is gone.

    ``policy_revision`` is the number of the policy after it; None: it is what it was before.
    """

    clusters: Mapping[str, Cluster | None] = field(default_factory=dict)
    users: Mapping[str, User | None] = field(default_factory=dict)
    tokens: Mapping[str, Token | None] = field(default_factory=dict)
    members: Mapping[str, Members] = field(default_factory=dict)
    policy: PolicyDelta = field(default_factory=PolicyDelta)
    policy_revision: int | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that the in-memory index needs at start. Tokens that are revoked or expired are left out, and those that
    this server does not take."""

    clusters: list[Cluster]
    users: list[User]
    tokens: list[Token]
    members: Mapping[str, Members]
