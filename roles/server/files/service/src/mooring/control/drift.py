# SPDX-License-Identifier: Apache-2.0
"""What somebody changed of a policy's objects in a cluster, past us: into the audit log and the log.

An agent says each thing on each of its sessions, and could say anything: the same is noted once, and of one cluster no
more than a bound in a minute. It must not: believe an agent about another cluster, or wait for the disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, Protocol

from mooring.control.policystatus import Drift
from mooring.lib import logging
from mooring.lib.bounds import Rate
from mooring.lib.ids import request_id
from mooring.policy.render import ClusterFacts
from mooring.proxy.audit import AuditRecord

PER_MINUTE: Final = 120  # records of one cluster
REMEMBERED: Final = 256  # of one cluster, to know them again


class Audit(Protocol):
    """What is needed of mooring.proxy.audit.Audit."""

    def record(self, record: AuditRecord) -> None: ...


class DriftLog:
    """Notes drift once."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._seen: dict[str, deque[Drift]] = {}
        self._rate = Rate(PER_MINUTE, 60.0)
        self._over: set[str] = set()  # clusters of which some was passed over, and that was said
        self._log = logging.get("mooring.control")

    def note(self, cluster: ClusterFacts, drifts: Iterable[Drift], now: float) -> None:
        """An agent has put these right in its own cluster. `now`: Unix seconds."""
        for drift in drifts:
            seen = self._seen.setdefault(cluster.id, deque(maxlen=REMEMBERED))
            if drift in seen:
                continue
            seen.append(drift)
            if self._rate.take(cluster.id, now) > 0:
                if cluster.id not in self._over:
                    self._over.add(cluster.id)
                    self._log.warning("more drift than is recorded", cluster=cluster.name, per_minute=PER_MINUTE)
                continue
            self._over.discard(cluster.id)
            self._log.warning("an object of the policy was put right", cluster=cluster.name, object=drift.object,
                              what=drift.what)  # fmt: skip
            self._audit.record(_record(cluster, drift, now))

    def forget(self, cluster_id: str) -> None:
        """The cluster was deleted."""
        self._seen.pop(cluster_id, None)
        self._over.discard(cluster_id)


def _record(cluster: ClusterFacts, drift: Drift, now: float) -> AuditRecord:
    """Nobody's request: the cluster's own audit log says who changed the object."""
    return AuditRecord(
        time=datetime.fromtimestamp(now, UTC),
        stage="drift",
        request_id=request_id(),
        source="agent",
        user="",
        uid="",
        groups=(),
        token_id="",
        cluster=cluster.name,
        cluster_id=cluster.id,
        verb="heal",
        path="",
        code=0,
        resource_request=False,
        name=drift.object,
        outcome=drift.what,
    )
