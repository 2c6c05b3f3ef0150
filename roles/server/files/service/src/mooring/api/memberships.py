# SPDX-License-Identifier: Apache-2.0
"""Memberships: which user or group may enter which cluster. What they may do inside is Kubernetes RBAC's to say."""

from __future__ import annotations

from litestar import delete, get, post
from litestar.params import JSONBody

from mooring.api.access import Caller, Deps, may, may_enter, needs, refused, require
from mooring.api.common import (
    Cursor,
    Input,
    Limit,
    NameFilter,
    Output,
    PathRef,
    Ref,
    check_ref,
    found,
    named_by,
    next_cursor,
    paging,
    time_text,
)
from mooring.api.problems import forbidden, invalid, not_found
from mooring.lib.ids import new_id
from mooring.store.records import Membership


class MembershipOut(Output):
    id: str
    cluster: str
    cluster_id: str
    user: str | None
    user_id: str | None
    group: str | None
    group_id: str | None
    created_at: str


class MembershipList(Output):
    items: list[MembershipOut]
    next: str | None
    total: int


class MembershipNew(Input):
    """Exactly one of `user` and `group`; all by id or name."""

    cluster: Ref
    user: Ref | None = None
    group: Ref | None = None


@get("/memberships", opt=needs("memberships", "list", "somewhere"), tags=["memberships"], summary="All memberships")
async def list_memberships(
    services: Deps,
    caller: Caller,
    limit: Limit = 100,
    cursor: Cursor = None,
    cluster: NameFilter = None,
    user: NameFilter = None,
    group: NameFilter = None,
) -> MembershipList:
    for field, value in (("cluster", cluster), ("user", user), ("group", group)):
        check_ref(field, value or "")
    if not may(services, caller, "memberships", "list"):
        view = services.index.cluster(cluster or "")
        if view is None or not may(services, caller, "memberships", "list", cluster=view.id):
            raise refused("memberships", "list", "in every cluster, or in the one that 'cluster' names")
    page_of = paging(limit, cursor, (float, str))
    async with services.store.read() as tx:
        page = await tx.memberships.page(page_of, cluster=cluster, user=user, group=group)
    return MembershipList(items=[_out(item) for item in page.items], next=next_cursor(page), total=page.total)


@post(
    "/memberships",
    opt=needs("memberships", "create", "somewhere"),
    tags=["memberships"],
    summary="Let a user or a group enter a cluster that the caller may enter",
)
async def create_membership(data: JSONBody[MembershipNew], services: Deps, caller: Caller) -> MembershipOut:
    if (data.user is None) == (data.group is None):
        raise invalid("user", "give either user or group")
    async with services.store.write() as tx:
        cluster = await named_by("cluster", "cluster", data.cluster, tx.clusters.get)
        require(services, caller, "memberships", "create", cluster=cluster.id)
        if not may_enter(services, caller, cluster.id):
            raise forbidden(f"you may not enter the cluster {cluster.name!r}, and nobody grants what they do not hold")
        user = None if data.user is None else await named_by("user", "user", data.user, tx.users.get)
        group = None if data.group is None else await named_by("group", "group", data.group, tx.groups.get)
        membership = Membership(
            id=new_id("m"),
            cluster_id=cluster.id,
            cluster_name=cluster.name,
            user_id=None if user is None else user.id,
            user_name=None if user is None else user.name,
            group_id=None if group is None else group.id,
            group_name=None if group is None else group.name,
            created_at=services.clock.now(),
        )
        return _out(await tx.memberships.add(membership))


@get(
    "/memberships/{membership_id:str}",
    opt=needs("memberships", "get", "somewhere"),
    tags=["memberships"],
    summary="One membership",
)
async def get_membership(membership_id: PathRef, services: Deps, caller: Caller) -> MembershipOut:
    async with services.store.read() as tx:
        membership = await found("membership", membership_id, tx.memberships.get)
    if not may(services, caller, "memberships", "get", cluster=membership.cluster_id):
        raise not_found("membership", membership_id)
    return _out(membership)


@delete(
    "/memberships/{membership_id:str}",
    opt=needs("memberships", "delete", "somewhere"),
    tags=["memberships"],
    summary="Take a membership away, at once",
)
async def delete_membership(membership_id: PathRef, services: Deps, caller: Caller) -> None:
    async with services.store.write() as tx:
        membership = await found("membership", membership_id, tx.memberships.get)
        if not may(services, caller, "memberships", "get", cluster=membership.cluster_id):
            raise not_found("membership", membership_id)
        require(services, caller, "memberships", "delete", cluster=membership.cluster_id)
        await tx.memberships.remove(membership.id)


def _out(membership: Membership) -> MembershipOut:
    return MembershipOut(
        id=membership.id,
        cluster=membership.cluster_name,
        cluster_id=membership.cluster_id,
        user=membership.user_name,
        user_id=membership.user_id,
        group=membership.group_name,
        group_id=membership.group_id,
        created_at=time_text(membership.created_at) or "",
    )
