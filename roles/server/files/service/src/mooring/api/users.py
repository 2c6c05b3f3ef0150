# SPDX-License-Identifier: Apache-2.0
"""Users. Whoever is disabled or deleted is out at once: the commit tells the index, the index tells the proxy.

There is always an enabled administrator left; a change that would take the last one away is refused.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.params import FromQuery, JSONBody
from msgspec import UNSET, Meta, UnsetType

from mooring.api.access import USER, Caller, Deps, may, needs, require_all_of, require_defaults, source
from mooring.api.common import (
    Cursor,
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
from mooring.api.problems import Problem, conflict, invalid, later, not_found
from mooring.api.services import Services
from mooring.authn.bootstrap import bind_to_defaults
from mooring.authn.passwords import Busy
from mooring.lib import bounds
from mooring.lib.ids import is_id, new_id
from mooring.lib.names import check_name
from mooring.lib.secrets import Secret
from mooring.store.ports import Transaction
from mooring.store.records import User

RESERVED = ("me",)  # has a meaning in URLs
DisplayName = Annotated[str, Meta(max_length=256)]
Password = Annotated[str, Meta(max_length=1024)]
GroupRefs = Annotated[list[Ref], Meta(max_length=500)]


class UserOut(Output):
    id: str
    name: str
    uid: str
    display_name: str
    enabled: bool
    groups: list[str]
    created_at: str
    updated_at: str
    version: int


class UserList(Output):
    items: list[UserOut]
    next: str | None
    total: int


class UserNew(Input):
    """Without a password the user cannot log in, and lives by tokens that an administrator makes."""

    name: Annotated[str, Meta(max_length=253)]
    password: Password | None = None
    display_name: DisplayName = ""
    enabled: bool = True
    groups: GroupRefs = msgspec.field(default_factory=list)


class UserEdit(Input):
    """`groups` is the whole list. A new password ends the user's tokens, other than the one of this call."""

    password: Password | UnsetType = UNSET
    display_name: DisplayName | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    groups: GroupRefs | UnsetType = UNSET


class OwnPassword(Input):
    old: Annotated[str, Meta(max_length=1024)]
    new: Password


@get("/users", opt=needs("users", "list"), tags=["users"], summary="All users")
async def list_users(
    services: Deps,
    limit: Limit = 100,
    cursor: Cursor = None,
    name: NameFilter = None,
    enabled: FromQuery[bool | None] = None,
    group: NameFilter = None,
) -> UserList:
    for field, value in (("name", name), ("group", group)):
        check_ref(field, value or "")
    async with services.store.read() as tx:
        page = await tx.users.page(paging(limit, cursor), name=name, enabled=enabled, group=group)
    return UserList(items=[_out(user) for user in page.items], next=next_cursor(page), total=page.total)


@post("/users", opt=needs("users", "create"), tags=["users"], summary="Make a user")
async def create_user(data: JSONBody[UserNew], services: Deps, caller: Caller) -> Response[UserOut]:
    """The caller has to hold what the groups hold, and the roles that every new user gets."""
    name = named("name", check_name, data.name, "user name")
    if is_id(name, "u") or name in RESERVED:
        raise invalid("name", f"{name!r} has a meaning of its own in URLs; choose another")
    check_text("display_name", data.display_name)
    hashed = None
    if data.password is not None:
        hashed = await services.passwords.hash(_good_password(services, "password", data.password))
    now = services.clock.now()
    user = User(
        id=new_id("u"),
        name=name,
        uid=str(uuid.uuid4()),
        display_name=data.display_name,
        enabled=data.enabled,
        created_at=now,
        updated_at=now,
    )
    async with services.store.write() as tx:
        require_defaults(services, caller)
        user = await tx.users.add(user, hashed)
        if data.groups:
            group_ids = await _group_ids(tx, data.groups)
            require_all_of(services, caller, "groups", "", group_ids)
            user = await tx.users.set_groups(user.id, group_ids, now)
        await bind_to_defaults(tx, [user], now)
        return _with_etag(user, 201)


@get("/users/{ref:str}", opt=USER, tags=["users"], summary="One user, by id or name; others than oneself by right")
async def get_user(ref: PathRef, services: Deps, caller: Caller) -> Response[UserOut]:
    wanted = caller.user_id if ref == "me" else ref
    if wanted not in (caller.user_id, caller.user) and not may(services, caller, "users", "get", name=wanted):
        raise not_found("user", ref)
    async with services.store.read() as tx:
        return _with_etag(await found("user", wanted, tx.users.get))


