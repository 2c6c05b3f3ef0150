# SPDX-License-Identifier: Apache-2.0
"""A worker: the edge, the proxy chain and the tunnels, on a socket that it shares with nobody but its replacement.

    edge -> chain -> hub -> agents            the data path, in memory
    edge -> unix socket                       the REST API, in the control process
    index <- link <- control                  who may do what

Start: what can refuse to start does so first, the listener is last. Stop: the other way round.

It must not: open the database, or believe an index that control has not confirmed for `server.control_grace_seconds`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mooring.app.orders import BeginWorker, Drain, Settled
from mooring.authn.agents import AgentIdentity, AgentVerifier
from mooring.authn.index import AgentKeyChanged, Change, ClusterRemoved, Index
from mooring.bus.link import Link
from mooring.edge.accept import BACKLOG
from mooring.edge.agents import AgentRoute
from mooring.edge.builtin import Builtin
from mooring.edge.listener import Listener, tls_context
from mooring.edge.rest import RestRoute
from mooring.edge.routes import Routes
from mooring.edge.settings import EdgeSettings
from mooring.lib import logging
from mooring.lib.bounds import Bounds
from mooring.lib.clock import SystemClock
from mooring.lib.config import ConfigError
from mooring.lib.tasks import Supervisor
from mooring.lib.version import VERSION
from mooring.net.http1client import Http1Pool, PoolLimits
from mooring.net.sockets import unix_connector
from mooring.proxy.audit import Audit
from mooring.proxy.chain import Chain, ChainSettings
from mooring.proxy.registry import Registry
from mooring.tunnel.carrier import ServerCarrier
from mooring.tunnel.hub import Hub
from mooring.tunnel.session import Session, tunnel_limits
from mooring.wire.frames import MAX_PEERS
from mooring.wire.hello import Hello

CONTROL_SECONDS: Final = 40.0
"""For the first snapshot of control."""
LINGER_SECONDS: Final = 5.0
"""For clients to send one more request on a connection that they keep, when another worker has taken over."""
API_WAIT_SECONDS: Final = 5.0
"""Without control, after which calls of the REST API are refused at once."""
_TICK_SECONDS: Final = 0.25

log = logging.get("mooring.app")


class Worker:
    """`start`, `wait`, `stop`; `stop` also cleans up after a `start` that failed."""

    def __init__(self, begin: BeginWorker, tell: Callable[[Settled], None]) -> None:
        self.config = begin.config
        self.clock = SystemClock()
        self.index = Index()
        self._bounds = Bounds.from_settings(begin.config, share=begin.workers)
        self._tunnel_limits = tunnel_limits(self._bounds.tunnel)
        self.hub = Hub(self.clock, max_sessions=self._bounds.tunnel.max_sessions_per_cluster)
        self._begin = begin
        self._tell = tell
        self._link = Link(
            str(self.config.bus_socket),
            instance=begin.instance,
            slot=begin.slot,
            pid=os.getpid(),
            index=self.index,
            hub=self.hub,
            clock=self.clock,
        )
        self._tasks = Supervisor("worker")
        self._ending = contextlib.AsyncExitStack()
        self._stopping = False
        self._tls: ssl.SSLContext | None = None
        self._listener: Listener | None = None
        self._registry = Registry(self.index, self.clock)
        self._hello: Hello | None = None

    async def start(self) -> None:
        """When it returns, the worker serves. Raises MooringError."""
        config = self.config
        self._read_tls()
        audit = self._open_audit()
        self._ending.push_async_callback(self._link.aclose)
        self.hub.expected = self._link.expected
        await self._link.start(CONTROL_SECONDS)
        verifier = AgentVerifier(self.index.agent_key, self._link.audience)
        self.index.subscribe(self._registry.on_change)
        self.index.subscribe(lambda change: self._right_changed(change, verifier))
        self.hub.on_change.append(self._agent_changed)
        self._link.on_instances = self._tell_agents

        bounds = self._bounds
        settings = EdgeSettings.from_limits(bounds.limits, metrics_public=config.server.metrics_public)
        chain = Chain(
            index=self.index,
            hub=self.hub,
            audit=audit,
            registry=self._registry,
            clock=self.clock,
            settings=ChainSettings.from_limits(bounds.limits, identity_prefix=config.identity.prefix),
            stale=self._stale,
        )
        pool = Http1Pool(
            unix_connector(str(config.api_socket)),
            name="the REST API",
            limits=PoolLimits(max_connections=settings.api_requests),
        )
        self._ending.push_async_callback(pool.aclose)
        routes = Routes(
            chain=chain,
            agents=AgentRoute(
                verifier,
                self.clock,
                self._accept_agent,
                self._link.note_refused,
                per_minute=bounds.attempts.agent_handshakes_per_address,
                claim=self._link.claim,
                instance=self._begin.instance,
            ),
            rest=RestRoute(pool, settings, away=self._api_away),
            builtin=Builtin(
                {
                    "audit": lambda: audit.problem,
                    "database": lambda: self._link.database,
                    "api": lambda: "" if self._link.connected else "the control process is away",
                },
                chain.authenticate,
                metrics_public=settings.metrics_public,
                stopping=lambda: self._stopping,
                render=self._link.metrics,
            ),
        )
        listener = Listener(routes.handle, settings, sweep=self._registry.sweep)
        assert self._tls is not None
        sockets = [socket.socket(fileno=number) for number in self._begin.listen]
        try:
            for sock in sockets:
                sock.listen(BACKLOG)
        except OSError as error:
            raise ConfigError(f"cannot listen on {config.server.listen}: {error.strerror or error}") from None
        listener.start_on(sockets, self._tls)
        self._listener = listener
        self._tasks.spawn(self._tick(), "tick")

    def _read_tls(self) -> None:
        config = self.config
        try:
            self._tls = tls_context(Path(config.tls.cert), Path(config.tls.key))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"the server's certificate cannot be used: {error}", "run: mooring doctor") from None

    def _open_audit(self) -> Audit:
        config = self.config
        audit = Audit(config.audit_path, required=config.audit.required, spool=config.run_dir / "audit")
        try:
            audit.start()
        except OSError as error:
            raise ConfigError(
                f"the audit log {self.config.audit_path} cannot be opened: {error.strerror}",
                "correct audit.path or the folder's owner; audit.required = false runs without it",
            ) from None
        self._ending.callback(audit.close)
        return audit

    # -- agents --------------------------------------------------------------------------------------------------------

    def _accept_agent(self, identity: AgentIdentity, transport: asyncio.Transport, raw: bytes, source: str) -> None:
        """An agent has proved which cluster it is: its connection becomes a session of the hub."""
        hello = self._hello
        if hello is None:  # one for all, until the instances change
            hello = self._hello = Hello(
                instance=self._begin.instance,
                version=VERSION,
                window=self._bounds.tunnel.window_bytes,
                instances=self._link.instances[:MAX_PEERS],
            )
        session = Session("server", hello, limits=self._tunnel_limits, name=f"{identity.cluster_id} from {source}")
        self.hub.add(identity.cluster_id, session)
        ServerCarrier.accept(transport, raw, session)

    def _tell_agents(self, names: list[str]) -> None:
        """The workers of this server have changed: agents look for those that they do not know."""
        self._hello = None
        self.hub.broadcast({"kind": "instances", "instances": names[:MAX_PEERS]})

    def _agent_changed(self, cluster_id: str, connected: bool, reason: str) -> None:
        if connected and self.index.cluster(cluster_id) is None:  # deleted while its agent was shaking hands
            self.hub.remove(cluster_id, "the cluster was deleted")

    def _right_changed(self, change: Change, verifier: AgentVerifier) -> None:
        if isinstance(change, ClusterRemoved):
            self.hub.remove(change.cluster_id, "the cluster was deleted")
            verifier.forget(change.cluster_id)
        elif isinstance(change, AgentKeyChanged):
            self.hub.remove(change.cluster_id, "the agent registered with another key")

    # -- while it runs -------------------------------------------------------------------------------------------------

    def _api_away(self) -> str:
        """Calls wait in the socket's queue while control is replaced. Once that takes long they are refused instead."""
        return "the control process is away" if self._link.lost_for() > API_WAIT_SECONDS else ""

    def _stale(self) -> str:
        """Why nobody can be let in: what was revoked since control went away is not known here."""
        if self._link.lost_for() <= self.config.server.control_grace_seconds:
            return ""
        return "the control process is away for too long: it is not known who may still do what"

    async def _tick(self) -> None:
        settled = False
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            if self._stale() and len(self._registry):
                self._registry.cut_all("control", self._stale())
            if not settled and self._link.settled():
                settled = True
                self._tell(Settled())

    async def wait(self, stop: asyncio.Event) -> None:
        """Returns when it is time to stop."""
        await stop.wait()

    def read_certificate(self) -> None:
        """Take the certificate that is there now; the supervisor has checked it."""
        assert self._tls is not None
        try:
            self._tls.load_cert_chain(self.config.tls.cert, self.config.tls.key)
        except OSError as error:
            log.error("the certificate was not read again; the old one stays in use", error=str(error))

    # -- stop ----------------------------------------------------------------------------------------------------------

    async def stop(self, order: Drain) -> None:
        """Take nothing new, let what is under way finish, and close everything."""
        self._stopping = True
        listener = self._listener
        if listener is not None:
            self._link.leave()
            if order.replaced:
                await listener.retire(min(LINGER_SECONDS, order.seconds))
            # Watches end at once, so that their clients go to another worker; the others may finish.
            self._registry.cut_endless("stop", "the server stops; connect again", spare_raw=order.replaced)
            await asyncio.gather(listener.stop(order.seconds), self.hub.close_all(order.seconds))
        try:
            await self._ending.aclose()
        finally:
            await self._tasks.aclose()
