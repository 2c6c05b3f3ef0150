# SPDX-License-Identifier: Apache-2.0
"""`mooring user`: users and their passwords."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mooring.cli import profile
from mooring.cli.client import Client, segment
from mooring.cli.files import read_secret_file
from mooring.cli.output import output_option, show, show_list
from mooring.cli.parameters import NameOf, confirm, yes_option
from mooring.lib.errors import MooringError
from mooring.lib.secrets import Secret

_COLUMNS = (("NAME", "name"), ("DISPLAY NAME", "display_name"), ("ENABLED", "enabled"), ("GROUPS", "groups"))
_ORDER = ("name", "id", "display_name", "enabled", "groups", "uid")
USER = NameOf("users")


@click.group()
def user() -> None:
    """Users and their passwords."""


@user.command("list")
@click.option("--group", type=NameOf("groups"), help="Only members of this group.")
@output_option
def list_(group: str | None, output: str) -> None:
    """List users."""
    with Client(profile.active()) as client:
        show_list(client.items("users", {"group": group} if group else {}), _COLUMNS, output)


@user.command()
@click.argument("name", type=USER)
@output_option
def get(name: str, output: str) -> None:
    """Show a user."""
    with Client(profile.active()) as client:
        show(client.get(f"users/{segment(name)}"), output, _ORDER)


@user.command()
@click.argument("name")
@click.option("--display-name", default="", help="The person's name.")
@click.option(
    "--group", "groups", type=NameOf("groups"), multiple=True, help="Make a member of this group (repeatable)."
)
@click.option("--password-file", type=click.Path(path_type=Path), help="File with the password ('-': standard input).")
@click.option("--no-password", is_flag=True, help="No password: the user cannot log in, only be given tokens.")
@output_option
def create(
    name: str, display_name: str, groups: tuple[str, ...], password_file: Path | None, no_password: bool, output: str
) -> None:
    """Make a user. You are asked for a password unless one of the password options is given."""
    body: dict[str, Any] = {"name": name, "display_name": display_name, "groups": list(groups)}
    if not no_password:
        body["password"] = _password(password_file, f"password for {name}").reveal()
    with Client(profile.active()) as client:
        show(client.post("users", body), output, _ORDER)


@user.command()
@click.argument("name", type=USER)
@click.option("--display-name", help="The person's name.")
@click.option(
    "--enable/--disable",
    "enabled",
    default=None,
    help="Disabling revokes all of the user's tokens; enabling does not bring them back.",
)
@click.option("--group", "groups", type=NameOf("groups"), multiple=True, help="The groups, all of them (repeatable).")
@click.option("--no-groups", is_flag=True, help="Take the user out of all groups.")
@click.option("--password-file", type=click.Path(path_type=Path), help="File with a new password.")
@output_option
def update(
    name: str,
    display_name: str | None,
    enabled: bool | None,
    groups: tuple[str, ...],
    no_groups: bool,
    password_file: Path | None,
    output: str,
) -> None:
    """Change a user."""
    change: dict[str, Any] = {}
    if display_name is not None:
        change["display_name"] = display_name
    if enabled is not None:
        change["enabled"] = enabled
    if groups or no_groups:
        change["groups"] = list(groups)
    if password_file:
        change["password"] = read_secret_file(password_file).reveal()
    if not change:
        raise MooringError("nothing to change", "see: mooring user update --help")
    with Client(profile.active()) as client:
        show(client.change(f"users/{segment(name)}", change), output, _ORDER)


@user.command()
@click.argument("name", type=USER)
@yes_option
def delete(name: str, yes: bool) -> None:
    """Delete a user; all of the user's tokens die at once."""
    confirm(yes, f"delete the user {name}")
    with Client(profile.active()) as client:
        client.call("DELETE", f"users/{segment(name)}")
    click.echo(f"user {name} deleted")


@user.command("set-password")
@click.option("--old-password-file", type=click.Path(path_type=Path), help="File with the present password.")
@click.option("--password-file", type=click.Path(path_type=Path), help="File with the new password.")
def set_password(old_password_file: Path | None, password_file: Path | None) -> None:
    """Change your own password."""
    if old_password_file:
        old = read_secret_file(old_password_file)
    else:
        old = Secret(click.prompt("present password", hide_input=True))
    new = _password(password_file, "new password")
    with Client(profile.active()) as client:
        client.post("users/me/password", {"old": old.reveal(), "new": new.reveal()})
    click.echo("password changed")


def _password(file: Path | None, prompt: str) -> Secret:
    if file:
        return read_secret_file(file)
    return Secret(click.prompt(prompt, hide_input=True, confirmation_prompt=True))
