# SPDX-License-Identifier: Apache-2.0
"""What the agent says of the policy: to the server by `policy-status`, to people in the cluster by Events.

It must not: say more than the bounds allow, however much is wrong, or make an Event that nobody can find. An Event is
of the Lease `mooring-policy` in the agent's own namespace, with the object that was put right as the related one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from mooring.agent.policy.cluster import Cluster
from mooring.agent.policy.kinds import KINDS, SPACES, title
from mooring.kube.access import BadConfig
from mooring.kube.client import KubeError
from mooring.kube.names import POLICY_NAME
from mooring.kube.transition import Key
from mooring.lib import logging
from mooring.lib.clock import Clock
from mooring.lib.ids import new_id
from mooring.net.fetch import FetchError

MOST: Final = 32
"""Errors and drifts in one message."""
MAX_REASON: Final = 500
"""Characters of a reason."""
SETTLE: Final = 0.1
"""Seconds that news are gathered for."""
EVENTS_BURST: Final = 20
EVENTS_PER_SECOND: Final = 1.0
"""Events for people: so many at once, and then so many in a second; the rest is counted only."""

_Drift = tuple[Key, str]


class Report:
    """Holds what is to be said, and says it with `send`."""

    def __init__(self, send: Callable[[dict[str, Any]], None], clock: Clock, reporter: str) -> None:
        self._send = send
        self._clock = clock
        self._reporter = reporter
        self._news = asyncio.Event()
        self._drift: deque[dict[str, Any]] = deque(maxlen=MOST)
        self._for_people: deque[_Drift] = deque(maxlen=EVENTS_BURST)
        self._tokens, self._filled = float(EVENTS_BURST), clock.monotonic()
        self._log = logging.get("mooring.agent.policy")
        self.errors: dict[str, str] = {}
        """What is not as it shall be, and why."""
        self.profile = ""
        self.desired = 0
        self.applied = 0
        self.digest = ""
        self.applied_at: float | None = None
        self.healed = 0
        self.active = False
        """Whether there is anything to say: an agent that only waits for its turn is silent."""

    def message(self) -> dict[str, Any]:
        """The message (docs/protocol/tunnel.md, kind "policy-status"); it holds each drift once."""
        errors = [{"object": name, "reason": why[:MAX_REASON]} for name, why in sorted(self.errors.items())[:MOST]]
        drift = list(self._drift)
        self._drift.clear()
        return {
            "kind": "policy-status",
            "desired": self.desired,
            "applied": self.applied,
            "digest": self.digest,
            "applied_at": self.applied_at,
            "profile": self.profile,
            "errors": errors,
            "healed": self.healed,
            "drift": drift,
        }

    def note(self) -> None:
        """Something is different."""
        self._news.set()

    def failed(self, what: str, why: str) -> None:
        """Something is not as it shall be."""
        if self.errors.get(what) != why:
            self.errors[what] = why
            self._log.warning("not as the policy says", object=what, reason=why)
            self.note()

    def right(self, what: str) -> None:
        """It is as it shall be, or nobody wants it any more."""
        if self.errors.pop(what, None) is not None:
            self.note()

    def drifted(self, at: Key, what: str) -> None:
        """Somebody `deleted` or `changed` an object, and it was put right."""
        self.healed += 1
        self._drift.append({"object": title(at), "what": what, "at": self._clock.now()})
        self._log.warning("put right what somebody else did", object=title(at), what=what)
        now = self._clock.monotonic()
        self._tokens = min(EVENTS_BURST, self._tokens + (now - self._filled) * EVENTS_PER_SECOND)
        self._filled = now
        if self._tokens >= 1:
            self._tokens -= 1
            self._for_people.append((at, what))
        self.note()

    async def run(self, cluster: Cluster) -> None:
        """Says what is new until cancelled."""
        while True:
            await self._news.wait()
            await asyncio.sleep(SETTLE)
            self._news.clear()
            if self.active:
                self._send(self.message())
            while self._for_people:
                at, what = self._for_people.popleft()
                try:
                    await cluster.event(self._event(at, what, cluster.namespace))
                except (KubeError, FetchError, BadConfig) as error:
                    self._log.info("no Event was made", reason=str(error))

    def _event(self, at: Key, what: str, namespace: str) -> dict[str, Any]:
        kind = KINDS.get(at[0], SPACES)
        related = {"apiVersion": kind.version, "kind": at[0], "name": at[2]}
        if at[1]:
            related["namespace"] = at[1]
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "namespace": namespace, "name": POLICY_NAME}
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{POLICY_NAME}.{new_id('e')}", "namespace": namespace},
            "eventTime": datetime.fromtimestamp(self._clock.now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": "Warning",
            "reason": "PolicyDrift",
            "action": "Healed",
            "note": f"{title(at)} was {what} by somebody else and is as the policy says again"[:1024],
            "regarding": lease,
            "related": related,
            "reportingController": "mooring.fleet/agent",
            "reportingInstance": self._reporter[:128],
        }
