# SPDX-License-Identifier: Apache-2.0
"""Global roles and role templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import msgspec
from sqlalchemy import delete, select

from mooring.store.policies import OWN_GROUP, Context, GlobalRole, RoleTemplate, Rule
from mooring.store.ports import InUse, Paging, Taken
from mooring.store.records import Page
from mooring.store.sql.base import TEXTS, Repository, chunks, encode, fitting, matches
from mooring.store.sql.tables import BindingRow, GlobalRoleRow, ParentRow, TemplateRow

_RULES: Final = msgspec.json.Decoder(tuple[Rule, ...])


def reach(role: GlobalRole) -> Mapping[str, str] | None:
    """The labels of the clusters that bindings of the role let people into; None: into no cluster.

    Those in which it has rules; all of them if it gives the right to `enter` clusters.
    """
    if any(_enters(rule) for rule in role.rules):
        return {}
    return role.cluster_selector if role.cluster_rules else None


def _enters(rule: Rule) -> bool:
    lists = ((rule.verbs, "enter"), (rule.api_groups, OWN_GROUP), (rule.resources, "clusters"))
    return not rule.resource_names and all("*" in given or wanted in given for given, wanted in lists)


class SqlGlobalRoles(Repository):
    async def get(self, ref: str) -> GlobalRole | None:
        row = await self.one(select(GlobalRoleRow).where(matches(GlobalRoleRow.id, GlobalRoleRow.name, ref)))
        return None if row is None else global_role(row)

    async def page(self, paging: Paging, *, name: str | None = None, builtin: bool | None = None) -> Page[GlobalRole]:
        statement = select(GlobalRoleRow)
        if name is not None:
            statement = statement.where(GlobalRoleRow.name == name)
        if builtin is not None:
            statement = statement.where(GlobalRoleRow.builtin.is_(builtin))
        found = await self.rows(statement, [GlobalRoleRow.name], paging, lambda row: (row.name,))
        return Page(await self.records(found.items), found.next, found.total)

    async def defaults(self) -> list[GlobalRole]:
        chosen = select(GlobalRoleRow).where(GlobalRoleRow.new_user_default.is_(True))
        return await self.records(await self.all(chosen.order_by(GlobalRoleRow.name)))

    async def add(self, role: GlobalRole) -> GlobalRole:
        if await self.one(select(GlobalRoleRow.id).where(GlobalRoleRow.name == role.name)) is not None:
            raise Taken("name", f"there is a global role {role.name!r} already")
        self.session.add(
            GlobalRoleRow(
                id=role.id,
                name=role.name,
                builtin=role.builtin,
                created_at=role.created_at,
                updated_at=role.updated_at,
                version=role.version,
                **_global_columns(role),
            )
        )
        await self.session.flush()
        self.touched.global_roles.add(role.id)
        return role

    async def edit(self, role: GlobalRole, now: float) -> GlobalRole:
        row = await self.one(select(GlobalRoleRow).where(GlobalRoleRow.id == role.id))
        if row is None:
            raise LookupError(role.id)
        columns = _global_columns(role)
        bound = await self.one(select(BindingRow.id).where(BindingRow.global_role_id == role.id).limit(1))
        before, after = reach(global_role(row)), reach(role)
        if bound is not None and before != after:
            for selector in (before, after):
                if selector is not None:
                    self.touched.members.update(await self.all(fitting(selector)))
        for name, value in columns.items():
            setattr(row, name, value)
        row.updated_at = now
        row.version += 1
        await self.session.flush()
        self.touched.global_roles.add(role.id)
        return global_role(row)

    async def remove(self, role_id: str) -> None:
        await _not_bound(self, select(BindingRow).where(BindingRow.global_role_id == role_id))
        await self.session.execute(delete(GlobalRoleRow).where(GlobalRoleRow.id == role_id))
        self.touched.global_roles.add(role_id)

    async def records(self, rows: Sequence[GlobalRoleRow]) -> list[GlobalRole]:
        """Rows as records, in the same order."""
        return [global_role(row) for row in rows]


class SqlTemplates(Repository):
    async def get(self, ref: str) -> RoleTemplate | None:
        row = await self.one(select(TemplateRow).where(matches(TemplateRow.id, TemplateRow.name, ref)))
        return None if row is None else (await self.records([row]))[0]

    async def page(
        self,
        paging: Paging,
        *,
        name: str | None = None,
        context: Context | None = None,
        builtin: bool | None = None,
        hidden: bool | None = None,
    ) -> Page[RoleTemplate]:
        statement = select(TemplateRow)
        if name is not None:
            statement = statement.where(TemplateRow.name == name)
        if context is not None:
            statement = statement.where(TemplateRow.context == context)
        if builtin is not None:
            statement = statement.where(TemplateRow.builtin.is_(builtin))
        if hidden is not None:
            statement = statement.where(TemplateRow.hidden.is_(hidden))
        found = await self.rows(statement, [TemplateRow.name], paging, lambda row: (row.name,))
        return Page(await self.records(found.items), found.next, found.total)

    async def add(self, template: RoleTemplate) -> RoleTemplate:
        if await self.one(select(TemplateRow.id).where(TemplateRow.name == template.name)) is not None:
            raise Taken("name", f"there is a role template {template.name!r} already")
        self.session.add(
            TemplateRow(
                id=template.id,
                name=template.name,
                context=template.context,
                builtin=template.builtin,
                created_at=template.created_at,
                updated_at=template.updated_at,
                version=template.version,
                **_template_columns(template),
            )
        )
        await self.session.flush()
        await self._put_parents(template)
        self.touched.templates.add(template.id)
        return await self._again(template.id)

    async def edit(self, template: RoleTemplate, now: float) -> RoleTemplate:
        row = await self._row(template.id)
        for name, value in _template_columns(template).items():
            setattr(row, name, value)
        row.updated_at = now
        row.version += 1
        await self.session.flush()
        await self.session.execute(delete(ParentRow).where(ParentRow.template_id == template.id))
        await self._put_parents(template)
        self.touched.templates.add(template.id)
        return await self._again(template.id)

    async def remove(self, template_id: str) -> None:
        await _not_bound(self, select(BindingRow).where(BindingRow.template_id == template_id))
        heirs = select(TemplateRow).join(ParentRow, ParentRow.template_id == TemplateRow.id)
        heir = await self.one(heirs.where(ParentRow.parent_id == template_id).order_by(TemplateRow.name).limit(1))
        if heir is not None:
            raise InUse(f"the role template {heir.name!r} inherits it", "take it out of what that one inherits first")
        await self.session.execute(delete(TemplateRow).where(TemplateRow.id == template_id))
        self.touched.templates.add(template_id)

    async def records(self, rows: Sequence[TemplateRow]) -> list[RoleTemplate]:
        """Rows with what they inherit as records, in the same order."""
        parents: dict[str, list[str]] = {}
        for some in chunks(row.id for row in rows):
            statement = select(ParentRow.template_id, ParentRow.parent_id).where(ParentRow.template_id.in_(some))
            for template_id, parent_id in await self.session.execute(statement):
                parents.setdefault(template_id, []).append(parent_id)
        return [
            RoleTemplate(
                id=row.id,
                name=row.name,
                display_name=row.display_name,
                description=row.description,
                context=cast(Context, row.context),
                rules=_RULES.decode(row.rules),
                inherits=tuple(sorted(parents.get(row.id, ()))),
                external=row.external,
                locked=row.locked,
                hidden=row.hidden,
                creator_default=row.creator_default,
                builtin=row.builtin,
                created_at=row.created_at,
                updated_at=row.updated_at,
                version=row.version,
            )
            for row in rows
        ]

    async def _row(self, template_id: str) -> TemplateRow:
        row = await self.one(select(TemplateRow).where(TemplateRow.id == template_id))
        if row is None:
            raise LookupError(template_id)
        return row

    async def _again(self, template_id: str) -> RoleTemplate:
        return (await self.records([await self._row(template_id)]))[0]

    async def _put_parents(self, template: RoleTemplate) -> None:
        self.session.add_all(
            ParentRow(template_id=template.id, parent_id=parent_id) for parent_id in set(template.inherits)
        )
        await self.session.flush()


async def _not_bound(repository: Repository, bound: Any) -> None:
    binding = await repository.one(bound.order_by(BindingRow.name).limit(1))
    if binding is not None:
        raise InUse(f"the {binding.kind} binding {binding.name!r} binds it", "remove the bindings of the role first")


def _global_columns(role: GlobalRole) -> Mapping[str, Any]:
    return {
        "display_name": role.display_name,
        "description": role.description,
        "rules": encode(role.rules),
        "cluster_rules": encode(role.cluster_rules),
        "cluster_selector": encode(dict(role.cluster_selector)),
        "new_user_default": role.new_user_default,
    }


def _template_columns(template: RoleTemplate) -> Mapping[str, Any]:
    return {
        "display_name": template.display_name,
        "description": template.description,
        "rules": encode(template.rules),
        "external": template.external,
        "locked": template.locked,
        "hidden": template.hidden,
        "creator_default": template.creator_default,
    }


def global_role(row: GlobalRoleRow) -> GlobalRole:
    """The row as a record."""
    return GlobalRole(
        id=row.id,
        name=row.name,
        display_name=row.display_name,
        description=row.description,
        rules=_RULES.decode(row.rules),
        cluster_rules=_RULES.decode(row.cluster_rules),
        cluster_selector=TEXTS.decode(row.cluster_selector),
        new_user_default=row.new_user_default,
        builtin=row.builtin,
        created_at=row.created_at,
        updated_at=row.updated_at,
        version=row.version,
    )
