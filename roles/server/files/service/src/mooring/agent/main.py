# SPDX-License-Identifier: Apache-2.0
"""The agent as a process: wires its parts together, runs them, and stops cleanly.

    kubeapi (own calls) -> identity, join -> dialer -> sessions -> dispatch -> apiserver (streams, impersonator's token)
                        -> credential                 reporter -> sessions       health: /healthz /readyz
                        -> policy (what the server announces, and puts right what somebody else did)
                        -> endpoint (tokens that are good at the cluster's own API server, written into Secrets)

It must not: hold logic of its own.
"""

from __future__ import annotations

import asyncio
import signal
import socket

import uvloop

from mooring.agent import config
from mooring.agent.apiserver import ApiServer
from mooring.agent.config import AgentOptions
from mooring.agent.credential import Credential
from mooring.agent.dialer import Dialer
from mooring.agent.dispatch import Dispatcher
from mooring.agent.endpoint.service import CONNECTIONS as ENDPOINT_CONNECTIONS
from mooring.agent.endpoint.service import EndpointAgent
from mooring.agent.health import Health
from mooring.agent.identity import IdentityStore, Registrations
from mooring.agent.join import Enrolment
from mooring.agent.policy.applier import FLIGHT
from mooring.agent.policy.service import CONNECTIONS, PolicyAgent
from mooring.agent.reporter import Reporter
from mooring.agent.servertime import ServerTime
from mooring.kube.access import ApiServerConfig
from mooring.kube.client import KubeApi
from mooring.lib import logging
from mooring.lib.clock import Clock, SystemClock
from mooring.lib.errors import MooringError
from mooring.lib.ids import new_id
from mooring.lib.tasks import Supervisor
from mooring.lib.version import VERSION
from mooring.tunnel.session import Session

MAX_STREAMS = 1024
"""Streams per session, and connections to the API server."""


class Agent:
    """The running agent."""

    def __init__(self, options: AgentOptions, api: ApiServerConfig, clock: Clock | None = None) -> None:
        self._options = options
        self._clock = clock or SystemClock()
        self._tasks = Supervisor("agent")
        self._kube = KubeApi(api)
        self._apiserver = ApiServer(api, MAX_STREAMS)
        self._credential = Credential(self._kube, options.namespace, self._clock)
        self._dispatcher = Dispatcher(self._apiserver, self._credential, self._clock)
        self._store = IdentityStore(self._kube, options.namespace)
        self._enrolment = Enrolment(self._kube, self._store)
        self._reporter = Reporter(self._kube, self._broadcast, lambda: self._credential.problem)
        self._time = ServerTime(self._clock)
        self._policy_kube = KubeApi(api, connections=CONNECTIONS, idle=FLIGHT)
        # A pod's name is its own; a process elsewhere may have neighbours on its machine that serve the same cluster.
        holder = socket.gethostname() if options.kubeconfig is None else f"{socket.gethostname()}-{new_id('a')}"
        self._policy = PolicyAgent(
            self._policy_kube,
            options.namespace,
            Registrations(self._store.load, self._store.save),
            self._broadcast,
            clock=self._clock,
            time=self._time,
            holder=holder,
        )
        self._endpoint_kube = KubeApi(api, connections=ENDPOINT_CONNECTIONS, idle=1)
        self.endpoint = EndpointAgent(
            self._endpoint_kube,
            options.namespace,
            Registrations(self._store.load, self._store.save),
            self._broadcast,
            clock=self._clock,
            time=self._time,
            holder=holder,
            ca_pem=api.ca_pem,
        )
        self._dialer: Dialer | None = None
        self.health = Health(self.problems)

    @property
    def kube(self) -> KubeApi:
        """For its own calls."""
        return self._kube

    @property
    def credential(self) -> Credential:
        """Of the impersonator."""
        return self._credential

    @property
    def identities(self) -> IdentityStore:
        """Where the registration is."""
        return self._store

    @property
    def time(self) -> ServerTime:
        """What time it is at the server."""
        return self._time

    def problems(self) -> list[str]:
        """What keeps the agent from doing its work; empty: nothing."""
        found = []
        if self._credential.current() is None:
            found.append(self._credential.problem)
        if self._dialer is None:
            found.append(self._enrolment.problem or "starting")
        elif not self._dialer.sessions:
            found.append(self._dialer.problem or "no session to a server")
        return found

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop` is set, then lets open streams finish and closes everything. Raises OSError."""
        if self._options.health_port:
            await self.health.start(self._options.health_address, self._options.health_port)
        self._tasks.spawn(self._credential.run(), "credential")
        self._tasks.spawn(self._reporter.run(), "reporter")
        self._tasks.spawn(self._policy.run(), "policy")
        self._tasks.spawn(self.endpoint.run(), "endpoint")
        self._tasks.spawn(self._connect(), "connect")
        try:
            await stop.wait()
        finally:
            if self._dialer is not None:
                await self._dialer.drain(self._options.drain_seconds)
            await self._dispatcher.aclose()
            await self._tasks.aclose()
            await self._apiserver.aclose()
            await self._policy_kube.aclose()
            await self._endpoint_kube.aclose()
            await self._kube.aclose()
            await self.health.aclose()

    async def _connect(self) -> None:
        identity = await self._enrolment.obtain()
        dialer = Dialer(
            identity,
            self._dispatcher,
            self._enrolment.again,
            clock=self._clock,
            max_streams=MAX_STREAMS,
            time=self._time,
        )
        dialer.on_connected = self._greet
        dialer.on_message = self._hear
        dialer.on_sessions = lambda: self.endpoint.linked(bool(dialer.sessions))
        self._dialer = dialer
        dialer.start()

    def _greet(self, session: Session) -> None:
        session.message(self._reporter.status())
        for status in (self._policy.status(), self.endpoint.status()):
            if status is not None:
                session.message(status)

    def _hear(self, message: dict[str, object]) -> None:
        self._policy.heard(message)
        self.endpoint.heard(message)

    def _broadcast(self, message: dict[str, object]) -> None:
        if self._dialer is not None:
            self._dialer.broadcast(message)


def run(options: AgentOptions) -> int:
    """Runs the agent until SIGTERM or SIGINT. Returns the exit code: 0, or 1 when it cannot start."""
    log = logging.get("mooring.agent")
    try:
        api = config.load(options)
    except MooringError as error:
        log.error("the agent cannot start", reason=error.reason, hint=error.hint)
        return 1
    try:
        uvloop.run(_main(options, api))
    except OSError as error:
        log.error("the agent cannot start", reason=str(error))
        return 1
    return 0


async def _main(options: AgentOptions, api: ApiServerConfig) -> None:
    log = logging.get("mooring.agent")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log.info("starting", version=VERSION, api_server=api.authority.decode(), namespace=options.namespace)
    await Agent(options, api).run(stop)
    log.info("stopped")
