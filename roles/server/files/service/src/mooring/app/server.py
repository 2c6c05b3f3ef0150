# SPDX-License-Identifier: Apache-2.0
"""The supervisor: owns the sockets and the certificate, and keeps the other processes alive.

Start: what can refuse to start does so first (lock, certificate, port), then control, then the workers; the port takes
connections when a worker listens on it, so a port that answers is a server that works. Stop: the other way round.

    SIGTERM, SIGINT   stop: what is under way may finish within server.stop_timeout_seconds
    SIGHUP            read the certificate again
    SIGUSR1           exchange all processes for new ones, one after another, without refusing anybody

It must not: accept a connection, open the database, or hold anything that a request needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import ssl
import time
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from mooring.app import sockets, state
from mooring.app.keeper import Keeper
from mooring.app.orders import BeginControl, BeginWorker, ReadCertificate
from mooring.app.process import Child
from mooring.lib import certificates, logging
from mooring.lib.clock import SystemClock
from mooring.lib.config import Config, ConfigError
from mooring.lib.errors import MooringError
from mooring.lib.files import private_folder
from mooring.lib.ids import new_id
from mooring.lib.pki import RENEW_DAYS
from mooring.lib.tasks import Supervisor

_CERTIFICATE_CHECK_SECONDS: Final = 6 * 3600.0
_CONTROL_STOP_SECONDS: Final = 6.0
_ORPHANS_SECONDS: Final = 10.0
"""For the processes of a supervisor that was killed to end."""

log = logging.get("mooring.app")


def run(config: Config) -> None:
    """Runs the server until SIGTERM or SIGINT. Raises MooringError when it cannot start."""
    asyncio.run(serve(config))


async def serve(config: Config) -> None:
    """Starts the server, waits for a signal to stop, and stops it."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = Server(config)
    try:
        starting = asyncio.ensure_future(server.start())
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
            return
        starting.result()
        loop.add_signal_handler(signal.SIGHUP, server.reload_certificate)
        loop.add_signal_handler(signal.SIGUSR1, server.restart_soon)
        # One line on standard output for those who start us and wait; everything else goes to the log.
        print(f"listening on {config.url}", flush=True)
        await stopping
    finally:
        await server.stop()


