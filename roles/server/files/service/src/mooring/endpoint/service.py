# SPDX-License-Identifier: Apache-2.0
"""The endpoint of one registration of the cluster: wires the chain to the local copy and to the agent's dispatcher.

    Secrets -> webhook.follow -> webhook.copy -> feed -> index -> chain -> local session -> dispatcher -> kube-apiserver

It is made anew when the cluster is registered anew: everything here is good for one cluster id and one policy key.

It must not: serve before a signed index of this cluster was read, or outlive the registration.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mooring.agent.apiserver import ApiServer
from mooring.agent.credential import Credential
from mooring.agent.dispatch import Dispatcher
from mooring.agent.identity import Identity
from mooring.agent.local import LocalSession
from mooring.edge.listener import Listener
from mooring.edge.settings import EdgeSettings
from mooring.endpoint.entrance import Direct
from mooring.endpoint.feed import Feed
from mooring.endpoint.routes import Routes
from mooring.endpoint.settings import EndpointOptions
from mooring.endpoint.way import OwnCluster
from mooring.kube.access import ApiServerConfig
from mooring.kube.client import KubeApi
from mooring.lib import logging
from mooring.lib.clock import Clock
from mooring.lib.errors import MooringError
from mooring.proxy.audit import Audit
from mooring.proxy.chain import Chain, ChainSettings
from mooring.proxy.registry import Registry
from mooring.webhook.copy import Copy
from mooring.webhook.disk import Disk
from mooring.webhook.follow import Follow
from mooring.wire.sealed import public_key

CONNECTIONS: Final = 4
"""To the API server, for following the Secrets."""
STOP: Final = 2.0
"""Seconds that answers under way may take when the endpoint ends."""
_NOT_YET: Final = "the tokens of this cluster have not been read yet"


class CopyClock:
    """The time by which tokens end: the copy's, which never goes back."""

    def __init__(self, copy: Copy, clock: Clock) -> None:
        self.now = copy.now
        self.monotonic = clock.monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the agent has, whatever the cluster is registered as."""

    options: EndpointOptions
    api: ApiServerConfig
    namespace: str
    credential: Credential
    audit: Audit
    tls: ssl.SSLContext
    clock: Clock


class Endpoint:
    """`start`, then `stop`; `stop` also cleans up after a `start` that failed."""

    def __init__(self, around: Surroundings, identity: Identity, cluster_uid: str) -> None:
        """Raises MooringError for an identity without a key that documents are signed with."""
        key = public_key(identity.policy_key)
        if key is None:
            raise MooringError("the server has not named the key that it signs with")
        options, clock = around.options, around.clock
        self._options = options
        self._tls = around.tls
        self.copy = Copy(identity.cluster_id, cluster_uid, key, clock)
        self.feed = Feed(identity.cluster_id, identity.cluster_name)
        self.copy.subscribe(self.feed)
        self.disk = Disk(_folder(options, identity))
        self._kube = KubeApi(around.api, connections=CONNECTIONS, idle=1)
        self.follow = Follow(self._kube, around.namespace, self.copy, self.disk)
        # Its own connections and streams: many direct calls do not keep out those that come through the tunnel.
        most = options.limits.max_streams_per_cluster
        self._apiserver = ApiServer(around.api, most)
        self._dispatcher = Dispatcher(self._apiserver, around.credential, clock)
        self._session = LocalSession(self._dispatcher, most)
        time = CopyClock(self.copy, clock)
        self.registry = Registry(self.feed.index, time)
        self.feed.index.subscribe(self.registry.on_change)
        self.feed.recheck = self.registry.recheck
        self.feed.on_prefix = self._named
        self.chain = Chain(
            index=self.feed.index,
            hub=OwnCluster(identity.cluster_id, self._session),
            audit=around.audit,
            registry=self.registry,
            clock=time,
            settings=ChainSettings.from_limits(options.limits, identity_prefix="-"),  # named before anybody is let in
            stale=self._stale,
            entrance=Direct(self.feed.cluster),
        )
        self._listener = Listener(
            Routes(self.chain).handle, EdgeSettings.from_limits(options.limits), sweep=self.registry.sweep
        )
        self._log = logging.get("mooring.endpoint")

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._listener.port

    @property
    def problem(self) -> str:
        """Why nobody can be let in, or who is let in may not be so any more; empty: all is well."""
        return self._stale() or self.follow.problem or self.copy.problem

    async def start(self) -> None:
        """Listen. Raises MooringError and OSError."""
        self.disk.prepare()
        self.follow.load()
        self.follow.start()
        await self._listener.start(self._options.host or None, self._options.port, self._tls)
        self._log.info("the endpoint is served", port=self.port, cluster=self.feed.cluster.name)

    async def stop(self, seconds: float = STOP) -> None:
        """Let answers under way finish for so long, and close everything. Watches and the like end at once."""
        self.registry.cut_endless("stop", "the endpoint stops; connect again")
        await self._listener.stop(seconds)
        self._session.close()
        await asyncio.sleep(0)
        await self._dispatcher.aclose()
        await self._apiserver.aclose()
        await self.follow.aclose()
        await self._kube.aclose()

    def _stale(self) -> str:
        return "" if self.copy.ready and self.feed.prefix else _NOT_YET

    def _named(self, prefix: str) -> None:
        """The names by which the cluster knows people have changed: nothing goes on under the old ones."""
        self.chain.rename(prefix)
        self.registry.cut_all("user", "the names of users have changed; connect again")


def _folder(options: EndpointOptions, identity: Identity) -> Path:
    return options.folder / "copy" / identity.cluster_id
