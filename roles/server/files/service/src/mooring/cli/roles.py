# SPDX-License-Identifier: Apache-2.0
"""`mooring global-role` and `mooring role-template`: the rules that bindings give.

Rules are written in a file, with the fields that `get -o yaml` shows; the options are for the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from mooring.cli import profile
from mooring.cli.client import Client, segment
from mooring.cli.documents import file_option, read_fields
from mooring.cli.output import output_option, show, show_list
from mooring.cli.parameters import Label, NameOf, confirm, yes_option
from mooring.lib.errors import MooringError

GLOBAL_ROLE: Final = NameOf("global-roles")
TEMPLATE: Final = NameOf("role-templates")
_GLOBAL_COLUMNS: Final = (
    ("NAME", "name"),
    ("TITLE", "display_name"),
    ("NEW USERS", "new_user_default"),
    ("BUILT IN", "builtin"),
)
_GLOBAL_ORDER: Final = (
    *("name", "id", "display_name", "description", "rules", "cluster_rules", "cluster_selector"),
    *("new_user_default", "builtin"),
)
_TEMPLATE_COLUMNS: Final = (
    ("NAME", "name"),
    ("CONTEXT", "context"),
    ("TITLE", "display_name"),
    ("INHERITS", "inherits"),
    ("EXTERNAL", "external"),
    ("LOCKED", "locked"),
    ("BUILT IN", "builtin"),
)
_TEMPLATE_ORDER: Final = (
    *("name", "id", "context", "display_name", "description", "rules", "inherits", "external"),
    *("locked", "hidden", "creator_default", "builtin"),
)
_NOTHING: Final = "nothing to change"


@click.group("global-role")
def global_role() -> None:
    """Rights on the server's own API, and in all clusters or those with certain labels."""


@global_role.command("list")
@output_option
def list_global(output: str) -> None:
    """List global roles."""
    with Client(profile.active()) as client:
        show_list(client.items("global-roles", {}), _GLOBAL_COLUMNS, output)


@global_role.command("get")
@click.argument("name", type=GLOBAL_ROLE)
@output_option
def get_global(name: str, output: str) -> None:
    """Show a global role with its rules."""
    with Client(profile.active()) as client:
        show(with_rules(client.get(f"global-roles/{segment(name)}"), output), output, _GLOBAL_ORDER)


@global_role.command("create")
@click.argument("name")
@file_option
@click.option("--title", "display_name", help="The name for people.")
@click.option("--description", help="What it is for.")
@click.option("--selector", type=Label(), multiple=True, help="A label of the clusters (repeatable).")
@click.option("--new-user-default/--no-new-user-default", default=None, help="Bind each new user to it.")
@output_option
def create_global(name: str, path: Path | None, output: str, **options: Any) -> None:
    """Make a global role."""
    body = {**read_fields(path), **_global_fields(options), "name": name}
    with Client(profile.active()) as client:
        show(with_rules(client.post("global-roles", body), output), output, _GLOBAL_ORDER)


@global_role.command("update")
@click.argument("name", type=GLOBAL_ROLE)
@file_option
@click.option("--title", "display_name", help="The new name for people.")
@click.option("--description", help="The new description.")
@click.option("--selector", type=Label(), multiple=True, help="Labels of the clusters, all of them (repeatable).")
@click.option("--new-user-default/--no-new-user-default", default=None, help="Bind each new user to it, or do not.")
@output_option
def update_global(name: str, path: Path | None, output: str, **options: Any) -> None:
    """Change a global role; who is bound to it has the new rules at once."""
    change = {**read_fields(path, ("name",)), **_global_fields(options)}
    if not change:
        raise MooringError(_NOTHING, "give --file, or an option; --help lists them")
    with Client(profile.active()) as client:
        show(with_rules(client.change(f"global-roles/{segment(name)}", change), output), output, _GLOBAL_ORDER)


@global_role.command("delete")
@click.argument("name", type=GLOBAL_ROLE)
@yes_option
def delete_global(name: str, yes: bool) -> None:
    """Delete a global role that nobody is bound to."""
    _delete("global-roles", "global role", name, yes)


@click.group("role-template")
def role_template() -> None:
    """Roles in a cluster or in a project."""


@role_template.command("list")
@click.option("--context", type=click.Choice(["cluster", "project"]), help="Only those for this.")
@output_option
def list_templates(context: str | None, output: str) -> None:
    """List role templates."""
    with Client(profile.active()) as client:
        show_list(client.items("role-templates", {"context": context} if context else {}), _TEMPLATE_COLUMNS, output)


