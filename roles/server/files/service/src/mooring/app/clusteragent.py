# SPDX-License-Identifier: Apache-2.0
"""`mooring agent --endpoint-listen`: the agent of a cluster, and beside it the endpoint that the cluster serves itself.

    agent.main.Agent       as without an endpoint; the tunnel goes down with the server, the endpoint does not
    certificate.Keeper  -> TLS of the port, and the CA that the server puts into kubeconfigs
    service.Endpoint       of the registration as it is now; made anew when that changes
    journal, ship          audit records, on disk until the server has them

It must not: hold logic of its own, or be imported by an agent without an endpoint.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Final

import uvloop

from mooring.agent import config
from mooring.agent.config import AgentOptions
from mooring.agent.identity import BadIdentity, Identity
from mooring.agent.main import Agent
from mooring.endpoint.certificate import Keeper, Shown
from mooring.endpoint.journal import Journal
from mooring.endpoint.service import Endpoint, Surroundings
from mooring.endpoint.settings import EndpointOptions
from mooring.endpoint.ship import Shipper
from mooring.kube.access import ApiServerConfig, BadConfig
from mooring.kube.client import KubeError
from mooring.kube.names import ENDPOINT_NAME
from mooring.lib import heap, logging
from mooring.lib.backoff import Backoff
from mooring.lib.clock import Clock, SystemClock
from mooring.lib.errors import MooringError
from mooring.lib.tasks import Supervisor
from mooring.lib.version import VERSION
from mooring.net.fetch import FetchError

LOOK: Final = 5.0
"""Seconds between two looks at the registration."""
_FAILURES: Final = (KubeError, FetchError, BadConfig, BadIdentity, MooringError, OSError)

log = logging.get("mooring.endpoint")


class ClusterAgent:
    """The agent with its endpoint."""

    def __init__(
        self, options: AgentOptions, api: ApiServerConfig, served: EndpointOptions, clock: Clock | None = None
    ) -> None:
        self.agent = Agent(options, api, clock)
        self.endpoint: Endpoint | None = None
        self._options = options
        self._served = served
        self._api = api
        self._clock = clock or SystemClock()
        self._tasks = Supervisor("endpoint")
        self.journal = Journal(served.folder / "audit", limit=served.audit_limit, required=served.audit_required)
        self._names = (*served.names, f"{ENDPOINT_NAME}.{options.namespace}.svc")
        self.keeper = Keeper(self.agent.kube, options.namespace, self._names, self._clock, self._certified)
        self.shipper = Shipper(self.journal, self.agent.identities.load, self.agent.time)

    def problems(self) -> list[str]:
        """What keeps the endpoint from its work; empty: nothing."""
        if self.endpoint is None:
            return [f"endpoint: {self.keeper.problem or 'starting'}"]
        wrong = self.endpoint.problem or self.keeper.problem or self.journal.problem
        return [f"endpoint: {wrong}"] if wrong else []

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop` is set. Raises MooringError and OSError when it cannot start."""
        self.journal.open()
        try:
            self.journal.start()
            self._tasks.spawn(self._serve(stop), "serve")
            self._tasks.spawn(self.shipper.run(), "audit")
            await self.agent.run(stop)
        finally:
            await self._tasks.aclose()
            if self.endpoint is not None:
                await self.endpoint.stop(0.0)
            self.journal.close()
            self.journal.shut()

    async def _serve(self, stop: asyncio.Event) -> None:
        await self.keeper.first(Backoff().next)
        self._tasks.spawn(self.keeper.run(), "certificate")
        backoff = Backoff()
        while not stop.is_set():
            try:
                identity, uid = await self._registered()
                self.endpoint = Endpoint(self._around(), identity, uid)
                await self.endpoint.start()
            except _FAILURES as error:
                log.error("the endpoint cannot be served yet", reason=str(error))
                await self._end(0.0)
                await asyncio.sleep(backoff.next())
                continue
            backoff.reset()
            ended = self._tasks.spawn(stop.wait(), "stop")
            moved = self._tasks.spawn(self._moved(identity), "registration")
            await asyncio.wait({ended, moved}, return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            moved.cancel()
            # What is under way may finish while the agent drains its tunnel; a registration that is gone grants none.
            await self._end(self._options.drain_seconds if stop.is_set() else 0.0)

    async def _end(self, seconds: float) -> None:
        endpoint, self.endpoint = self.endpoint, None
        if endpoint is not None:
            await endpoint.stop(seconds)

    def _around(self) -> Surroundings:
        return Surroundings(
            options=self._served,
            api=self._api,
            namespace=self._options.namespace,
            credential=self.agent.credential,
            audit=self.journal,
            tls=self.keeper.context,
            clock=self._clock,
        )

    async def _registered(self) -> tuple[Identity, str]:
        """The registration, once there is one whose documents can be verified, and the cluster's UID."""
        while True:
            identity = await self.agent.identities.load()
            if identity.registered and identity.policy_key:
                break
            await asyncio.sleep(1.0)
        namespace = await self.agent.kube.json("GET", "/api/v1/namespaces/kube-system")
        uid = str((namespace.get("metadata") or {}).get("uid") or "")
        if not uid:
            raise MooringError("kube-apiserver gave no uid for the namespace kube-system")
        return identity, uid

    async def _moved(self, identity: Identity) -> None:
        """Returns when the cluster is registered as something else."""
        while True:
            await asyncio.sleep(LOOK)
            try:
                now = await self.agent.identities.load()
            except _FAILURES:
                continue  # the API server is away: what is known stays
            if (now.cluster_id, now.policy_key) != (identity.cluster_id, identity.policy_key):
                log.warning("the cluster is registered anew; the endpoint starts over", cluster=now.cluster_id)
                return

    def _certified(self, shown: Shown) -> None:
        host, port = self._names[0], self._served.port
        url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self.agent.endpoint.serving = {"url": self._served.url or url, "ca_pem": shown.ca}


def run(options: AgentOptions, served: EndpointOptions) -> int:
    """Runs until SIGTERM or SIGINT. Returns the exit code: 0, or 1 when it cannot start."""
    heap.keep_buffers_out()
    try:
        uvloop.run(_main(options, config.load(options), served))
    except MooringError as error:
        log.error("the agent cannot start", reason=error.reason, hint=error.hint)
        return 1
    except OSError as error:
        log.error("the agent cannot start", reason=str(error))
        return 1
    return 0


async def _main(options: AgentOptions, api: ApiServerConfig, served: EndpointOptions) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    log.info("starting", version=VERSION, api_server=api.authority.decode(), namespace=options.namespace)
    await ClusterAgent(options, api, served).run(stop)
    log.info("stopped")
