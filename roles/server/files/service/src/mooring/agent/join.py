# SPDX-License-Identifier: Apache-2.0
"""How the agent comes to be known to a server: a one-time join token is exchanged for its pinned public key.

It must not: trust the server by anything but the CA in the join Secret (a publicly valid certificate for the same name
is refused), spend a second token while the first registration holds, or give up for good: a person may apply a new
token at any time.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mooring.agent.identity import BadIdentity, Identity, IdentityStore, Join, registered
from mooring.kube.access import BadConfig
from mooring.kube.client import KubeApi, KubeError
from mooring.lib import logging
from mooring.lib.backoff import Backoff
from mooring.lib.errors import MooringError
from mooring.lib.version import VERSION
from mooring.net.fetch import Answer, FetchError, fetch
from mooring.net.http1client import Http1Pool, PoolLimits
from mooring.net.sockets import tcp_connector
from mooring.net.tls import BadTrust, client_context
from mooring.wire.headers import RequestHead

REGISTER_DEADLINE = 15.0
"""Seconds for a registration."""


class RegistrationRefused(MooringError):
    """The server does not take the registration. `status` is its HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


_EXPECTED = (KubeError, FetchError, BadConfig, BadIdentity, BadTrust, RegistrationRefused)


async def register(join: Join, identity: Identity, cluster_uid: str, kubernetes_version: str) -> Identity:
    """Registers the public key. Raises RegistrationRefused, FetchError, BadTrust, BadIdentity."""
    url = urlsplit(join.server_url)
    host, port = url.hostname or "", url.port or 443
    pool = Http1Pool(
        tcp_connector(host, port, client_context(join.ca_pem)),
        name=f"the server {join.server_url}",
        limits=PoolLimits(max_connections=1, max_idle=0),
    )
    body = {
        "join_token": join.token.reveal(),
        "public_key": identity.public_key(),
        "cluster_uid": cluster_uid,
        "agent_version": VERSION,
        "kubernetes_version": kubernetes_version,
    }
    head = RequestHead(
        b"POST",
        url.path.rstrip("/").encode("ascii") + b"/api/v1/agents/register",
        [
            (b"Host", url.netloc.rpartition("@")[2].encode("ascii")),
            (b"User-Agent", f"mooring-agent/{VERSION}".encode()),
            (b"Content-Type", b"application/json"),
            (b"Accept", b"application/json"),
        ],
    )
    try:
        answer = await fetch(pool, head, msgspec.json.encode(body), deadline=REGISTER_DEADLINE)
    finally:
        await pool.aclose()
    if answer.status != 201:
        raise RegistrationRefused(answer.status, _why(answer))
    try:
        return registered(identity, join, msgspec.json.decode(answer.body, type=dict[str, Any]))
    except msgspec.MsgspecError:
        raise BadIdentity("the server's answer to the registration is not JSON") from None


def _why(answer: Answer) -> str:
    """What a problem document says, else the HTTP status."""
    try:
        problem = msgspec.json.decode(answer.body, type=dict[str, Any])
    except msgspec.MsgspecError:
        problem = {}
    text = problem.get("detail") or problem.get("title")
    return f"the server refuses the registration: {str(text)[:500] if text else f'HTTP status {answer.status}'}"


class Enrolment:
    """Gets the cluster registered, and registered anew when that is needed."""

    def __init__(self, kube: KubeApi, store: IdentityStore) -> None:
        self._kube = kube
        self._store = store
        self._log = logging.get("mooring.agent.join")
        self.problem = "the agent has not yet read its identity"
        """Why the cluster is not registered, for people; empty when it is."""

    async def obtain(self) -> Identity:
        """The registered identity; keeps trying until there is one."""
        backoff = Backoff(1.0, 30.0)
        identity: Identity | None = None
        while True:
            try:
                identity = await self._store.load()
                join = await self._store.join()
                if identity.registered and not _moved(identity, join):
                    self.problem = ""
                    return identity
                if join is None:
                    raise BadIdentity(
                        "there is no Secret mooring-join with a join token", "apply the cluster's import manifest"
                    )
                return await self._register(join, identity)
            except _EXPECTED as error:
                if isinstance(error, RegistrationRefused) and identity is not None and identity.registered:
                    # The Secret names another server that does not take us: the one that knows us still does.
                    self._log.warning("not registered with the server of the join Secret", reason=str(error))
                    self.problem = ""
                    return identity
                self.problem = str(error)
                delay = backoff.next()
                self._log.error("not registered", reason=str(error), retry_seconds=round(delay, 1))
                await asyncio.sleep(delay)

    async def again(self, identity: Identity) -> Identity | None:
        """The server refuses the key: registers it with a join token that was not used yet. None if there is none."""
        try:
            join = await self._store.join()
            if join is None or join.token_id == identity.join_token_id:
                self._log.error(
                    "the server does not accept this cluster's key, and there is no new join token",
                    cluster=identity.cluster_id,
                    hint="apply the import manifest again: it brings a new join token",
                )
                return None
            return await self._register(join, identity)
        except _EXPECTED as error:
            self._log.error("not registered anew", reason=str(error))
            return None

    async def _register(self, join: Join, identity: Identity) -> Identity:
        namespace = await self._kube.json("GET", "/api/v1/namespaces/kube-system")
        metadata = namespace.get("metadata")
        uid = metadata.get("uid") if isinstance(metadata, dict) else None
        if not isinstance(uid, str) or not uid:
            raise KubeError(502, "kube-apiserver gave no uid for the namespace kube-system")
        version = await self._kube.json("GET", "/version")
        known = await register(join, identity, uid, str(version.get("gitVersion", "")))
        await self._store.save(known)
        self.problem = ""
        self._log.info("registered", cluster=known.cluster_id, name=known.cluster_name, server=join.server_url)
        return known


def _moved(identity: Identity, join: Join | None) -> bool:
    """Whether the join Secret asks for another server than the one that knows the key."""
    return join is not None and join.token_id != identity.join_token_id and join.server_url != identity.server_url
