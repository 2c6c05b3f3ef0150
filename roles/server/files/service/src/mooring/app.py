# SPDX-License-Identifier: Apache-2.0
"""The server, put together: the only place that wires parts to each other.

    store -> index -> chain -> edge            the data path, in memory
    store <- api  <- unix socket <- edge       people and automation
    store <- control <- hub <- edge            agents

Start: what can refuse to start does so first (certificate, database, prefix, audit log), the listener is last, so that
a port that answers is a server that works. Stop: the other way round. Nothing else in the service is global.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import uvicorn
import uvloop

from mooring.api import app as api_app
from mooring.api.services import ApiSettings, ClusterControl, Services
from mooring.authn.agents import AgentIdentity, AgentVerifier
from mooring.authn.bootstrap import check_prefix
from mooring.authn.index import Index
from mooring.authn.passwords import Passwords
from mooring.authn.throttle import Throttle
from mooring.control.clusters import ClusterController
from mooring.control.upkeep import Upkeep
from mooring.edge.agents import AgentRoute
from mooring.edge.builtin import Builtin
from mooring.edge.listener import Listener, tls_context
from mooring.edge.rest import RestRoute
from mooring.edge.routes import Routes
from mooring.edge.settings import EdgeSettings
from mooring.lib import certificates, logging
from mooring.lib.bounds import Bounds
from mooring.lib.clock import SystemClock
from mooring.lib.config import Config, ConfigError
from mooring.lib.errors import MooringError
from mooring.lib.files import private_folder
from mooring.lib.ids import new_id
from mooring.lib.pki import RENEW_DAYS
from mooring.lib.tasks import Supervisor
from mooring.lib.version import VERSION
from mooring.net.http1client import Http1Pool, PoolLimits
from mooring.net.sockets import unix_connector
from mooring.proxy.audit import Audit
from mooring.proxy.chain import Chain, ChainSettings
from mooring.proxy.registry import Registry
from mooring.store.ports import Store
from mooring.store.sql import SqlStore, open_store
from mooring.tunnel.carrier import ServerCarrier
from mooring.tunnel.hub import Hub
from mooring.tunnel.session import Session, tunnel_limits
from mooring.wire.frames import Hello

_AUDIENCE_KEY: Final = "audience"
_API_START_SECONDS: Final = 20.0
_API_STOP_SECONDS: Final = 5
_STORE_CHECK_SECONDS: Final = 5.0
_CERTIFICATE_CHECK_SECONDS: Final = 6 * 3600.0

log = logging.get("mooring.app")


def run(config: Config) -> None:
    """Runs the server until SIGTERM or SIGINT. Raises MooringError when it cannot start."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(config))


