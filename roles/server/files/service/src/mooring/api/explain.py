# SPDX-License-Identifier: Apache-2.0
"""Who can do this, and why; and what can somebody do where. Answers of `mooring.policy.explain`, bounded.

Everybody may ask what they can do themselves. Who else can do something is told to who may list bindings there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from litestar import get
from litestar.params import QueryParameter

from mooring.api.access import USER, Caller, Deps, may, may_see, needs, refused, require
from mooring.api.common import NameFilter, Output, Ref, check_ref, named_by, time_text
from mooring.api.problems import invalid, not_found
from mooring.api.rules import RuleOut, rules_out, subjects_out
from mooring.api.services import Services
from mooring.authn.identity import Identity
from mooring.authn.index import ClusterView
from mooring.policy import explain
from mooring.policy.effective import Who
from mooring.policy.rules import Attributes
from mooring.store.policies import Binding, BindingKind

LIMIT = 500
"""Bindings in an answer."""
SUBJECTS = 100
"""Subjects of one binding that are shown."""

Word = Annotated[str | None, QueryParameter(max_length=253, required=False)]
Verb = Annotated[str, QueryParameter(max_length=63)]
Path = Annotated[str | None, QueryParameter(max_length=1024, required=False)]


class ReasonOut(Output):
    """One binding that gives the right. `roles`: the bound role, and those that it inherits from on the way to `rule`.
    Not `certain`: the last one stands for a ClusterRole of the cluster, whose rules are not known here. Of the subjects
    the first 100 are shown."""

    kind: BindingKind
    binding: str
    roles: list[str]
    rule: RuleOut | None
    certain: bool
    sentence: str
    users: list[str]
    groups: list[str]
    service_accounts: list[str]
    subjects: int
    expires_at: str | None


class Explanation(Output):
    items: list[ReasonOut]
    total: int


class AccessOut(Output):
    """What one binding gives. `cluster` is `*` for all clusters that the role chooses, null for none."""

    kind: BindingKind
    binding: str
    role: str
    cluster: str | None
    project: str | None
    subject: str
    rules: list[RuleOut]
    externals: list[str]
    expires_at: str | None


class AccessList(Output):
    """`more`: there are further bindings, which are not shown."""

    items: list[AccessOut]
    more: bool


@get(
    "/policy/explain",
    opt=needs("clusterbindings", "list", "somewhere"),
    tags=["policy"],
    summary="Who can do something, and by which binding, role and rule",
)
async def explain_right(
    services: Deps,
    caller: Caller,
    verb: Verb,
    cluster: NameFilter = None,
    resource: Word = None,
    group: Word = None,
    subresource: Word = None,
    namespace: Word = None,
    name: Word = None,
    path: Path = None,
) -> Explanation:
    """Without `cluster`: on Mooring's own API. `path` is a path that is no resource, in place of `resource`."""
    if (resource is None) == (path is None):
        raise invalid("resource", "give either resource or path")
    asked = Attributes(
        verb=check_ref("verb", verb),
        group=check_ref("group", group or ""),
        resource=check_ref("resource", resource or ""),
        subresource=check_ref("subresource", subresource or ""),
        name=check_ref("name", name or ""),
        path=check_ref("path", path or ""),
    )
    view = _cluster(services, caller, cluster)
    if view is None:
        require(services, caller, "globalbindings", "list")
    else:
        require(services, caller, "clusterbindings", "list", cluster=view.id)
    place = explain.Place("" if view is None else view.id, check_ref("namespace", namespace or ""))
    now = services.clock.now()
    reasons = explain.who_can(services.book.policy, services.book.labels, asked, place, now)
    return Explanation(items=[_reason(reason) for reason in reasons[:LIMIT]], total=len(reasons))


@get("/policy/access", opt=USER, tags=["policy"], summary="What a user or group can do, and where; others by right")
async def explain_access(
    services: Deps, caller: Caller, user: NameFilter = None, group: NameFilter = None, cluster: NameFilter = None
) -> AccessList:
    """Without `user` and `group`: the caller. For somebody else, the right `list globalbindings` is needed."""
    if user is not None and group is not None:
        raise invalid("user", "does not go with group")
    view = _cluster(services, caller, cluster)
    who = await _who(services, caller, user, group)
    policy, now = services.book.policy, services.clock.now()
    found = explain.what_can(policy, services.book.labels, who, now, "" if view is None else view.id, limit=LIMIT + 1)
    return AccessList(items=[_access(access) for access in found[:LIMIT]], more=len(found) > LIMIT)


async def _who(services: Services, caller: Identity, user: Ref | None, group: Ref | None) -> Who:
    """Raises 403 unless it is the caller, or a group of theirs, or they may know."""
    mine = services.index.groups_of(caller.user_id)
    sees_all = may(services, caller, "globalbindings", "list")
    async with services.store.read() as tx:
        if group is not None:
            if not sees_all and group not in (*mine, *caller.groups):
                raise refused("globalbindings", "list")
            return Who("", ((await named_by("group", "group", group, tx.groups.get)).id,))
        if user in (None, "me", caller.user, caller.user_id):
            return Who(caller.user_id, tuple(sorted(mine)))
        if not sees_all:
            raise refused("globalbindings", "list")
        found = await named_by("user", "user", user or "", tx.users.get)
    return Who(found.id, tuple(sorted(group_id for group_id, _unused in found.groups)))


def _cluster(services: Services, caller: Identity, ref: str | None) -> ClusterView | None:
    """The cluster, if the caller may know of it. Raises 404."""
    if ref is None:
        return None
    view = services.index.cluster(check_ref("cluster", ref))
    if view is None or not may_see(services, caller, view.id, view.name):
        raise not_found("cluster", ref)
    return view


def _shown(binding: Binding) -> tuple[list[str], list[str], list[str]]:
    return subjects_out(binding.subjects[:SUBJECTS])


def _reason(reason: explain.Reason) -> ReasonOut:
    binding = reason.binding
    users, groups, accounts = _shown(binding)
    return ReasonOut(
        kind=binding.kind,
        binding=binding.name,
        roles=list(reason.path),
        rule=_one(rules_out([] if reason.rule is None else [reason.rule])),
        certain=reason.certain,
        sentence=reason.sentence,
        users=users,
        groups=groups,
        service_accounts=accounts,
        subjects=len(binding.subjects),
        expires_at=time_text(binding.expires_at),
    )


def _one(rules: Sequence[RuleOut]) -> RuleOut | None:
    return rules[0] if rules else None


def _access(access: explain.Access) -> AccessOut:
    binding = access.binding
    everywhere = "*" if access.clusters is not None and binding.kind == "global" else None
    return AccessOut(
        kind=binding.kind,
        binding=binding.name,
        role=binding.role_name,
        cluster=binding.cluster_name or everywhere,
        project=binding.project_name,
        subject=f"{access.subject.kind} {access.subject.name}",
        rules=rules_out((*access.own, *access.kube)),
        externals=list(access.externals),
        expires_at=time_text(binding.expires_at),
    )
