# SPDX-License-Identifier: Apache-2.0
"""`mooring membership`: who may enter which cluster. What they may do inside is the cluster's own RBAC."""

from __future__ import annotations

import click

from mooring.cli import profile
from mooring.cli.client import Client, segment
from mooring.cli.output import output_option, show, show_list
from mooring.cli.parameters import NameOf, confirm, yes_option
from mooring.lib.errors import MooringError

_COLUMNS = (("ID", "id"), ("CLUSTER", "cluster"), ("USER", "user"), ("GROUP", "group"), ("SINCE", "created_at"))
_ORDER = ("id", "cluster", "user", "group", "created_at")


@click.group()
def membership() -> None:
    """Who may enter which cluster."""


@membership.command("list")
@click.option("--cluster", type=NameOf("clusters"), help="Only for this cluster.")
@click.option("--user", type=NameOf("users"), help="Only this user's own.")
@click.option("--group", type=NameOf("groups"), help="Only this group's.")
@output_option
def list_(cluster: str | None, user: str | None, group: str | None, output: str) -> None:
    """List memberships."""
    params = {key: value for key, value in (("cluster", cluster), ("user", user), ("group", group)) if value}
    with Client(profile.active()) as client:
        show_list(client.items("memberships", params), _COLUMNS, output)


@membership.command()
@click.argument("cluster", type=NameOf("clusters"))
@click.option("--user", type=NameOf("users"), help="Let this user in.")
@click.option("--group", type=NameOf("groups"), help="Let this group in.")
@output_option
def create(cluster: str, user: str | None, group: str | None, output: str) -> None:
    """Let a user or a group into a cluster."""
    if (user is None) == (group is None):
        raise MooringError("a membership is of one user or of one group", "give --user or --group")
    body = {"cluster": cluster, "user": user} if user else {"cluster": cluster, "group": group}
    with Client(profile.active()) as client:
        show(client.post("memberships", body), output, _ORDER)


@membership.command()
@click.argument("membership_id", type=NameOf("memberships"))
@yes_option
def delete(membership_id: str, yes: bool) -> None:
    """Take a membership away: open watches and execs that rest on it end within a second."""
    confirm(yes, f"delete the membership {membership_id}")
    with Client(profile.active()) as client:
        client.call("DELETE", f"memberships/{segment(membership_id)}")
    click.echo(f"membership {membership_id} deleted")