async def serve(config: Config) -> None:
    """Starts the server, waits for a signal to stop, and stops it."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = Server(config)
    try:
        await server.start()
        loop.add_signal_handler(signal.SIGHUP, server.reload_certificate)
        # One line on standard output for those who start us and wait; everything else goes to the log.
        print(f"listening on {config.url}", flush=True)
        await server.wait(stop)
    finally:
        await server.stop()


class _Api(uvicorn.Server):
    """uvicorn, without its signal handlers: the composition root has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Server:
    """One server. `start`, `wait`, `stop`; `stop` also cleans up after a `start` that failed."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.clock = SystemClock()
        self.index = Index()
        self.bounds = Bounds.from_settings(config)
        self.hub = Hub(self.clock, max_sessions=self.bounds.tunnel.max_sessions_per_cluster)
        self._tunnel_limits = tunnel_limits(self.bounds.tunnel)
        self._started_at = self.clock.now()
        self._instance = f"{config.instance}/{new_id('i')}"
        self._tasks = Supervisor("server")
        self._ending = contextlib.AsyncExitStack()
        self._stopping = False
        self._store_problem = "not asked yet"
        self._api_died = asyncio.Event()
        self._tls: ssl.SSLContext | None = None

    # -- start -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Brings everything up; when it returns, the port answers. Raises MooringError."""
        config = self.config
        private_folder(config.data_dir)
        private_folder(config.run_dir)
        self._ending.callback(os.close, _take_lock(config.run_dir / "lock"))
        self._check_certificate()
        store = await self._open_store()
        audit = self._open_audit()
        audience = await self._audience(store)
        verifier = AgentVerifier(self.index.agent_key, audience)
        control = await self._start_control(store, verifier)
        await self._start_api(store, control, audience)

        bounds = self.bounds
        settings = EdgeSettings.from_limits(bounds.limits, metrics_public=config.server.metrics_public)
        registry = Registry(self.index, self.clock)
        self.index.subscribe(registry.on_change)
        chain = Chain(
            index=self.index,
            hub=self.hub,
            audit=audit,
            registry=registry,
            clock=self.clock,
            settings=ChainSettings.from_limits(bounds.limits, identity_prefix=config.identity.prefix),
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
                control.note_refused,
                per_minute=bounds.attempts.agent_handshakes_per_address,
            ),
            rest=RestRoute(pool, settings),
            builtin=Builtin(
                {
                    "audit": lambda: audit.problem,
                    "database": lambda: self._store_problem,
                    "api": lambda: "it ended" if self._api_died.is_set() else "",
                },
                chain.authenticate,
                metrics_public=settings.metrics_public,
                stopping=lambda: self._stopping,
            ),
        )
        await self._listen(routes, settings, registry)
        self._tasks.spawn(self._watch_certificate(), "certificate")

    def _check_certificate(self) -> None:
        """Renews our own certificate if it is due; refuses one that clients would refuse. Raises MooringError."""
        config, now = self.config, self.clock.now()
        self._renew_if_due()
        wrong = certificates.problems(config, now)
        if wrong:
            raise ConfigError(f"the server's certificate: {wrong[0][0]}", wrong[0][1])
        try:
            self._tls = tls_context(Path(config.tls.cert), Path(config.tls.key))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"the server's certificate cannot be used: {error}", "run: mooring doctor") from None

    async def _open_store(self) -> SqlStore:
        store = open_store(self.config.database_url)
        self._ending.push_async_callback(store.aclose)
        await store.migrate()
        await check_prefix(store, self.config.identity.prefix)
        self.index.load(await store.snapshot(self.clock.now()))
        store.on_commit(self.index.apply)
        self._tasks.spawn(self._watch_store(store), "store")
        return store

    def _open_audit(self) -> Audit:
        audit = Audit(self.config.audit_path, required=self.config.audit.required)
        try:
            audit.start()
        except OSError as error:
            if self.config.audit.required:
                raise ConfigError(
                    f"the audit log {self.config.audit_path} cannot be opened: {error.strerror}",
                    "correct audit.path or the folder's owner; audit.required = false runs without it",
                ) from None
            log.error("requests go unrecorded: the audit log cannot be opened", error=str(error))
        self._ending.callback(audit.close)
        return audit

    async def _start_control(self, store: Store, verifier: AgentVerifier) -> ClusterController:
        control = ClusterController(store, self.index, self.hub, self.clock, forget=verifier.forget)
        await control.start()
        self._ending.push_async_callback(control.aclose)
        upkeep = Upkeep(store, self.index, self.clock, control.connected_ids)
        upkeep.start()
        self._ending.push_async_callback(upkeep.aclose)
        return control

    async def _audience(self, store: Store) -> str:
        """What the JWTs of agents are made out to: a name for this installation that outlives its URL."""
        async with store.write() as tx:
            audience = await tx.settings.get(_AUDIENCE_KEY)
            if audience is None:
                audience = new_id("mooring")
                await tx.settings.put(_AUDIENCE_KEY, audience)
        return audience

    async def _start_api(self, store: Store, control: ClusterControl, audience: str) -> None:
        """The REST API, in uvicorn on a unix socket that only this user can reach."""
        config = self.config
        passwords = Passwords()
        self._ending.callback(passwords.close)
        services = Services(
            store=store,
            index=self.index,
            clock=self.clock,
            passwords=passwords,
            logins=Throttle.of_logins(self.bounds.attempts),
            joins=Throttle.of_joins(self.bounds.attempts),
            control=control,
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
        listener = _unix_listener(config.api_socket)
        task = self._tasks.spawn(server.serve(sockets=[listener]), "api")
        task.add_done_callback(lambda _unused: self._api_died.set())

        async def end() -> None:
            server.should_exit = True
            await asyncio.wait([task], timeout=_API_STOP_SECONDS + 1)
            config.api_socket.unlink(missing_ok=True)

        self._ending.push_async_callback(end)
        async with asyncio.timeout(_API_START_SECONDS):
            while not server.started:
                if task.done():
                    raise MooringError("the REST API did not start", "the log above says why")
                await asyncio.sleep(0.01)

    async def _listen(self, routes: Routes, settings: EdgeSettings, registry: Registry) -> None:
        config = self.config
        assert self._tls is not None
        listener = Listener(routes.handle, settings, sweep=registry.sweep)
        host, port = config.address
        try:
            await listener.start(host, port, self._tls)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {config.server.listen}: {error.strerror or error}",
                "another program may have the port; correct server.listen, or stop that program",
            ) from None

        async def end() -> None:
            seconds = config.server.stop_timeout_seconds
            # Watches end at once, so that their clients go to another replica; the others may finish.
            registry.cut_endless("stop", "the server stops; connect again")
            await asyncio.gather(listener.stop(seconds), self.hub.close_all(seconds))

        self._ending.push_async_callback(end)

    def _accept_agent(self, identity: AgentIdentity, transport: asyncio.Transport, raw: bytes, source: str) -> None:
        """An agent has proved which cluster it is: its connection becomes a session of the hub."""
        hello = Hello(instance=self._instance, version=VERSION, window=self.bounds.tunnel.window_bytes)
        session = Session("server", hello, limits=self._tunnel_limits, name=f"{identity.cluster_id} from {source}")
        self.hub.add(identity.cluster_id, session)
        ServerCarrier.accept(transport, raw, session)

    # -- while it runs -----------------------------------------------------------------------------------------------

    async def wait(self, stop: asyncio.Event) -> None:
        """Returns when it is time to stop. Raises MooringError when the REST API died: better a restart than half."""
        api_dead = self._tasks.spawn(self._api_died.wait(), "wait for the API")
        stopping = self._tasks.spawn(stop.wait(), "wait for a signal")
        await asyncio.wait([api_dead, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not stop.is_set():
            raise MooringError(
                "the REST API ended unexpectedly", "the log above says why; the server must be restarted"
            )

    def reload_certificate(self) -> None:
        """Reads the certificate again; new connections get the new one. A bad pair leaves the old one in use."""
        config = self.config
        try:
            wrong = certificates.problems(config, self.clock.now())
            if wrong:
                raise ConfigError(*wrong[0])
            assert self._tls is not None
            self._tls.load_cert_chain(config.tls.cert, config.tls.key)
        except (MooringError, OSError) as error:
            log.error("the certificate was not read again; the old one stays in use", error=str(error))
        else:
            log.info("certificate read", days_left=round(certificates.days_left(config, self.clock.now())))

    def _renew_if_due(self) -> bool:
        config, now = self.config, self.clock.now()
        if not config.tls.ca_key or certificates.days_left(config, now) > RENEW_DAYS:
            return False
        until = certificates.renew(config, (), now)
        log.info("certificate renewed", valid_until=until.isoformat())
        return True

    async def _watch_certificate(self) -> None:
        while True:
            await asyncio.sleep(_CERTIFICATE_CHECK_SECONDS)
            try:
                if self._renew_if_due():
                    self.reload_certificate()
                elif certificates.days_left(self.config, self.clock.now()) < RENEW_DAYS:
                    log.warning("the certificate ends soon; renew it where it came from and send SIGHUP")
            except (MooringError, OSError) as error:
                log.error("the certificate could not be renewed", error=str(error))

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

    # -- stop --------------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Takes nothing new, lets what is under way finish within stop_timeout_seconds, and closes everything."""
        self._stopping = True
        log.info("stopping")
        try:
            await self._ending.aclose()
        finally:
            await self._tasks.aclose()


def _take_lock(path: Path) -> int:
    """Keeps a second server from taking this one's socket and database. The kernel lets go of it whenever we end.

    Returns the open file. Raises MooringError when a server has it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise MooringError(
            f"a server runs already with the data folder {path.parent.parent}",
            "stop it first, or give this one a --config of its own",
        ) from None
    return descriptor


def _unix_listener(path: Path) -> socket.socket:
    """A listening socket at `path` with mode 0600, in place of one that a dead server left. Raises MooringError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
    except OSError as error:
        listener.close()
        raise MooringError(f"the socket {path} cannot be made: {error}", "correct server.run_dir") from None
    return listener
