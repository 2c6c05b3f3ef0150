# SPDX-License-Identifier: Apache-2.0
"""Brings the built-in roles and bindings in the store in line with this version of the server, at each start.

They are not made by a migration, since they change with the program and not with the schema. A server whose built-in
binding of the administrators is missing would let nobody in, so control does not start without this.

It must not: take anything away, or touch what people made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from mooring.authn.bootstrap import bind_to_default, default_binding_id
from mooring.lib import logging
from mooring.policy import builtin
from mooring.store.policies import RoleTemplate
from mooring.store.ports import Paging, Store, Transaction
from mooring.store.records import User

log = logging.get("mooring.control")


async def bring_in_line(store: Store, now: float) -> None:
    """Write what differs. Users who were there before a role that each new user gets are bound to it too.

    Raises StoreUnavailable, and Taken if somebody gave a role of theirs a name that is now built in.
    """
    _revision, held = await store.policy()
    wanted = builtin.delta(held)
    async with store.write() as tx:
        for role in wanted.global_roles.values():
            if role is None:
                continue
            if role.id in held.global_roles:
                chosen = held.global_roles[role.id].new_user_default  # an administrator may have changed this one
                await tx.global_roles.edit(replace(role, new_user_default=chosen), now)
            else:
                await tx.global_roles.add(replace(role, created_at=now, updated_at=now))
        for template in _parents_first(wanted.templates.values(), held.templates.keys()):
            if template.id in held.templates:
                await tx.templates.edit(template, now)
            else:
                await tx.templates.add(replace(template, created_at=now, updated_at=now))
        for binding in wanted.bindings.values():
            if binding is not None:
                await tx.bindings.add(replace(binding, created_at=now, updated_at=now))
        for role in await tx.global_roles.defaults():
            if role.builtin and default_binding_id(role) not in held.bindings:
                await bind_to_default(tx, role, await _all_users(tx), now)
    if any((wanted.global_roles, wanted.templates, wanted.bindings)):
        log.info(
            "built-in roles were brought in line",
            global_roles=len(wanted.global_roles),
            templates=len(wanted.templates),
            bindings=len(wanted.bindings),
        )


def _parents_first(templates: Iterable[RoleTemplate | None], there: Iterable[str]) -> Iterator[RoleTemplate]:
    """Templates so that each comes after those that it inherits, unless these are there already."""
    known = set(there)
    waiting = [template for template in templates if template is not None]
    while waiting:
        ready = [template for template in waiting if known.issuperset(template.inherits)]
        if not ready:
            raise ValueError("built-in templates inherit in a circle, or one that does not exist")
        yield from ready
        known.update(template.id for template in ready)
        waiting = [template for template in waiting if template.id not in known]


async def _all_users(tx: Transaction) -> list[User]:
    users: list[User] = []
    after: tuple[str, ...] | None = None
    while True:
        page = await tx.users.page(Paging(500, after))
        users += page.items
        if page.next is None:
            return users
        after = page.next
