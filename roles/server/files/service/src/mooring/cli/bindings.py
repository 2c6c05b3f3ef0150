# SPDX-License-Identifier: Apache-2.0
"""`mooring global-binding`, `cluster-binding` and `project-binding`: a role for users, groups or service accounts.

The three kinds differ in where they hold; their commands are made here once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click

from mooring.cli import profile
from mooring.cli.client import Client, segment
from mooring.cli.output import output_option, show, show_list
from mooring.cli.parameters import Duration, NameOf, confirm, yes_option
from mooring.lib.errors import MooringError

F = TypeVar("F", bound=Callable[..., Any])

_ORDER: Final = (
    *("name", "id", "role", "cluster", "project", "users", "groups", "service_accounts", "expires_at", "reason"),
    *("builtin", "created_by"),
)
_LISTS: Final = ("users", "groups", "service_accounts")


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    collection: str
    role: NameOf
    about: str

    @property
    def placed(self) -> bool:
        return self.name != "global"


_GLOBAL: Final = _Kind("global", "global-bindings", NameOf("global-roles"), "Global roles of users and groups.")
_CLUSTER: Final = _Kind("cluster", "cluster-bindings", NameOf("role-templates"), "Roles of subjects in a cluster.")
_PROJECT: Final = _Kind("project", "project-bindings", NameOf("role-templates"), "Roles of subjects in a project.")


def _subject_options(prefix: str, words: str) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        dashed = f"--{prefix}" if prefix else "--"
        for option, kind, about in (
            ("service-account", None, f"{words} service account, as namespace/name (repeatable)."),
            ("group", NameOf("groups"), f"{words} group (repeatable)."),
            ("user", NameOf("users"), f"{words} user (repeatable)."),
        ):
            name = f"{prefix}{option}".replace("-", "_") + "s"
            function = click.option(f"{dashed}{option}", name, type=kind, multiple=True, help=about)(function)
        return function

    return decorate


def _end_options(function: F) -> F:
    function = click.option("--expires-at", help="When it ends, as 2026-12-31T18:00:00Z.")(function)
    return click.option("--expires-in", type=Duration(), help="When it ends, as 8h from now.")(function)


def _end(expires_at: str | None, expires_in: int | None) -> str | None:
    if expires_at and expires_in:
        raise MooringError("two ends are given", "give --expires-at or --expires-in")
    if expires_in:
        return datetime.fromtimestamp(time.time() + expires_in, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return expires_at


def _subjects(kind: _Kind, options: dict[str, Any], prefix: str = "") -> dict[str, list[str]]:
    found = {f"{prefix}{name}": list(options[f"{prefix}{name}"]) for name in _LISTS if options[f"{prefix}{name}"]}
    if not kind.placed and f"{prefix}service_accounts" in found:
        raise MooringError("a service account is of one cluster", "use a cluster or project binding")
    return found


def _columns(kind: _Kind) -> tuple[tuple[str, str], ...]:
    place = {"global": (), "cluster": (("CLUSTER", "cluster"),)}.get(
        kind.name, (("CLUSTER", "cluster"), ("PROJECT", "project"))
    )
    accounts = (("SERVICE ACCOUNTS", "service_accounts"),) if kind.placed else ()
    return (
        ("NAME", "name"),
        ("ROLE", "role"),
        *place,
        ("USERS", "users"),
        ("GROUPS", "groups"),
        *accounts,
        ("ENDS", "expires_at"),
    )


def _commands(kind: _Kind) -> click.Group:
    what = f"{kind.name} binding"

    @click.group(f"{kind.name}-binding", help=kind.about)
    def group() -> None:
        pass

    @group.command("list", help=f"List {what}s.")
    @click.option("--role", type=kind.role, help="Only of this role.")
    @click.option("--user", type=NameOf("users"), help="Only those that name this user.")
    @click.option("--group", type=NameOf("groups"), help="Only those that name this group.")
    @click.option("--cluster", type=NameOf("clusters"), help="Only in this cluster.", hidden=not kind.placed)
    @click.option("--project", type=NameOf("projects"), help="Only in this project.", hidden=kind.name != "project")
    @click.option("--expired/--no-expired", default=None, help="Only those that have ended, or only the others.")
    @output_option
    def list_(expired: bool | None, output: str, **filters: str | None) -> None:
        params = {name: value for name, value in filters.items() if value}
        if expired is not None:
            params["expired"] = "true" if expired else "false"
        with Client(profile.active()) as client:
            show_list(client.items(kind.collection, params), _columns(kind), output)

    @group.command("get", help=f"Show a {what}.")
    @click.argument("name", type=NameOf(kind.collection))
    @output_option
    def get(name: str, output: str) -> None:
        with Client(profile.active()) as client:
            show(client.get(f"{kind.collection}/{segment(name)}"), output, _ORDER)

    @group.command("create", help=f"Make a {what}: what its role gives must be yours to give.")
    @click.argument("name")
    @click.option("--role", type=kind.role, required=True, help="The role.")
    @click.option("--cluster", type=NameOf("clusters"), help="The cluster.", hidden=not kind.placed)
    @click.option("--project", type=NameOf("projects"), help="The project.", hidden=kind.name != "project")
    @_subject_options("", "A")
    @_end_options
    @click.option("--reason", default="", help="Why.")
    @output_option
    def create(
        name: str,
        role: str,
        cluster: str | None,
        project: str | None,
        expires_at: str | None,
        expires_in: int | None,
        reason: str,
        output: str,
        **options: Any,
    ) -> None:
        body: dict[str, Any] = {"name": name, "role": role, "reason": reason, **_subjects(kind, options)}
        needed = {"cluster": cluster} if kind.name == "cluster" else {"project": project} if kind.placed else {}
        for option, value in needed.items():
            if not value:
                raise MooringError(f"a {what} is of a {option}", f"give --{option}")
        body |= {key: value for key, value in (("cluster", cluster), ("project", project)) if value}
        end = _end(expires_at, expires_in)
        if end:
            body["expires_at"] = end
        with Client(profile.active()) as client:
            show(client.post(kind.collection, body), output, _ORDER)

    @group.command("update", help=f"Change the subjects, the end or the reason of a {what}.")
    @click.argument("name", type=NameOf(kind.collection))
    @_subject_options("add-", "Add a")
    @_subject_options("remove-", "Remove a")
    @_end_options
    @click.option("--no-end", is_flag=True, help="It does not end.")
    @click.option("--reason", help="The new reason.")
    @output_option
    def update(
        name: str,
        expires_at: str | None,
        expires_in: int | None,
        no_end: bool,
        reason: str | None,
        output: str,
        **options: Any,
    ) -> None:
        change: dict[str, Any] = {**_subjects(kind, options, "add_"), **_subjects(kind, options, "remove_")}
        end = _end(expires_at, expires_in)
        if end and no_end:
            raise MooringError("an end is given, and that there is none", "give --no-end or an end")
        if end or no_end:
            change["expires_at"] = end
        if reason is not None:
            change["reason"] = reason
        if not change:
            raise MooringError("nothing to change", "give --add-user or another option; --help lists them")
        with Client(profile.active()) as client:
            show(client.change(f"{kind.collection}/{segment(name)}", change), output, _ORDER)

    @group.command("delete", help=f"Delete a {what}; what it gave is gone within a second.")
    @click.argument("name", type=NameOf(kind.collection))
    @yes_option
    def delete(name: str, yes: bool) -> None:
        confirm(yes, f"delete the {what} {name}")
        with Client(profile.active()) as client:
            client.call("DELETE", f"{kind.collection}/{segment(name)}")
        click.echo(f"{what} {name} deleted")

    return group


global_binding: Final = _commands(_GLOBAL)
cluster_binding: Final = _commands(_CLUSTER)
project_binding: Final = _commands(_PROJECT)
