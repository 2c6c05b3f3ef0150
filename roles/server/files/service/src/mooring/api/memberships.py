# SPDX-License-Identifier: Apache-2.0
"""Memberships: which user or group may enter which cluster. What they may do inside is Kubernetes RBAC's to say."""

from __future__ import annotations

from litestar import delete, get, post
from litestar.params import JSONBody

from mooring.api.access import ADMIN, Deps
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
from mooring.api.problems import invalid
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


@get("/memberships", opt=ADMIN, tags=["memberships"], summary="All memberships")
async def list_memberships(
    services: Deps,
    limit: Limit = 100,
    cursor: Cursor = None,
    cluster: NameFilter = None,
    user: NameFilter = None,
    group: NameFilter = None,
) -> MembershipList:
    for field, value in (("cluster", cluster), ("user", user), ("group", group)):
        check_ref(field, value or "")
    page_of = paging(limit, cursor, (float, str))
    async with services.store.read() as tx:
        page = await tx.memberships.page(page_of, cluster=cluster, user=user, group=group)
    return MembershipList(items=[_out(item) for item in page.items], next=next_cursor(page), total=page.total)


@post("/memberships", opt=ADMIN, tags=["memberships"], summary="Let a user or a group enter a cluster")
async def create_membership(data: JSONBody[MembershipNew], services: Deps) -> MembershipOut:
    if (data.user is None) == (data.group is None):
        raise invalid("user", "give either user or group")
    async with services.store.write() as tx:
        cluster = await named_by("cluster", "cluster", data.cluster, tx.clusters.get)
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


@get("/memberships/{membership_id:str}", opt=ADMIN, tags=["memberships"], summary="One membership")
async def get_membership(membership_id: PathRef, services: Deps) -> MembershipOut:
    async with services.store.read() as tx:
        return _out(await found("membership", membership_id, tx.memberships.get))


@delete("/memberships/{membership_id:str}", opt=ADMIN, tags=["memberships"], summary="Take a membership away, at once")
async def delete_membership(membership_id: PathRef, services: Deps) -> None:
    async with services.store.write() as tx:
        membership = await found("membership", membership_id, tx.memberships.get)
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
