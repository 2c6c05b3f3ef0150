# SPDX-License-Identifier: Apache-2.0
"""The control process: the only one with the database. REST API, clusters' states, regular work, and the bus.

    store -> index -> roster -> workers        what a commit changed is everywhere before its call is answered
    store -> policies -> roster -> workers     what policy each cluster is to have
    store -> endpoints -> roster -> workers    which tokens each cluster's own endpoint is to take
    workers -> roster -> controllers -> store  what agents report

It must not: touch the data path. Workers serve on while it is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mooring.api import app as api_app
from mooring.api.services import ApiSettings, Services
from mooring.app.orders import BeginControl, Drain
from mooring.authn.agents import AgentDoor, AgentVerifier
from mooring.authn.bootstrap import check_prefix
from mooring.authn.index import Change, ClusterRemoved, Index
from mooring.authn.passwords import Passwords
from mooring.authn.throttle import Throttle
from mooring.bus.roster import Roster
from mooring.control.auditinbox import AuditInbox
from mooring.control.builtins import bring_in_line
from mooring.control.bundles import Bundles
from mooring.control.clusters import ClusterController
from mooring.control.drift import DriftLog
from mooring.control.endpointdocs import Documents
from mooring.control.endpoints import EndpointController
from mooring.control.policies import PolicyController
from mooring.control.signing import signing_key
from mooring.control.upkeep import Upkeep
from mooring.lib import certificates, logging
from mooring.lib.bounds import Bounds
from mooring.lib.clock import SystemClock
from mooring.lib.errors import MooringError
from mooring.lib.ids import new_id
from mooring.lib.tasks import Supervisor
from mooring.policy.book import Book
from mooring.proxy.audit import Audit
from mooring.store.ports import Store
from mooring.store.sql import SqlStore, open_store

_AUDIENCE_KEY: Final = "audience"
_API_START_SECONDS: Final = 20.0
_API_STOP_SECONDS: Final = 5
_STORE_CHECK_SECONDS: Final = 5.0

log = logging.get("mooring.app")


class _Api(uvicorn.Server):
    """uvicorn, without its signal handlers: the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Control:
    """`start`, `wait`, `stop`; `stop` also cleans up after a `start` that failed."""

    def __init__(self, begin: BeginControl) -> None:
        self.config = begin.config
        self.clock = SystemClock()
        self.index = Index()
        self._begin = begin
        self._started_at = self.clock.now()
        self._tasks = Supervisor("control process")
        self._ending = contextlib.AsyncExitStack()
        self._store_problem = "not asked yet"
        self._api_died = asyncio.Event()

    async def start(self) -> None:
        """Raises MooringError."""
        store = await self._open_store()
        audience = await self._audience(store)
        self._store_problem = ""
        roster = Roster(self.index, self.clock, audience, lambda: self._store_problem)
        controller = ClusterController(store, self.index, roster, self.clock, forget=roster.forget)
        roster.on_refused = controller.note_refused
        await controller.start(resumed=self._begin.resumed)
        self._ending.push_async_callback(controller.aclose)
        upkeep = Upkeep(store, self.index, self.clock, controller.connected_ids)
        upkeep.start()
        self._ending.push_async_callback(upkeep.aclose)
        key = await signing_key(store)
        audit = self._open_audit()
        policies, book = await self._start_policies(store, roster, audit, key)
        endpoints = await self._start_endpoints(store, roster, key)
        store.on_commit(roster.publish)
        self._ending.push_async_callback(roster.aclose)
        verifier = AgentVerifier(self.index.agent_key, audience)
        inbox = AuditInbox(audit)
        self.index.subscribe(lambda change: _forget(verifier, inbox, change))
        door = AgentDoor(verifier, self.clock.now, roster.first_use)
        await self._start_api(store, controller, policies, book, endpoints, door, inbox, audience)
        await roster.start(socket.socket(fileno=self._begin.bus))

    async def _open_store(self) -> SqlStore:
        store = open_store(self.config.database_url)
        self._ending.push_async_callback(store.aclose)
        await store.migrate()
        await check_prefix(store, self.config.identity.prefix)
        await bring_in_line(store, self.clock.now())
        self.index.load(await store.snapshot(self.clock.now()))
        store.on_commit(self.index.apply)
        self._tasks.spawn(self._watch_store(store), "store")
        return store

    async def _audience(self, store: Store) -> str:
        """What the JWTs of agents are made out to: a name for this installation that outlives its URL."""
        async with store.write() as tx:
            audience = await tx.settings.get(_AUDIENCE_KEY)
            if audience is None:
                audience = new_id("mooring")
                await tx.settings.put(_AUDIENCE_KEY, audience)
        return audience

    def _open_audit(self) -> Audit:
        """For what agents tell: what drifted in their clusters, what their endpoints took. It does not hold anything up
        here: the workers see to it that nobody acts unrecorded."""
        config = self.config
        audit = Audit(config.audit_path, required=False, spool=config.run_dir / "audit")
        audit.start()
        self._ending.callback(audit.close)
        return audit

    async def _start_policies(
        self, store: SqlStore, roster: Roster, audit: Audit, key: Ed25519PrivateKey
    ) -> tuple[PolicyController, Book]:
        """The policy, in memory and on its way to the clusters."""
        config = self.config
        bundles = Bundles(key, config.identity.prefix)
        self._ending.callback(bundles.close)
        book = Book()
        policies = PolicyController(store, roster, self.clock, book, bundles, DriftLog(audit))
        await policies.start()
        store.on_commit(policies.committed)
        self._ending.push_async_callback(policies.aclose)
        return policies, book

    async def _start_endpoints(self, store: SqlStore, roster: Roster, key: Ed25519PrivateKey) -> EndpointController:
        """The tokens for the endpoints of clusters, on their way there."""
        documents = Documents(key)
        self._ending.callback(documents.close)
        prefix = self.config.identity.prefix
        endpoints = EndpointController(store, self.index, roster, self.clock, documents, prefix=prefix)
        await endpoints.start()
        store.on_commit(endpoints.committed)
        self._ending.push_async_callback(endpoints.aclose)
        return endpoints

    async def _start_api(
        self,
        store: Store,
        controller: ClusterController,
        policies: PolicyController,
        book: Book,
        endpoints: EndpointController,
        door: AgentDoor,
        inbox: AuditInbox,
        audience: str,
    ) -> None:
        """The REST API, in uvicorn on a unix socket that only this user can reach."""
        config = self.config
        attempts = Bounds.from_settings(config).attempts
        passwords = Passwords(max_waiting=attempts.max_passwords_waiting)
        self._ending.callback(passwords.close)
        services = Services(
            store=store,
            index=self.index,
            clock=self.clock,
            passwords=passwords,
            logins=Throttle.of_logins(attempts),
            joins=Throttle.of_joins(attempts),
            control=controller,
            book=book,
            policies=policies,
            endpoints=endpoints,
            agents=door,
            audit=inbox,
            settings=ApiSettings(
                url=config.url,
                ca_pem=certificates.ca_bundle(config),
                instance=config.instance,
                audience=audience,
                identity_prefix=config.identity.prefix,
                started_at=self._started_at,
                password_min_length=config.identity.password_min_length,
                login_ttl=config.identity.login_ttl_seconds,
                max_ttl=config.identity.max_ttl_seconds,
                body_max=config.limits.api_body_bytes,
                agent_image=config.agents.image,
            ),
        )
        server = _Api(
            uvicorn.Config(
                api_app.create(services),
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=75,  # longer than the pool of the edge keeps a free connection
                timeout_graceful_shutdown=_API_STOP_SECONDS,
            )
        )
        task = self._tasks.spawn(server.serve(sockets=[socket.socket(fileno=self._begin.api)]), "api")
        task.add_done_callback(lambda _unused: self._api_died.set())

        async def end() -> None:
            server.should_exit = True
            await asyncio.wait([task], timeout=_API_STOP_SECONDS + 1)

        self._ending.push_async_callback(end)
        async with asyncio.timeout(_API_START_SECONDS):
            while not server.started:
                if task.done():
                    raise MooringError("the REST API did not start", "the log above says why")
                await asyncio.sleep(0.01)

    async def _watch_store(self, store: Store) -> None:
        """Keeps the answer for `/readyz`, which must not wait for a database."""
        while True:
            try:
                async with asyncio.timeout(_STORE_CHECK_SECONDS), store.read() as tx:
                    await tx.settings.get(_AUDIENCE_KEY)
                self._store_problem = ""
            except (MooringError, TimeoutError) as error:
                self._store_problem = str(error) or "no answer in time"
            await asyncio.sleep(_STORE_CHECK_SECONDS)

    async def wait(self, stop: asyncio.Event) -> None:
        """Returns when it is time to stop. Raises MooringError when the REST API died: better a restart than half."""
        api_dead = self._tasks.spawn(self._api_died.wait(), "wait for the API")
        stopping = self._tasks.spawn(stop.wait(), "wait for an order")
        await asyncio.wait([api_dead, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            raise MooringError("the REST API ended unexpectedly", "the log above says why")

    def read_certificate(self) -> None:
        """Nothing here shows it to anybody."""

    async def stop(self, order: Drain) -> None:
        """Answer what is under way, write what is noted, and close everything."""
        try:
            await self._ending.aclose()
        finally:
            await self._tasks.aclose()


def _forget(verifier: AgentVerifier, inbox: AuditInbox, change: Change) -> None:
    if isinstance(change, ClusterRemoved):
        verifier.forget(change.cluster_id)
        inbox.forget(change.cluster_id)