class Server:
    """One server. `start`, then `stop`; `stop` also cleans up after a `start` that failed."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.clock = SystemClock()
        self.count = config.server.workers or os.cpu_count() or 1
        self._tasks = Supervisor("server")
        self._ending = contextlib.AsyncExitStack()
        self._lock = -1
        self._listen: list[list[socket.socket]] = []
        self._api: socket.socket | None = None
        self._bus: socket.socket | None = None
        self._control = Keeper("control", self._spawn_control, self._write_state, _CONTROL_STOP_SECONDS)
        seconds = config.server.stop_timeout_seconds
        self._workers = [
            Keeper(
                f"worker-{slot}",
                partial(self._spawn_worker, slot),
                self._write_state,
                seconds,
                partial(self._park, slot),
            )
            for slot in range(self.count)
        ]
        self._restarting = False
        self._restarts = 0
        self._failure = ""

    # -- start ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Brings everything up; when it returns, the port answers. Raises MooringError."""
        config = self.config
        private_folder(config.data_dir)
        private_folder(config.run_dir)
        self._lock = await _take_lock(config)
        self._ending.callback(os.close, self._lock)
        self._check_certificate()
        self._listen = sockets.bind(config, self.count)
        self._ending.callback(self._close_sockets)
        self._api = self._unix(config.api_socket)
        self._bus = self._unix(config.bus_socket)
        self._ending.callback(state.remove, config)
        self._ending.push_async_callback(self._control.stop)
        await self._control.start()
        self._ending.push_async_callback(self._stop_workers)
        await asyncio.gather(*(keeper.start() for keeper in self._workers))
        self._tasks.spawn(self._watch_certificate(), "certificate")

    def _unix(self, path: Path) -> socket.socket:
        listener = sockets.unix_listener(path)
        self._ending.callback(path.unlink, missing_ok=True)
        self._ending.callback(listener.close)
        return listener

    def _close_sockets(self) -> None:
        for slot in range(len(self._listen)):
            self._park(slot)

    def _park(self, slot: int) -> None:
        """Nobody can be started for this slot: what the kernel would put into its queue goes to the others instead."""
        parked, self._listen[slot] = self._listen[slot], []
        for sock in parked:
            sock.close()

    async def _spawn_control(self) -> Child:
        assert self._api is not None
        assert self._bus is not None
        api, bus = self._api.fileno(), self._bus.fileno()
        resumed = any(keeper.child is not None and not keeper.child.ended for keeper in self._workers)
        order = BeginControl(config=self.config, api=api, bus=bus, resumed=resumed)
        return await Child.start("control", order, [self._lock, api, bus])

    async def _spawn_worker(self, slot: int) -> Child:
        if not self._listen[slot]:
            self._listen[slot] = sockets.bind_again(self.config)
        listen = [sock.fileno() for sock in self._listen[slot]]
        instance = f"{self.config.instance}/{new_id('i')}"
        order = BeginWorker(config=self.config, instance=instance, slot=slot, workers=self.count, listen=listen)
        child = await Child.start(f"worker-{slot}", order, [self._lock, *listen])
        child.instance = instance
        return child

    def _write_state(self) -> None:
        """For people, `mooring server restart` and `mooring doctor`: which processes there are."""
        workers = []
        for slot, keeper in enumerate(self._workers):
            if keeper.child is not None:
                pid = keeper.child.pid
                workers.append(state.WorkerState(slot=slot, pid=pid, instance=keeper.child.instance))
        control = 0 if self._control.child is None else self._control.child.pid
        try:
            now = state.State(pid=os.getpid(), control=control, workers=workers)
            now = msgspec.structs.replace(now, restarts=self._restarts, failure=self._failure)
            state.write(self.config, now)
        except OSError as error:
            log.error("the state of the processes cannot be written", error=str(error))

    # -- the certificate -----------------------------------------------------------------------------------------------

    def _check_certificate(self) -> None:
        """Renews our own certificate if it is due; refuses one that clients would refuse. Raises MooringError."""
        config, now = self.config, self.clock.now()
        self._renew_if_due()
        wrong = certificates.problems(config, now)
        if wrong:
            raise ConfigError(f"the server's certificate: {wrong[0][0]}", wrong[0][1])
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls.cert, config.tls.key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"the server's certificate cannot be used: {error}", "run: mooring doctor") from None

    def reload_certificate(self) -> None:
        """Reads the certificate again; new connections get the new one. A bad pair leaves the old one in use."""
        config = self.config
        try:
            wrong = certificates.problems(config, self.clock.now())
            if wrong:
                raise ConfigError(*wrong[0])
        except (MooringError, OSError) as error:
            log.error("the certificate was not read again; the old one stays in use", error=str(error))
            return
        for keeper in self._workers:
            if keeper.child is not None:
                keeper.child.send(ReadCertificate())
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

    # -- restart and stop ----------------------------------------------------------------------------------------------

    def restart_soon(self) -> None:
        """Begin a rolling restart, unless one is under way."""
        if not self._restarting:
            self._restarting = True
            self._tasks.spawn(self._restart(), "restart")

    async def _restart(self) -> None:
        self._failure = ""
        try:
            await self.restart()
        except MooringError as error:
            log.error("the restart was given up; the old processes go on", reason=error.reason, hint=error.hint)
            self._failure = str(error)
        finally:
            self._restarts += 1
            self._write_state()
            self._restarting = False

    async def restart(self) -> None:
        """Exchange all processes, one after another. Raises MooringError when a new one cannot start."""
        log.info("rolling restart begins", workers=self.count)
        # Control last: a new program that cannot start fails at the first worker, and nothing has been lost.
        for keeper in self._workers:
            await keeper.exchange(overlap=True)
        # Its sockets stay open here: calls of the REST API wait for the new one, and workers go on with what they know.
        await self._control.exchange(overlap=False)
        log.info("rolling restart done", workers=self.count)

    async def _stop_workers(self) -> None:
        await asyncio.gather(*(keeper.stop() for keeper in self._workers))

    async def stop(self) -> None:
        """Takes nothing new, lets what is under way finish within stop_timeout_seconds, and closes everything."""
        log.info("stopping")
        await self._tasks.aclose()
        await self._ending.aclose()


async def _take_lock(config: Config) -> int:
    """Keeps a second server from taking this one's socket and database. All processes of a server hold it, so it is
    free when the last one has ended.

    Returns the open file. Raises MooringError when a server has it.
    """
    path = config.run_dir / "lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    before = state.read(config)
    # What a supervisor that was killed leaves behind ends by itself, soon.
    orphans = before is not None and not state.alive(before.pid)
    until = time.monotonic() + (_ORPHANS_SECONDS if orphans else 0.0)
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() < until:
                await asyncio.sleep(0.05)
                continue
            os.close(descriptor)
            raise MooringError(
                f"a server runs already with the data folder {config.data_dir}",
                "stop it first, or give this one a --config of its own",
            ) from None
        return descriptor