@patch("/users/{ref:str}", opt=needs("users", "update"), tags=["users"], summary="Change a user")
async def edit_user(
    ref: PathRef, data: JSONBody[UserEdit], services: Deps, caller: Caller, if_match: IfMatch = None
) -> Response[UserOut]:
    """Who sets a password, enables somebody or puts them into a group has to hold what that user or group holds."""
    hashed = None
    if data.password is not UNSET:
        hashed = await services.passwords.hash(_good_password(services, "password", data.password))
    if data.display_name is not UNSET:
        check_text("display_name", data.display_name)
    now = services.clock.now()
    async with services.store.write() as tx:
        user = await found("user", ref, tx.users.get)
        check_match(if_match, user.version)
        display_name = None if data.display_name in (UNSET, user.display_name) else data.display_name
        enabled = None if data.enabled in (UNSET, user.enabled) else data.enabled
        groups_change = False
        if data.groups is not UNSET:
            group_ids = await _group_ids(tx, data.groups)
            groups_change = set(group_ids) != {group_id for group_id, _unused in user.groups}
            if groups_change:
                joining = set(group_ids) - {group_id for group_id, _unused in user.groups}
                require_all_of(services, caller, "groups", "", joining)
                await tx.users.set_groups(user.id, group_ids, now)
        if hashed is not None or enabled:
            field = "password" if hashed is not None else "enabled"
            require_all_of(services, caller, field, user.id, [group_id for group_id, _unused in user.groups])
        if hashed is not None:
            await tx.users.set_password_hash(user.id, hashed, now)
            await tx.tokens.revoke_all_of(user.id, now, keep=caller.token_id)
        if enabled is False:
            await tx.tokens.revoke_all_of(user.id, now)
        if groups_change or hashed is not None or display_name is not None or enabled is not None:
            user = await tx.users.edit(
                user.id,
                now,
                display_name=display_name if isinstance(display_name, str) else None,
                enabled=enabled if isinstance(enabled, bool) else None,
            )
        await keep_an_admin(tx)
        return _with_etag(user)


@delete(
    "/users/{ref:str}",
    opt=needs("users", "delete"),
    tags=["users"],
    summary="Delete a user, their tokens and memberships",
)
async def delete_user(ref: PathRef, services: Deps, if_match: IfMatch = None) -> None:
    async with services.store.write() as tx:
        user = await found("user", ref, tx.users.get)
        check_match(if_match, user.version)
        await tx.users.remove(user.id)
        await keep_an_admin(tx)


@post("/users/me/password", opt=USER, status_code=204, tags=["users"], summary="Change one's own password")
async def change_own_password(
    data: JSONBody[OwnPassword], services: Deps, caller: Caller, request: Request[Any, Any, Any]
) -> None:
    """Ends all of the caller's tokens but the one of this call."""
    address = source(request)
    wait = services.logins.delay(caller.user, address, services.clock.monotonic())
    if wait > 0:
        bounds.met("login_attempts")
        raise later(429, "too_many_failures", "too many wrong passwords", wait)
    new = _good_password(services, "new", data.new)
    services.logins.begin(caller.user, address, services.clock.monotonic())
    async with services.store.read() as tx:
        stored = await tx.users.password_hash(caller.user_id)
    try:
        right = await services.passwords.verify(stored, Secret(data.old))
    except Busy:
        services.logins.not_tried(caller.user, address)
        raise
    if not right:
        raise Problem(403, "wrong_password", "the old password is wrong")
    services.logins.succeeded(caller.user, address)
    hashed = await services.passwords.hash(new)
    now = services.clock.now()
    async with services.store.write() as tx:
        if await tx.users.password_hash(caller.user_id) != stored:
            raise conflict("changed_meanwhile", "the password was changed by somebody else meanwhile")
        await tx.users.set_password_hash(caller.user_id, hashed, now)
        await tx.tokens.revoke_all_of(caller.user_id, now, keep=caller.token_id)


async def keep_an_admin(tx: Transaction) -> None:
    """Raises 409, which rolls the transaction back, if no enabled administrator would be left."""
    if await tx.groups.enabled_admins() == 0:
        raise conflict(
            "last_admin",
            "this is the last enabled administrator",
            hint="put another enabled user into the group 'admins' first",
        )


async def _group_ids(tx: Transaction, refs: list[str]) -> list[str]:
    return [group_id for group_id, _unused in await named_all("groups", "group", refs, tx.groups.named)]


def _good_password(services: Services, field: str, password: str) -> Secret:
    shortest = services.settings.password_min_length
    if len(password) < shortest:
        raise invalid(field, f"has {len(password)} characters; at least {shortest} are needed")
    try:
        size = len(password.encode())
    except UnicodeEncodeError:
        raise invalid(field, "is not valid Unicode") from None
    if size > 1024:
        raise invalid(field, "is longer than 1024 bytes")
    return Secret(password)


def _with_etag(user: User, status: int = 200) -> Response[UserOut]:
    return Response(_out(user), status_code=status, headers={"ETag": etag(user.version)})


def _out(user: User) -> UserOut:
    return UserOut(
        id=user.id,
        name=user.name,
        uid=user.uid,
        display_name=user.display_name,
        enabled=user.enabled,
        groups=[name for _unused, name in user.groups],
        created_at=time_text(user.created_at) or "",
        updated_at=time_text(user.updated_at) or "",
        version=user.version,
    )
