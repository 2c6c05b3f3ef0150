# SPDX-License-Identifier: Apache-2.0
"""Groups and who is in them. Groups named here are what roles in the clusters are bound to (`<prefix><group>`)."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Response, delete, get, patch, post
from litestar.params import JSONBody
from msgspec import UNSET, Meta, UnsetType

from mooring.api.access import Caller, Deps, needs, require_all_of
from mooring.api.common import (
    Cursor,
    Description,
    IfMatch,
    Input,
    Limit,
    NameFilter,
    Output,
    PathRef,
    Ref,
    check_match,
    check_ref,
    check_text,
    etag,
    found,
    named,
    named_all,
    next_cursor,
    paging,
    time_text,
)
from mooring.api.problems import conflict, invalid
from mooring.api.users import keep_an_admin
from mooring.lib.ids import is_id, new_id
from mooring.lib.names import check_name
from mooring.store.ports import Transaction
from mooring.store.records import Group

Members = Annotated[list[Ref], Meta(max_length=10_000)]


class GroupOut(Output):
    id: str
    name: str
    description: str
    builtin: bool
    members: list[str]
    created_at: str
    updated_at: str
    version: int


class GroupList(Output):
    items: list[GroupOut]
    next: str | None
    total: int


class GroupNew(Input):
    name: Annotated[str, Meta(max_length=253)]
    description: Description = ""
    members: Members = msgspec.field(default_factory=list)


class GroupEdit(Input):
    """`members` is the whole list; `add_members` and `remove_members` change it, and do not go with `members`."""

    description: Description | UnsetType = UNSET
    members: Members | UnsetType = UNSET
    add_members: Members | UnsetType = UNSET
    remove_members: Members | UnsetType = UNSET


@get("/groups", opt=needs("groups", "list"), tags=["groups"], summary="All groups")
async def list_groups(
    services: Deps,
    limit: Limit = 100,
    cursor: Cursor = None,
    name: NameFilter = None,
    member: NameFilter = None,
) -> GroupList:
    for field, value in (("name", name), ("member", member)):
        check_ref(field, value or "")
    async with services.store.read() as tx:
        page = await tx.groups.page(paging(limit, cursor), name=name, member=member)
    return GroupList(items=[_out(group) for group in page.items], next=next_cursor(page), total=page.total)


@post("/groups", opt=needs("groups", "create"), tags=["groups"], summary="Make a group")
async def create_group(data: JSONBody[GroupNew], services: Deps) -> Response[GroupOut]:
    name = named("name", check_name, data.name, "group name")
    if is_id(name, "g"):
        raise invalid("name", f"{name!r} has the form of a group id; choose another")
    now = services.clock.now()
    group = Group(
        id=new_id("g"),
        name=name,
        description=check_text("description", data.description),
        created_at=now,
        updated_at=now,
    )
    async with services.store.write() as tx:
        group = await tx.groups.add(group)
        if data.members:
            members = await _user_ids(tx, "members", data.members)
            group = await tx.groups.change_members(group.id, now, add=members, remove=[])
        return _with_etag(group, 201)


@get("/groups/{ref:str}", opt=needs("groups", "get"), tags=["groups"], summary="One group, by id or name")
async def get_group(ref: PathRef, services: Deps) -> Response[GroupOut]:
    async with services.store.read() as tx:
        return _with_etag(await found("group", ref, tx.groups.get))


@patch("/groups/{ref:str}", opt=needs("groups", "update"), tags=["groups"], summary="Change a group or its members")
async def edit_group(
    ref: PathRef, data: JSONBody[GroupEdit], services: Deps, caller: Caller, if_match: IfMatch = None
) -> Response[GroupOut]:
    """Who joins gets what the group holds: the caller has to hold all of that."""
    if data.members is not UNSET and (data.add_members is not UNSET or data.remove_members is not UNSET):
        raise invalid("members", "does not go with add_members or remove_members")
    now = services.clock.now()
    async with services.store.write() as tx:
        group = await found("group", ref, tx.groups.get)
        check_match(if_match, group.version)
        if data.description is not UNSET and data.description != group.description:
            description = check_text("description", data.description)
            group = await tx.groups.edit(group.id, now, description=description)
        joining, leaving = await _changes(tx, group, data)
        if joining:
            require_all_of(services, caller, "members", "", [group.id])
        if joining or leaving:
            group = await tx.groups.change_members(group.id, now, add=joining, remove=leaving)
        await keep_an_admin(tx)
        return _with_etag(group)


@delete(
    "/groups/{ref:str}", opt=needs("groups", "delete"), tags=["groups"], summary="Delete a group and its memberships"
)
async def delete_group(ref: PathRef, services: Deps, if_match: IfMatch = None) -> None:
    async with services.store.write() as tx:
        group = await found("group", ref, tx.groups.get)
        check_match(if_match, group.version)
        if group.builtin:
            raise conflict("builtin", f"the group {group.name!r} is built in and cannot be deleted")
        await tx.groups.remove(group.id)


async def _changes(tx: Transaction, group: Group, data: GroupEdit) -> tuple[set[str], set[str]]:
    """Who joins and who leaves."""
    before = {user_id for user_id, _unused in group.members}
    if data.members is not UNSET:
        after = set(await _user_ids(tx, "members", data.members))
        return after - before, before - after
    joining = set(await _user_ids(tx, "add_members", data.add_members or []))
    leaving = set(await _user_ids(tx, "remove_members", data.remove_members or []))
    if joining & leaving:
        raise invalid("remove_members", "names somebody who is in add_members as well")
    return joining - before, leaving & before


async def _user_ids(tx: Transaction, field: str, refs: list[str]) -> list[str]:
    return [user_id for user_id, _unused in await named_all(field, "user", refs, tx.users.named)]


def _with_etag(group: Group, status: int = 200) -> Response[GroupOut]:
    return Response(_out(group), status_code=status, headers={"ETag": etag(group.version)})


def _out(group: Group) -> GroupOut:
    return GroupOut(
        id=group.id,
        name=group.name,
        description=group.description,
        builtin=group.builtin,
        members=[name for _unused, name in group.members],
        created_at=time_text(group.created_at) or "",
        updated_at=time_text(group.updated_at) or "",
        version=group.version,
    )
