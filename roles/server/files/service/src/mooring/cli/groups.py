# SPDX-License-Identifier: Apache-2.0
"""`mooring group`: groups of users. The group `admins` is built in: its members may do everything on the server."""

from __future__ import annotations

from typing import Any

import click

from mooring.cli import profile
from mooring.cli.client import Client, segment
from mooring.cli.output import output_option, show, show_list
from mooring.cli.parameters import NameOf, confirm, yes_option
from mooring.lib.errors import MooringError

_COLUMNS = (("NAME", "name"), ("DESCRIPTION", "description"), ("MEMBERS", "members"))
_ORDER = ("name", "id", "description", "members")
GROUP = NameOf("groups")
USERS = NameOf("users")


@click.group()
def group() -> None:
    """Groups of users."""


@group.command("list")
@output_option
def list_(output: str) -> None:
    """List groups."""
    with Client(profile.active()) as client:
        show_list(client.items("groups", {}), _COLUMNS, output)


@group.command()
@click.argument("name", type=GROUP)
@output_option
def get(name: str, output: str) -> None:
    """Show a group and its members."""
    with Client(profile.active()) as client:
        show(client.get(f"groups/{segment(name)}"), output, _ORDER)


@group.command()
@click.argument("name")
@click.option("--description", default="", help="What it is for.")
@click.option("--member", "members", type=USERS, multiple=True, help="A member (repeatable).")
@output_option
def create(name: str, description: str, members: tuple[str, ...], output: str) -> None:
    """Make a group."""
    with Client(profile.active()) as client:
        body = {"name": name, "description": description, "members": list(members)}
        show(client.post("groups", body), output, _ORDER)


@group.command()
@click.argument("name", type=GROUP)
@click.option("--description", help="The new description.")
@click.option("--add", "added", type=USERS, multiple=True, help="Add a member (repeatable).")
@click.option("--remove", "removed", type=USERS, multiple=True, help="Remove a member (repeatable).")
@output_option
def update(name: str, description: str | None, added: tuple[str, ...], removed: tuple[str, ...], output: str) -> None:
    """Change a group's description and members."""
    change: dict[str, Any] = {}
    if description is not None:
        change["description"] = description
    if added:
        change["add_members"] = list(added)
    if removed:
        change["remove_members"] = list(removed)
    if not change:
        raise MooringError("nothing to change", "give --description, --add or --remove")
    with Client(profile.active()) as client:
        show(client.change(f"groups/{segment(name)}", change), output, _ORDER)


@group.command()
@click.argument("name", type=GROUP)
@yes_option
def delete(name: str, yes: bool) -> None:
    """Delete a group; its members lose what it gave them."""
    confirm(yes, f"delete the group {name}")
    with Client(profile.active()) as client:
        client.call("DELETE", f"groups/{segment(name)}")
    click.echo(f"group {name} deleted")
