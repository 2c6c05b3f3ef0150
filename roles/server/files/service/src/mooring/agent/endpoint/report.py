# SPDX-License-Identifier: Apache-2.0
"""What the agent tells the server of the endpoint: which tokens are in the cluster, and where the cluster can be
reached (docs/protocol/tunnel.md, kind "endpoint-status").

It must not: say more than the bounds allow, or anything at all while another agent of the cluster does the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from mooring.agent.endpoint.places import Place
from mooring.lib import logging

MAX_PROBLEM: Final = 500
"""Characters."""
MAX_CA: Final = 64 * 1024
"""Characters of a CA bundle; a larger one is not told."""
SETTLE: Final = 0.02
"""Seconds that news are gathered for: somebody waits for a token that has just been made."""


class Report:
    """Holds what is to be said, and says it with `send`."""

    def __init__(self, send: Callable[[dict[str, Any]], None], ca_pem: str) -> None:
        self._send = send
        self._ca_pem = ca_pem if len(ca_pem) <= MAX_CA else ""
        self._news = asyncio.Event()
        self._log = logging.get("mooring.agent.endpoint")
        self._problem = ""
        self.places: Sequence[Place] = ()
        self.revision = 0
        self.digest = ""
        self.serving: dict[str, str] | None = None
        """URL and CA of the endpoint that the agent serves itself: `url`, `ca_pem`."""
        self.active = False
        """Whether there is anything to say."""

    def message(self) -> dict[str, Any]:
        """The message."""
        return {
            "kind": "endpoint-status",
            "revision": self.revision,
            "digest": self.digest,
            "problem": self._problem[:MAX_PROBLEM],
            "nodes": [{"name": place.name, "host": place.host, "port": place.port} for place in self.places],
            "ca_pem": self._ca_pem,
            "serving": self.serving,
        }

    def note(self) -> None:
        """Something is different."""
        self._news.set()

    def failed(self, why: str) -> None:
        """The tokens in the cluster are not as they shall be; empty: they are."""
        if why != self._problem:
            self._problem = why
            if why:
                self._log.warning("the tokens of the endpoint are not as they shall be", reason=why)
            self.note()

    async def run(self) -> None:
        """Says what is new until cancelled."""
        while True:
            await self._news.wait()
            await asyncio.sleep(SETTLE)
            self._news.clear()
            if self.active:
                self._send(self.message())