@role_template.command("get")
@click.argument("name", type=TEMPLATE)
@output_option
def get_template(name: str, output: str) -> None:
    """Show a role template with its rules."""
    with Client(profile.active()) as client:
        show(with_rules(client.get(f"role-templates/{segment(name)}"), output), output, _TEMPLATE_ORDER)


@role_template.command("create")
@click.argument("name")
@file_option
@click.option("--context", type=click.Choice(["cluster", "project"]), help="What it is for.")
@click.option("--title", "display_name", help="The name for people.")
@click.option("--description", help="What it is for.")
@click.option("--inherit", "inherits", type=TEMPLATE, multiple=True, help="Take the rules of this one (repeatable).")
@click.option("--external", help="The ClusterRole of the clusters that it stands for.")
@click.option("--locked/--no-locked", default=None, help="Nobody can be bound to it.")
@click.option("--hidden/--no-hidden", default=None, help="It is not offered.")
@click.option("--creator-default/--no-creator-default", default=None, help="Who makes a cluster (project) gets it.")
@output_option
def create_template(name: str, path: Path | None, output: str, **options: Any) -> None:
    """Make a role template."""
    body = {**read_fields(path), **_template_fields(options), "name": name}
    if "context" not in body:
        raise MooringError("a template is for a cluster or for a project", "give --context")
    with Client(profile.active()) as client:
        show(with_rules(client.post("role-templates", body), output), output, _TEMPLATE_ORDER)


@role_template.command("update")
@click.argument("name", type=TEMPLATE)
@file_option
@click.option("--title", "display_name", help="The new name for people.")
@click.option("--description", help="The new description.")
@click.option("--inherit", "inherits", type=TEMPLATE, multiple=True, help="All that it inherits from (repeatable).")
@click.option("--external", help="The ClusterRole that it stands for; '' for none.")
@click.option("--locked/--no-locked", default=None, help="Whether nobody can be bound to it any more.")
@click.option("--hidden/--no-hidden", default=None, help="Whether it is not offered.")
@click.option("--creator-default/--no-creator-default", default=None, help="Whether who makes a place gets it there.")
@output_option
def update_template(name: str, path: Path | None, output: str, **options: Any) -> None:
    """Change a role template; who is bound to it has the new rules at once."""
    change = {**read_fields(path, ("name", "context")), **_template_fields(options)}
    if not change:
        raise MooringError(_NOTHING, "give --file, or an option; --help lists them")
    with Client(profile.active()) as client:
        show(with_rules(client.change(f"role-templates/{segment(name)}", change), output), output, _TEMPLATE_ORDER)


@role_template.command("delete")
@click.argument("name", type=TEMPLATE)
@yes_option
def delete_template(name: str, yes: bool) -> None:
    """Delete a role template that nothing rests on."""
    _delete("role-templates", "role template", name, yes)


def with_rules(item: dict[str, Any], output: str) -> dict[str, Any]:
    """The thing as it is printed: for people, each rule is one line's worth of words."""
    if output != "table":
        return item
    shown = dict(item)
    for key in ("rules", "cluster_rules"):
        if key in shown:
            shown[key] = "; ".join(rule_text(rule) for rule in shown[key])
    return shown


def rule_text(rule: dict[str, Any] | None) -> str:
    """A rule in words: `get,list pods`, `update deployments of apps`, `get secrets named a`, `get /metrics`."""
    if not rule:
        return ""
    verbs = ",".join(rule.get("verbs") or ())
    if rule.get("non_resource_urls"):
        return f"{verbs} {','.join(rule['non_resource_urls'])}"
    groups = ",".join(group or "core" for group in rule.get("api_groups") or ())
    of = "" if groups == "core" else f" of {groups}"
    names = f" named {','.join(rule['resource_names'])}" if rule.get("resource_names") else ""
    return f"{verbs} {','.join(rule.get('resources') or ())}{of}{names}"


def _given(options: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names if options[name] is not None}


def _global_fields(options: dict[str, Any]) -> dict[str, Any]:
    fields = _given(options, "display_name", "description", "new_user_default")
    if options["selector"]:
        fields["cluster_selector"] = dict(options["selector"])
    return fields


def _template_fields(options: dict[str, Any]) -> dict[str, Any]:
    names = ("display_name", "description", "external", "locked", "hidden", "creator_default")
    fields = _given(options, *names)
    if options.get("context"):
        fields["context"] = options["context"]
    if options["inherits"]:
        fields["inherits"] = list(options["inherits"])
    return fields


def _delete(collection: str, what: str, name: str, yes: bool) -> None:
    confirm(yes, f"delete the {what} {name}")
    with Client(profile.active()) as client:
        client.call("DELETE", f"{collection}/{segment(name)}")
    click.echo(f"{what} {name} deleted")
