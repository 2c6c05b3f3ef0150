# SPDX-License-Identifier: Apache-2.0
"""One of several agents of a cluster does a work: the one that holds its Lease. `mooring-policy` is of the agent that
applies policies, `mooring-endpoint` of the one that writes the tokens of the endpoint.

Whoever waits goes by its own clock: it takes the Lease over when that did not change for 15 s. Whoever holds it writes
it every 5 s, and stops its work when it could not for 10 s: five seconds before another begins. An agent that ends lets
it go, so that the next begins at once. Source: https://kubernetes.io/docs/concepts/architecture/leases/

It must not: let two work at once, whatever their clocks say.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

from mooring.kube.access import BadConfig
from mooring.kube.client import KubeApi, KubeError
from mooring.lib import logging
from mooring.lib.clock import Clock
from mooring.net.fetch import FetchError

LIFE: Final = 15.0
"""Seconds without a change after which the Lease is anybody's."""
RENEW: Final = 5.0
"""Seconds between two renewals, and between two looks of whoever waits."""
GIVE_UP: Final = 10.0
"""Seconds without a renewal after which the work is stopped."""
RELEASE_DEADLINE: Final = 2.0
_ATTEMPT: Final = (KubeError, FetchError, BadConfig)


class Lease:
    """Holds it, waits for it. `name` is its name, `work` what its holder does, for people."""

    def __init__(self, kube: KubeApi, namespace: str, holder: str, clock: Clock, *, name: str, work: str) -> None:
        self._kube = kube
        self._name = name
        self._work = work
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._namespace = namespace
        self._holder = holder
        self._clock = clock
        self._log = logging.get("mooring.agent.lease")
        self._seen: tuple[str, float] = ("", 0.0)  # the version that was seen last, and since when
        self.held = False

    async def hold(self, work: Callable[[], Awaitable[None]]) -> None:
        """Waits for the Lease and does the work while it is held. Returns when the work has ended, or the Lease was
        lost; raises what the work raises."""
        version = await self._acquire()
        self.held = True
        self._log.info(f"this agent {self._work}")
        task = asyncio.ensure_future(work())
        keep = asyncio.ensure_future(self._keep(version))
        try:
            await asyncio.wait({task, keep}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost = keep.done()
            self.held = False
            for one in (task, keep):
                one.cancel()
            await asyncio.wait({task, keep})
            if not lost:
                await self._release()
        if task.done() and not task.cancelled():
            task.result()
        if lost:
            self._log.warning(f"another agent of this cluster {self._work} now, or the API server is away")

    async def _acquire(self) -> str:
        """Waits until it is ours; returns its version."""
        while True:
            try:
                version = await self._try()
                if version:
                    return version
            except _ATTEMPT as error:
                self._log.info("a lease cannot be had just now", lease=self._name, reason=str(error))
            await asyncio.sleep(random.uniform(0.8, 1.2) * RENEW)  # noqa: S311 - spreads load, protects nothing

    async def _try(self) -> str:
        try:
            lease = await self._kube.json("GET", f"{self._collection}/{self._name}")
        except KubeError as error:
            if error.status != 404:
                raise
            return _version(await self._kube.json("POST", self._collection, self._body("")))
        holder, version = (lease.get("spec") or {}).get("holderIdentity") or "", _version(lease)
        now = self._clock.monotonic()
        if version != self._seen[0]:
            self._seen = (version, now)
        if holder not in ("", self._holder) and now - self._seen[1] < LIFE:
            return ""
        return await self._write(version)

    async def _keep(self, version: str) -> None:
        """Renews it; ends when it is lost."""
        renewed = self._clock.monotonic()
        while self._clock.monotonic() - renewed < GIVE_UP:
            await asyncio.sleep(RENEW if version else RENEW / 5)
            began = self._clock.monotonic()
            try:
                async with asyncio.timeout(max(0.1, renewed + GIVE_UP - began)):
                    if not version:
                        lease = await self._kube.json("GET", f"{self._collection}/{self._name}")
                        if (lease.get("spec") or {}).get("holderIdentity") != self._holder:
                            return
                        version = _version(lease)
                    version = await self._write(version)
                    renewed = began
            except (*_ATTEMPT, TimeoutError):
                version = ""

    async def _write(self, version: str) -> str:
        return _version(await self._kube.json("PUT", f"{self._collection}/{self._name}", self._body(version)))

    async def _release(self) -> None:
        try:
            async with asyncio.timeout(RELEASE_DEADLINE):
                lease = await self._kube.json("GET", f"{self._collection}/{self._name}")
                if (lease.get("spec") or {}).get("holderIdentity") == self._holder:
                    body = self._body(_version(lease))
                    body["spec"]["holderIdentity"] = ""
                    await self._kube.json("PUT", f"{self._collection}/{self._name}", body)
        except (*_ATTEMPT, TimeoutError):
            pass  # it runs out

    def _body(self, version: str) -> dict[str, Any]:
        meta = {"name": self._name, "namespace": self._namespace, "labels": {"app.kubernetes.io/part-of": "mooring"}}
        if version:
            meta["resourceVersion"] = version
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": meta,
            "spec": {
                "holderIdentity": self._holder,
                "leaseDurationSeconds": int(LIFE),
                "renewTime": datetime.fromtimestamp(self._clock.now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            },
        }


def _version(lease: dict[str, Any]) -> str:
    return str((lease.get("metadata") or {}).get("resourceVersion", ""))
