# SPDX-License-Identifier: Apache-2.0
"""The agent's half of the authorized endpoint, for as long as the agent runs: waits until there is an endpoint, then
for the Lease, then works (`writer`).

Works in every profile: what it writes are Secrets of its own. Where there is no endpoint, it waits and does nothing.
It must not: let two agents of a cluster write at once, or give up because something cannot be reached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from mooring.agent.endpoint.link import LinkState
from mooring.agent.endpoint.report import Report
from mooring.agent.endpoint.vault import Vault
from mooring.agent.endpoint.writer import Words, Writer
from mooring.agent.identity import BadIdentity, Registrations
from mooring.agent.lease import Lease
from mooring.agent.policy.timekeeper import Timekeeper
from mooring.agent.serverapi import ServerApi
from mooring.agent.servertime import ServerTime
from mooring.kube.access import BadConfig
from mooring.kube.client import KubeApi, KubeError
from mooring.kube.names import ENDPOINT_NAME
from mooring.kube.secrets import Secrets
from mooring.lib import logging
from mooring.lib.backoff import Backoff
from mooring.lib.clock import Clock
from mooring.lib.tasks import Supervisor
from mooring.net.fetch import FetchError

MAX_DIGEST: Final = 128
MAX_REVISION: Final = 2**62
CONNECTIONS: Final = 8
"""To the API server: the watch, the lease, the Secrets that are read or written at once."""
_ATTEMPT: Final = (KubeError, FetchError, BadConfig)
_NOT_ALLOWED: Final = (401, 403)
_OLD_MANIFEST: Final = (
    "the agent may not keep the tokens of the endpoint in this cluster: its manifest is older than that;"
    " apply the cluster's manifest again"
)


class EndpointAgent:
    """Runs for as long as the agent does. `ca_pem` is the API server's CA."""

    def __init__(
        self,
        kube: KubeApi,
        namespace: str,
        registrations: Registrations,
        send: Callable[[dict[str, Any]], None],
        *,
        clock: Clock,
        time: ServerTime,
        holder: str,
        ca_pem: str,
    ) -> None:
        self._kube = kube
        self._registrations = registrations
        self._clock = clock
        self._secrets = Secrets(kube, namespace)
        self._lease = Lease(
            kube, namespace, holder, clock, name=ENDPOINT_NAME, work="writes the tokens of the endpoint"
        )
        self._api = ServerApi(time)
        self._words = Words()
        self._link = LinkState(clock)
        self._report = Report(send, ca_pem)
        self._tasks = Supervisor("endpoint")
        self._needed = asyncio.Event()
        self._log = logging.get("mooring.agent.endpoint")

    # --- told ---------------------------------------------------------------------------------------------------------

    def heard(self, message: dict[str, Any]) -> None:
        """A control message of a server; others than `endpoint` are not for us."""
        revision, digest = message.get("revision"), message.get("digest")
        if message.get("kind") != "endpoint":
            return
        if not isinstance(revision, int) or not 0 <= revision <= MAX_REVISION:
            return
        if not isinstance(digest, str) or not 0 < len(digest) <= MAX_DIGEST:
            return
        self._words.heard(revision, digest)
        self._needed.set()

    def linked(self, connected: bool) -> None:
        """Whether the agent has a session to a server."""
        self._link.set(connected)

    @property
    def serving(self) -> dict[str, str] | None:
        """URL and CA (`url`, `ca_pem`) of the endpoint that this agent serves itself; None: it serves none."""
        return self._report.serving

    @serving.setter
    def serving(self, serving: dict[str, str] | None) -> None:
        self._report.serving = serving
        self._report.note()

    def status(self) -> dict[str, Any] | None:
        """What a new session is told; None: nothing."""
        return self._report.message() if self._report.active else None

    # --- works --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Works until cancelled."""
        self._tasks.spawn(self._report.run(), "report")
        backoff = Backoff(1.0, 30.0)
        try:
            if await self._any_kept():
                self._needed.set()
            while True:
                await self._needed.wait()
                try:
                    await self._secrets.version(ENDPOINT_NAME)  # whether the manifest knows of endpoints
                    self._report.active = False
                    await self._lease.hold(self._lead)
                    backoff.reset()
                except (*_ATTEMPT, BadIdentity) as error:
                    old = isinstance(error, KubeError) and error.status in _NOT_ALLOWED
                    self._report.active = True
                    self._report.failed(_OLD_MANIFEST if old else error.reason)
                    await asyncio.sleep(backoff.next())
                except Exception:  # a fault of ours: it is begun anew, and not given up
                    self._log.exception("the work for the endpoint is begun anew")
                    await asyncio.sleep(backoff.next())
        finally:
            await self._tasks.aclose()
            await self._api.aclose()

    async def _any_kept(self) -> bool:
        """Whether there are tokens in the cluster from before."""
        backoff = Backoff(0.5, 10.0)
        while True:
            try:
                return bool(await self._secrets.version(ENDPOINT_NAME))
            except KubeError as error:
                if error.status in _NOT_ALLOWED:
                    return False
            except (FetchError, BadConfig):
                pass
            await asyncio.sleep(backoff.next())

    async def _lead(self) -> None:
        """This agent does the work."""
        vault = Vault(self._secrets)
        found = await self._kube.json("GET", "/api/v1/namespaces/kube-system")
        uid = str((found.get("metadata") or {}).get("uid", ""))
        there = await vault.index()
        link = there[1] if there is not None else None
        time = Timekeeper(self._clock, link.offset if link is not None else 0.0)
        try:
            await Writer(
                self._kube,
                vault,
                self._secrets.collection,
                self._registrations,
                self._api,
                self._words,
                self._link,
                self._report,
                time,
                uid,
            ).run(there)
        finally:
            self._report.active = False
