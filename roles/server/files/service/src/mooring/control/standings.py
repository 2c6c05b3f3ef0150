# SPDX-License-Identifier: Apache-2.0
"""How each cluster stands to its policy: what is wanted, what its agent reports, and since when they differ.

In memory it is true at once; the store is written at most once a second, in one transaction for all that changed, so
that a talkative agent cannot keep the database busy. When the database is away, what was noted waits.

It must not: decide what is wanted, or believe an agent about another cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

from mooring.control import policystatus
from mooring.control.drift import DriftLog
from mooring.control.noted import write_noted
from mooring.lib import logging, metrics
from mooring.lib.clock import Clock
from mooring.lib.tasks import Supervisor
from mooring.policy.render import ClusterFacts
from mooring.policy.standing import STATES, Standing, State, stand
from mooring.store.policies import PolicyFault, PolicyStatus
from mooring.store.ports import Paging, Store, StoreUnavailable


@dataclass(slots=True)
class Known:
    """What is known of a cluster. `wanted_since`: of the commit that made the wanted policy what it is."""

    facts: ClusterFacts
    status: PolicyStatus
    wanted_since: float
    told: str = ""  # the digest that its agents were told
    desire_noted: bool = False  # to be written
    report_noted: bool = False
    problem: str = ""  # why it cannot be rendered
    timed: bool = False  # whether the time until it is applied is to be counted


class Standings:
    """By the ids of clusters. `connected` says whether a cluster's agent is."""

    def __init__(self, store: Store, clock: Clock, drift: DriftLog, connected: Callable[[str], bool]) -> None:
        self.known: dict[str, Known] = {}
        self._store = store
        self._clock = clock
        self._drift = drift
        self._connected = connected
        self._write = asyncio.Event()
        self._tasks = Supervisor("policy standings")
        self._log = logging.get("mooring.control")

    def start(self) -> None:
        """Write from now on, and be counted."""
        for state in STATES:
            metrics.POLICY_CLUSTERS.labels(state).set_function(lambda state=state: self._count(state))  # type: ignore[misc]
        metrics.POLICY_LAG.set_function(self._longest_lag)
        metrics.POLICY_ERRORS.set_function(lambda: sum(len(known.status.errors) for known in self.known.values()))
        self._tasks.spawn(write_noted(self._write, self.flush, "how policies were applied was not written"), "write")

    async def aclose(self) -> None:
        """Write what is still noted, if the database answers within 5 seconds."""
        await self._tasks.aclose()
        try:
            async with asyncio.timeout(5):
                await self.flush()
        except (StoreUnavailable, TimeoutError):
            self._log.warning("how the last policies were applied was not written")

    async def stored(self) -> AsyncIterator[PolicyStatus]:
        """How they stood when it was last written. Raises StoreUnavailable."""
        after: tuple[str, ...] | None = None
        async with self._store.read() as tx:
            while True:
                page = await tx.policy_status.page(Paging(500, after))
                for status in page.items:
                    yield status
                if page.next is None:
                    return
                after = page.next

    def know(self, facts: ClusterFacts, status: PolicyStatus | None) -> None:
        """A cluster is there; `status`: how it stood."""
        status = status or PolicyStatus(cluster_id=facts.id, cluster_name=facts.name)
        self.known[facts.id] = Known(facts, status, self._clock.now())

    def forget(self, cluster_id: str) -> None:
        """The cluster was deleted."""
        self.known.pop(cluster_id, None)
        self._drift.forget(cluster_id)

    def want(self, known: Known, revision: int, digest: str, since: float) -> None:
        """The cluster is to have this policy, since the commit at that time (Unix seconds)."""
        known.status = replace(known.status, desired_revision=revision, desired_digest=digest)
        known.wanted_since = since
        known.timed = self._connected(known.facts.id)
        known.desire_noted = True
        self._write.set()

    def stands(self, known: Known, waiting_since: float | None = None) -> Standing:
        """How it stands now. `waiting_since`: since when a change of the policy waits to be rendered."""
        status = known.status
        if known.problem:
            status = replace(status, errors=(PolicyFault("the whole policy", known.problem), *status.errors))
            waiting_since = None
        return stand(status, known.wanted_since, self._clock.now(), waiting_since)

    def heard(self, known: Known, message: dict[str, Any]) -> None:
        """Take over a `policy-status` of the cluster's agent, if it can be understood."""
        try:
            said = policystatus.read(message)
        except ValueError as error:
            name = known.facts.name
            self._log.warning("an agent's policy-status was not understood", cluster=name, error=str(error))
            return
        now, before = self._clock.now(), known.status
        known.status = replace(
            before,
            applied_revision=said.applied,
            applied_digest=said.digest,
            applied_at=said.applied_at,
            profile=said.profile,
            errors=said.errors,
            healed=said.healed,
            reported_at=now,
        )
        known.report_noted = True
        self._write.set()
        metrics.POLICY_HEALED.inc(said.healed - before.healed if said.healed >= before.healed else said.healed)
        if known.timed and said.digest == before.desired_digest:
            known.timed = False
            metrics.POLICY_APPLY_SECONDS.observe(max(0.0, now - known.wanted_since))
        if said.errors and said.errors != before.errors:
            self._log.warning(
                "a cluster cannot apply a part of its policy",
                cluster=known.facts.name,
                objects=len(said.errors),
                first=f"{said.errors[0].object}: {said.errors[0].reason}",
            )
        self._drift.note(known.facts, said.drift, now)

    # --- written down -----------------------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Write what changed, now. What could not be written stays noted. Raises StoreUnavailable."""
        noted = {id: known for id, known in self.known.items() if known.desire_noted or known.report_noted}
        if not noted:
            return
        marks = {id: (known.desire_noted, known.report_noted) for id, known in noted.items()}
        for known in noted.values():
            known.desire_noted = known.report_noted = False
        try:
            async with self._store.write() as tx:
                for cluster_id, (desired, reported) in sorted(marks.items()):
                    status = noted[cluster_id].status
                    if desired:
                        await tx.policy_status.desire(cluster_id, status.desired_revision, status.desired_digest)
                    if reported:
                        await tx.policy_status.report(status)
        except BaseException:
            for cluster_id, (desired, reported) in marks.items():
                noted[cluster_id].desire_noted |= desired
                noted[cluster_id].report_noted |= reported
            raise

    # --- counted ----------------------------------------------------------------------------------------------------

    def _count(self, state: State) -> float:
        return sum(self.stands(known).state == state for known in self.known.values())

    def _longest_lag(self) -> float:
        """Of those whose agent is connected: what the others wait for is the agent."""
        lags = [self.stands(known).lag or 0.0 for id, known in self.known.items() if self._connected(id)]
        return max(lags, default=0.0)
