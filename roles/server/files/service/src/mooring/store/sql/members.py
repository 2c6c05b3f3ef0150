# SPDX-License-Identifier: Apache-2.0
"""Who may enter which clusters: by a membership, or by a binding that reaches the cluster.

A binding reaches its cluster, or its project's; a global one the clusters that its role has rules in, or all of
them if the role gives the right to `enter` clusters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf

from sqlalchemy import select

from mooring.store.policies import Binding
from mooring.store.records import Members
from mooring.store.sql.base import Repository, chunks
from mooring.store.sql.bindings import SqlBindings
from mooring.store.sql.roles import global_role, reach
from mooring.store.sql.tables import BindingRow, ClusterRow, GlobalRoleRow, LabelRow, MembershipRow


@dataclass(slots=True)
class _Facts:
    users: dict[str, str] = field(default_factory=dict)  # memberships
    groups: dict[str, str] = field(default_factory=dict)
    bindings: list[Binding] = field(default_factory=list)


async def members(bindings: SqlBindings, cluster_ids: Iterable[str] | None = None) -> dict[str, Members]:
    """Who may enter these clusters (None: all). Those with the same bindings and no memberships share a value."""
    wanted = sorted(await bindings.all(select(ClusterRow.id)) if cluster_ids is None else set(cluster_ids))
    facts = {cluster_id: _Facts() for cluster_id in wanted}
    for some in chunks(wanted):
        await _memberships(bindings, some, facts)
        rows = await bindings.all(select(BindingRow).where(BindingRow.cluster_id.in_(some)))
        for binding in await bindings.records(rows):
            facts[binding.cluster_id or ""].bindings.append(binding)
    await _globals(bindings, wanted, facts)
    shared: dict[tuple[str, ...], Members] = {}
    result: dict[str, Members] = {}
    for cluster_id, fact in facts.items():
        fact.bindings.sort(key=lambda binding: (_end(binding), binding.id))
        if fact.users or fact.groups:
            result[cluster_id] = _gathered(fact)
        else:
            key = tuple(binding.id for binding in fact.bindings)
            if key not in shared:
                shared[key] = _gathered(fact)
            result[cluster_id] = shared[key]
    return result


async def _memberships(repository: Repository, cluster_ids: list[str], facts: Mapping[str, _Facts]) -> None:
    for row in await repository.all(select(MembershipRow).where(MembershipRow.cluster_id.in_(cluster_ids))):
        if row.user_id is not None:
            facts[row.cluster_id].users[row.user_id] = row.id
        elif row.group_id is not None:
            facts[row.cluster_id].groups[row.group_id] = row.id


async def _globals(bindings: SqlBindings, cluster_ids: list[str], facts: Mapping[str, _Facts]) -> None:
    statement = (
        select(BindingRow, GlobalRoleRow)
        .join(GlobalRoleRow, GlobalRoleRow.id == BindingRow.global_role_id)
        .execution_options(populate_existing=True)
    )
    found = [
        (row, selector)
        for row, role in await bindings.session.execute(statement)
        if (selector := reach(global_role(role))) is not None
    ]
    if not found or not cluster_ids:
        return
    labels: dict[str, dict[str, str]] = {}
    there: set[str] = set()
    for some in chunks(cluster_ids):
        there.update(await bindings.all(select(ClusterRow.id).where(ClusterRow.id.in_(some))))
        for label in await bindings.all(select(LabelRow).where(LabelRow.cluster_id.in_(some))):
            labels.setdefault(label.cluster_id, {})[label.key] = label.value
    for row, selector in found:
        takes = [one for one in there if selector.items() <= labels.get(one, {}).items()]
        if takes:
            (binding,) = await bindings.records([row])
            for cluster_id in takes:
                facts[cluster_id].bindings.append(binding)


def _gathered(fact: _Facts) -> Members:
    """The bindings in the order of their ends, so that of several the one that lasts longest counts."""
    users: dict[str, str] = {}
    groups: dict[str, str] = {}
    for binding in fact.bindings:
        for subject in binding.subjects:
            if subject.kind == "user":
                users[subject.id] = binding.id
            elif subject.kind == "group":
                groups[subject.id] = binding.id
    until = {binding.id: binding.expires_at for binding in fact.bindings if binding.expires_at is not None}
    return Members(users | fact.users, groups | fact.groups, until)


def _end(binding: Binding) -> float:
    return inf if binding.expires_at is None else binding.expires_at
