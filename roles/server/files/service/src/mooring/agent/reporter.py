# SPDX-License-Identifier: Apache-2.0
"""Tells the servers how the cluster is: version, nodes, health of its API server, the agent itself.

A message goes out when something has changed (noticed within 2 s), and to each new session at once.
It must not: report what only the cluster's users should see, such as names of nodes or workloads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from mooring.agent.nodes import Nodes
from mooring.kube.access import BadConfig
from mooring.kube.client import KubeApi
from mooring.lib.tasks import Supervisor
from mooring.lib.version import VERSION
from mooring.net.fetch import FetchError

POLL = 2.0
"""Seconds between two looks at /readyz and /version."""
POLL_DEADLINE = 3.0
"""Seconds that each may take."""
SETTLE = 0.2
"""Seconds that changes are gathered for: a hundred nodes that join at once make one message."""
MAX_MESSAGE = 500
"""Characters of a text in a status."""


class Reporter:
    """Watches the cluster and sends the status with `send`."""

    def __init__(
        self, kube: KubeApi, send: Callable[[dict[str, Any]], None], credential_problem: Callable[[], str]
    ) -> None:
        self._kube = kube
        self._send = send
        self._credential_problem = credential_problem
        self._nodes = Nodes(kube, self._note)
        self._version = ""
        self._health: tuple[bool | None, str] = (None, "")
        self._news = asyncio.Event()
        self._tasks = Supervisor("reporter")

    def status(self) -> dict[str, Any]:
        """The status as it goes over the tunnel (docs/protocol/tunnel.md, kind "status")."""
        healthy, message = self._health
        return {
            "kind": "status",
            "kubernetes_version": self._version,
            "node_count": self._nodes.count if self._nodes.known else None,
            "nodes_ready": self._nodes.ready if self._nodes.known else None,
            "api_server_healthy": healthy,
            "api_server_message": message,
            "agent_version": VERSION,
            "conditions": self._conditions(),
        }

    async def run(self) -> None:
        """Watches and sends until cancelled."""
        self._tasks.spawn(self._nodes.run(), "nodes")
        self._tasks.spawn(self._poll(), "poll")
        sent: dict[str, Any] = {}
        try:
            while True:
                await self._news.wait()
                await asyncio.sleep(SETTLE)
                self._news.clear()
                status = self.status()
                if status != sent:
                    sent = status
                    self._send(status)
        finally:
            await self._tasks.aclose()

    def _note(self) -> None:
        self._news.set()

    async def _poll(self) -> None:
        while True:
            self._health = await self._ask_health()
            if self._health[0]:
                self._version = await self._ask_version() or self._version
            self._note()
            await asyncio.sleep(POLL)

    async def _ask_health(self) -> tuple[bool, str]:
        try:
            answer = await self._kube.call("GET", "/readyz", accept="text/plain", deadline=POLL_DEADLINE)
        except (FetchError, BadConfig) as error:
            return False, error.reason[:MAX_MESSAGE]
        if answer.status == 200:
            return True, ""
        # What failed stands in lines that begin with [-].
        lines = answer.body.decode("utf-8", "replace").splitlines()
        failed = "; ".join(line for line in lines if line.startswith("[-]"))
        return False, (failed or f"/readyz answers with HTTP status {answer.status}")[:MAX_MESSAGE]

    async def _ask_version(self) -> str:
        try:
            answer = await self._kube.call("GET", "/version", deadline=POLL_DEADLINE)
            version = msgspec.json.decode(answer.body, type=dict[str, Any]).get("gitVersion", "")
        except (FetchError, BadConfig, msgspec.MsgspecError):
            return ""
        return str(version)[:64]

    def _conditions(self) -> list[dict[str, str]]:
        """What only the agent knows; the server makes conditions of the rest itself."""
        problem = self._credential_problem()
        return [
            {
                "type": "CredentialReady",
                "status": "False" if problem else "True",
                "reason": "NoToken" if problem else "TokenIssued",
                "message": problem[:MAX_MESSAGE],
            }
        ]
