# SPDX-License-Identifier: Apache-2.0
"""What the REST API is given by the composition root: its services and its settings, and nothing global."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mooring.authn.agents import AgentIdentity
from mooring.authn.index import ClusterView, Index
from mooring.authn.passwords import Passwords
from mooring.authn.throttle import Throttle
from mooring.lib.clock import Clock
from mooring.policy.book import Book
from mooring.policy.standing import Standing
from mooring.store.ports import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """Lives are in seconds. `url` is the server's public URL without a slash at its end, `ca_pem` the CA that clients
    and agents trust, `audience` what the JWTs of agents must be made out to."""

    url: str
    ca_pem: str
    instance: str
    audience: str
    identity_prefix: str = "mooring:"
    started_at: float = 0.0
    password_min_length: int = 12
    login_ttl: int = 12 * 3600
    max_ttl: int = 365 * 86400
    join_ttl: int = 24 * 3600
    max_join_ttl: int = 7 * 86400
    body_max: int = 1024 * 1024
    agent_image: str = ""

    @property
    def tunnel_url(self) -> str:
        """Where agents connect."""
        return "wss://" + self.url.split("://", 1)[-1] + "/tunnel/connect"


class ClusterControl(Protocol):
    """What the API asks of the cluster controller."""

    def note_refused(self, cluster_id: str, reason: str) -> None:
        """An agent that says it is this cluster's was refused."""

    def note_registered(self, cluster_id: str) -> None:
        """The cluster's agent has registered."""


class SignedBundle(Protocol):
    """The policy of one cluster as its agent gets it."""

    @property
    def digest(self) -> str:
        """Of its content, hex."""

    @property
    def data(self) -> bytes:
        """All of it."""


class PolicyControl(Protocol):
    """What the API asks of the policy controller."""

    @property
    def public_key(self) -> str:
        """The key that bundles are signed with, base64url."""

    def digest(self, cluster_id: str) -> str:
        """Of the bundle that the cluster is to have; empty: none is rendered yet."""

    async def bundle(self, cluster_id: str) -> SignedBundle | None:
        """The cluster's bundle; None: not now."""

    def standing(self, cluster_id: str) -> Standing | None:
        """How the cluster stands; None: there is no such cluster."""


class AuditInbox(Protocol):
    """Who takes the audit records of endpoints that clusters serve themselves."""

    async def take(self, cluster: ClusterView, journal: str, offset: int, lines: bytes) -> tuple[int, int] | None:
        """How many lines were written now, and up to which byte of the journal everything is there; None: not now."""


class EndpointControl(Protocol):
    """What the API asks of the endpoint controller."""

    def digest(self, cluster_id: str) -> str:
        """Of the index that the cluster is to have; empty: there is none yet, or never was."""

    async def documents(self, cluster_id: str, have: Mapping[int, str]) -> tuple[bytes, dict[int, bytes]] | None:
        """The cluster's index, and those of its shards that differ from the digests in `have`; None: not now."""

    async def delivered(self, cluster_id: str, token_id: str, seconds: float) -> bool:
        """Whether all that was committed up to now, and the token (unless that is ""), is in the cluster, or is within
        so many seconds."""


class AgentDoor(Protocol):
    """Who lets agents in."""

    def admit(self, jwt: str) -> AgentIdentity:
        """The agent that this JWT proves, shown for the first time. Raises AgentRefused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything that a request handler may use."""

    store: Store
    index: Index
    clock: Clock
    passwords: Passwords
    logins: Throttle
    joins: Throttle
    control: ClusterControl
    book: Book
    policies: PolicyControl
    endpoints: EndpointControl
    agents: AgentDoor
    audit: AuditInbox
    settings: ApiSettings
