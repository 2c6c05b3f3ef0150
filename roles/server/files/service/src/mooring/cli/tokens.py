# SPDX-License-Identifier: Apache-2.0
"""`mooring token`: tokens for people and programs. A token's text is shown once, when it is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mooring.cli import profile
from mooring.cli.client import Client, segment
from mooring.cli.files import write_output
from mooring.cli.output import output_option, show, show_list
from mooring.cli.parameters import Duration, NameOf, confirm, yes_option

_COLUMNS = (
    ("ID", "id"),
    ("USER", "user"),
    ("CLUSTER", "cluster"),
    ("FOR", "audience"),
    ("EXPIRES", "expires_at"),
    ("REVOKED", "revoked_at"),
    ("LAST USED", "last_used_at"),
    ("DESCRIPTION", "description"),
)
_ORDER = ("token", "id", "user", "cluster", "description", "expires_at")


@click.group()
def token() -> None:
    """Tokens for people and programs."""


@token.command("list")
@click.option("--user", type=NameOf("users"), help="Only this user's (administrators only).")
@click.option("--cluster", type=NameOf("clusters"), help="Only those for this cluster.")
@output_option
def list_(user: str | None, cluster: str | None, output: str) -> None:
    """List tokens: your own; for administrators, everybody's."""
    params = {key: value for key, value in (("user", user), ("cluster", cluster)) if value}
    with Client(profile.active()) as client:
        show_list(client.items("tokens", params), _COLUMNS, output)


@token.command()
@click.argument("token_id", type=NameOf("tokens"))
@output_option
def get(token_id: str, output: str) -> None:
    """Show a token, without its text."""
    with Client(profile.active()) as client:
        show(client.get(f"tokens/{segment(token_id)}"), output, _ORDER)


@token.command()
@click.option("--description", default="", help="What it is for.")
@click.option("--ttl", "ttl_seconds", type=Duration(), help="How long it lives, such as 12h or 30d.")
@click.option("--user", type=NameOf("users"), help="For another user (administrators only).")
@click.option("--cluster", type=NameOf("clusters"), help="Good for this cluster only.")
@click.option("--endpoint", is_flag=True, help="Good at that cluster's own endpoint only, not through the server.")
@click.option("-f", "--file", "path", type=click.Path(path_type=Path), help="Write the token to a file (mode 0600).")
@output_option
def create(
    description: str,
    ttl_seconds: int | None,
    user: str | None,
    cluster: str | None,
    endpoint: bool,
    path: Path | None,
    output: str,
) -> None:
    """Make a token. Its text is shown this once."""
    wishes = {
        "description": description,
        "ttl_seconds": ttl_seconds,
        "user": user,
        "cluster": cluster,
        "endpoint": endpoint,
    }
    body: dict[str, Any] = {key: value for key, value in wishes.items() if value}
    with Client(profile.active()) as client:
        made = client.post("tokens", body)
    if path is not None:
        write_output(path, made.pop("token") + "\n", private=True)
    if made.get("delivered") is False:
        click.echo("mooring: the cluster's agent did not yet say that it has the token", err=True)
    show(made, output, _ORDER)


@token.command()
@click.argument("token_id", type=NameOf("tokens"))
@yes_option
def revoke(token_id: str, yes: bool) -> None:
    """Revoke a token: new requests are refused at once, open watches and execs end within a second."""
    confirm(yes, f"revoke the token {token_id}")
    with Client(profile.active()) as client:
        client.call("DELETE", f"tokens/{segment(token_id)}")
    click.echo(f"token {token_id} revoked")
