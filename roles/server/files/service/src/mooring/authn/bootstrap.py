# SPDX-License-Identifier: Apache-2.0
"""What must be in the store before anybody can log in, and what must not change behind its back."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from mooring.authn.passwords import Passwords
from mooring.lib.clock import Clock
from mooring.lib.errors import MooringError
from mooring.lib.ids import new_id
from mooring.lib.names import check_name
from mooring.lib.secrets import Secret
from mooring.store.policies import Binding, GlobalRole, Subject
from mooring.store.ports import Store, Transaction
from mooring.store.records import ADMIN_GROUP_ID, User

PREFIX_KEY = "identity_prefix"


async def create_admin(store: Store, passwords: Passwords, clock: Clock, name: str, password: Secret) -> User:
    """Make an enabled administrator, or give an existing user the group and the password (and end their tokens)."""
    check_name(name, "user name")
    hashed = await passwords.hash(password)
    now = clock.now()
    async with store.write() as tx:
        user = await tx.users.get(name)
        if user is None:
            fresh = User(id=new_id("u"), name=name, uid=str(uuid.uuid4()), created_at=now, updated_at=now)
            user = await tx.users.add(fresh, hashed)
            await bind_to_defaults(tx, [user], now)
        else:
            await tx.users.set_password_hash(user.id, hashed, now)
            await tx.tokens.revoke_all_of(user.id, now)
            user = await tx.users.edit(user.id, now, enabled=True)
        await tx.groups.change_members(ADMIN_GROUP_ID, now, add=[user.id], remove=[])
        return user


async def bind_to_defaults(tx: Transaction, users: Sequence[User], now: float) -> None:
    """Bind new users to the global roles that every new user gets: call it in the transaction that makes them.

    Each such role has a binding for that. What an administrator took out of it stays out.
    """
    for role in await tx.global_roles.defaults():
        await bind_to_default(tx, role, users, now)


async def bind_to_default(tx: Transaction, role: GlobalRole, users: Sequence[User], now: float) -> None:
    """Bind users to a role by the binding that new users are put into, which is made if it is not there."""
    subjects = tuple(Subject(kind="user", id=user.id, name=user.name) for user in users)
    binding_id = default_binding_id(role)
    if await tx.bindings.get("global", binding_id) is not None:
        await tx.bindings.change_subjects(binding_id, now, add=subjects)
        return
    name = f"new-users-{role.name}"
    await tx.bindings.add(
        Binding(
            id=binding_id,
            kind="global",
            name=name if await tx.bindings.get("global", name) is None else binding_id,
            role_id=role.id,
            role_name=role.name,
            subjects=subjects,
            reason=f"each new user gets the role {role.name}",
            builtin=role.builtin,
            created_at=now,
            updated_at=now,
        )
    )


def default_binding_id(role: GlobalRole) -> str:
    """The id of the binding that puts new users into the role."""
    return "b-" + role.id.rpartition("-")[2]


async def has_admin(store: Store) -> bool:
    """Whether anybody could administer this server."""
    async with store.read() as tx:
        return await tx.groups.enabled_admins() > 0


async def pin_prefix(tx: Transaction, prefix: str) -> None:
    """A cluster is registered: from now on its roles name users with this prefix."""
    if await tx.settings.get(PREFIX_KEY) != prefix:
        await tx.settings.put(PREFIX_KEY, prefix)


async def check_prefix(store: Store, prefix: str) -> None:
    """Raises MooringError if clusters are registered with another prefix: their roles would name nobody any more."""
    async with store.read() as tx:
        pinned = await tx.settings.get(PREFIX_KEY)
        if pinned is not None and pinned != prefix and await tx.clusters.any_registered():
            raise MooringError(
                f"identity.prefix is {prefix!r}, but clusters are registered with {pinned!r}",
                f"set it back to {pinned!r}, or remove the clusters first",
            )
