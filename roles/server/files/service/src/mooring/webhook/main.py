# SPDX-License-Identifier: Apache-2.0
"""kube-api-auth as a process: wires its parts together, runs them, and stops cleanly.

It does not wait for the API server, which may be waiting for it: what is on disk is served at once. Its own calls carry
a token of a service account, or a client certificate, which the API server knows without asking anybody; and were it to
ask, the answer for what is no token of an endpoint comes from memory.

It must not: hold logic of its own.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from pathlib import Path
from typing import Final

import uvloop

from mooring.edge.listener import Listener
from mooring.kube import access
from mooring.kube.access import ApiServerConfig
from mooring.kube.client import KubeApi
from mooring.lib import heap, logging, metrics
from mooring.lib.clock import Clock, SystemClock
from mooring.lib.errors import MooringError
from mooring.lib.version import VERSION
from mooring.webhook.book import Book
from mooring.webhook.config import Config
from mooring.webhook.copy import Copy
from mooring.webhook.disk import Disk
from mooring.webhook.follow import Follow
from mooring.webhook.server import LIMITS, Reviews, server_context
from mooring.wire.sealed import public_key

STOP: Final = 2.0
"""Seconds that answers under way may take on SIGTERM."""


class KubeApiAuth:
    """The running process."""

    def __init__(self, config: Config, api: ApiServerConfig, clock: Clock | None = None) -> None:
        key = public_key(config.policy_key)
        assert key is not None  # `config.load` has checked it
        self._config = config
        self._paths = (Path(config.tls_cert), Path(config.tls_key), Path(config.client_ca))
        self._tls = server_context(*self._paths)
        self._log = logging.get("mooring.endpoint")
        self.copy = Copy(config.cluster_id, config.cluster_uid, key, clock or SystemClock())
        self.book = Book(config.cluster_id)
        self.copy.subscribe(self.book)
        self._disk = Disk(Path(config.state_dir))
        self._kube = KubeApi(api, connections=4, idle=1, agent="mooring-kube-api-auth")
        self._follow = Follow(self._kube, config.namespace, self.copy, self._disk)
        reviews = Reviews(
            self.book,
            self.copy,
            config.audiences,
            show_metrics=config.metrics,
            stopping=lambda: self._listener.stopping,
        )
        self._listener = Listener(reviews.handle, LIMITS)
        metrics.KUBE_API_AUTH_TOKENS.set_function(lambda: len(self.book))
        metrics.KUBE_API_AUTH_REVISION.set_function(lambda: self.copy.revision)
        metrics.KUBE_API_AUTH_BEHIND.set_function(lambda: self.copy.time.behind)
        metrics.KUBE_API_AUTH_SILENCE.set_function(self._silence)

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop` is set. Raises MooringError and OSError when it cannot start."""
        self._disk.prepare()
        self._follow.load()
        await self._listener.start(*self._config.address, self._tls)
        self._log.info("serving", address=self._config.listen, revision=self.copy.revision)
        gc.freeze()  # what is there now stays: it need not be looked at again and again
        self._follow.start()
        try:
            await stop.wait()
        finally:
            await self._listener.stop(STOP)
            await self._follow.aclose()
            await self._kube.aclose()

    def reload(self) -> None:
        """Read the certificate and its key anew, for the connections from now on."""
        try:
            self._tls.load_cert_chain(*self._paths[:2])
        except OSError as error:  # ssl.SSLError is one
            self._log.error("the certificate cannot be read anew; the old one is shown", reason=str(error))
        else:
            self._log.info("the certificate was read anew")

    def _silence(self) -> float:
        return time.monotonic() - self._follow.heard if self._follow.heard else -1.0


def check(config: Config) -> ApiServerConfig:
    """Whether it could start with these settings; returns how it would reach the API server. Raises MooringError."""
    server_context(Path(config.tls_cert), Path(config.tls_key), Path(config.client_ca))
    return access.from_kubeconfig(Path(config.kubeconfig), None) if config.kubeconfig else access.in_cluster(os.environ)


def run(config: Config) -> int:
    """Runs until SIGTERM or SIGINT. Returns the exit code: 0, or 1 when it cannot start."""
    log = logging.get("mooring.endpoint")
    heap.keep_buffers_out()
    try:
        uvloop.run(_main(config, check(config)))
    except MooringError as error:
        log.error("kube-api-auth cannot start", reason=error.reason, hint=error.hint)
        return 1
    except OSError as error:
        log.error("kube-api-auth cannot start", reason=str(error))
        return 1
    return 0


async def _main(config: Config, api: ApiServerConfig) -> None:
    log = logging.get("mooring.endpoint")
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    process = KubeApiAuth(config, api)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, process.reload)
    log.info("starting", version=VERSION, cluster_id=config.cluster_id, api_server=api.authority.decode())
    await process.run(stop)
    log.info("stopped")
