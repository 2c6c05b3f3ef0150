# SPDX-License-Identifier: Apache-2.0
"""How the policy stands in the clusters: what is wanted, what is applied, for how long they differ, and what failed.

It shows what the policy controller knows now; only the order and the pages of the list are the store's.
"""

from __future__ import annotations

from litestar import get

from mooring.api.access import USER, Caller, Deps, may_see, needs
from mooring.api.common import Cursor, Limit, Output, PathRef, found, next_cursor, paging, time_text
from mooring.api.problems import not_found
from mooring.policy.standing import Standing, State, stand
from mooring.store.policies import PolicyStatus


class PolicyErrorOut(Output):
    """An object that the agent could not apply, and why."""

    object: str
    reason: str


class PolicyStatusOut(Output):
    """`state` is `unknown` (no agent has registered), `pending`, `applied`, `failing` (some objects) or `unmanaged` (by
    the agent's profile). `lag_seconds`: for how long what is wanted has not been there; null: nobody can tell.
    `profile` is what the agent reports; empty: it did not yet. `healed`: objects put right since the agent counts."""

    cluster: str
    cluster_id: str
    state: State
    desired_revision: int
    desired_digest: str
    applied_revision: int
    applied_digest: str
    applied_at: str | None
    reported_at: str | None
    lag_seconds: float | None
    profile: str
    errors: list[PolicyErrorOut]
    healed: int


class PolicyStatusList(Output):
    items: list[PolicyStatusOut]
    next: str | None
    total: int


@get(
    "/policy/status",
    opt=needs("policystatus", "list"),
    tags=["policy"],
    summary="How the policy stands in each cluster",
)
async def list_policy_status(services: Deps, limit: Limit = 100, cursor: Cursor = None) -> PolicyStatusList:
    async with services.store.read() as tx:
        page = await tx.policy_status.page(paging(limit, cursor))
    return PolicyStatusList(
        items=[out(standing(services, status)) for status in page.items], next=next_cursor(page), total=page.total
    )


@get(
    "/clusters/{ref:str}/policy",
    opt=USER,
    tags=["policy"],
    summary="How the policy stands in one cluster",
)
async def get_policy_status(ref: PathRef, services: Deps, caller: Caller) -> PolicyStatusOut:
    async with services.store.read() as tx:
        cluster = await found("cluster", ref, tx.clusters.get)
        status = await found("cluster", cluster.id, tx.policy_status.get)
    if not may_see(services, caller, cluster.id, cluster.name):
        raise not_found("cluster", ref)
    return out(standing(services, status))


def standing(services: Deps, stored: PolicyStatus) -> Standing:
    """How a cluster stands; by the store alone when the controller does not know it (it was deleted just now)."""
    now = services.clock.now()
    return services.policies.standing(stored.cluster_id) or stand(stored, now, now)


def out(standing: Standing) -> PolicyStatusOut:
    """As it is shown."""
    status = standing.status
    return PolicyStatusOut(
        cluster=status.cluster_name,
        cluster_id=status.cluster_id,
        state=standing.state,
        desired_revision=status.desired_revision,
        desired_digest=status.desired_digest,
        applied_revision=status.applied_revision,
        applied_digest=status.applied_digest,
        applied_at=time_text(status.applied_at),
        reported_at=time_text(status.reported_at),
        lag_seconds=None if standing.lag is None else round(standing.lag, 3),
        profile=status.profile,
        errors=[PolicyErrorOut(object=fault.object, reason=fault.reason) for fault in status.errors],
        healed=status.healed,
    )
