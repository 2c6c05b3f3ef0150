# SPDX-License-Identifier: Apache-2.0
"""`mooring cluster endpoint`: how a cluster may be reached without the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from mooring.cli import profile
from mooring.cli.client import Client, segment
from mooring.cli.output import output_option, show
from mooring.cli.parameters import Duration, NameOf, confirm, yes_option
from mooring.lib.errors import MooringError

_FIELDS: Final = ("mode", "fqdn", "ca_pem", "ttl_seconds", "grace_seconds")
_NAME = NameOf("clusters")


@click.group()
def endpoint() -> None:
    """How a cluster may be reached without the server."""


@endpoint.command("show")
@click.argument("name", type=_NAME)
@output_option
def show_(name: str, output: str) -> None:
    """Show the endpoint of a cluster, and what the cluster's agent says of it."""
    with Client(profile.active()) as client:
        _show(client.get(_path(name)), output)


@endpoint.command("set")
@click.argument("name", type=_NAME)
@click.option(
    "--mode", type=click.Choice(["webhook", "agent"]),
    help="Whether the API server asks kube-api-auth, or the agent serves the endpoint.  [default when new: webhook]",
)  # fmt: skip
@click.option("--fqdn", help="HOST or HOST:PORT that leads there; '' for none.")
@click.option(
    "--ca-file", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True),
    help="The CA (PEM) of that name.  [default: the one that the agent reports]",
)  # fmt: skip
@click.option("--no-ca", is_flag=True, help="Forget that CA.")
@click.option("--ttl", "ttl_seconds", type=Duration(), help="How long tokens live by default.  [default when new: 1h]")
@click.option(
    "--grace", "grace_seconds", type=Duration(zero=True),
    help="How long an ended token is taken while the server is away.  [default when new: 0]",
)  # fmt: skip
@output_option
def set_(
    name: str,
    mode: str | None,
    fqdn: str | None,
    ca_file: Path | None,
    no_ca: bool,
    ttl_seconds: int | None,
    grace_seconds: int | None,
    output: str,
) -> None:
    """Set up the endpoint of a cluster, or change what is named."""
    if ca_file is not None and no_ca:
        raise MooringError("--ca-file and --no-ca do not go together", "give one of them")
    ca_pem = "" if no_ca else None if ca_file is None else _read(ca_file)
    wishes = dict(zip(_FIELDS, (mode, fqdn, ca_pem, ttl_seconds, grace_seconds), strict=True))
    with Client(profile.active()) as client:
        before = client.call("GET", _path(name))
        there = before.json()
        body: dict[str, Any] = {key: there[key] for key in _FIELDS} if there["enabled"] else {"mode": "webhook"}
        body |= {key: value for key, value in wishes.items() if value is not None}
        if not body.get("fqdn"):
            body.pop("ca_pem", None)
        etag = before.headers.get("ETag")
        _show(client.call("PUT", _path(name), body, if_match=etag).json(), output)


@endpoint.command("off")
@click.argument("name", type=_NAME)
@yes_option
def off(name: str, yes: bool) -> None:
    """Turn the endpoint of a cluster off: the tokens for it are revoked, and direct contexts stop working."""
    confirm(yes, f"turn off the endpoint of {name} and revoke the tokens for it")
    with Client(profile.active()) as client:
        client.call("DELETE", _path(name))
    click.echo(f"endpoint of {name} is off")


def _path(name: str) -> str:
    return f"clusters/{segment(name)}/endpoint"


def _read(path: Path) -> str:
    try:
        with click.open_file(str(path), encoding="ascii") as file:
            return str(file.read())
    except (OSError, UnicodeDecodeError) as error:
        raise MooringError(f"{path} cannot be read: {error}", "name a CA certificate (PEM)") from None


def _show(item: dict[str, Any], output: str) -> None:
    if output == "table":
        status = item.pop("status") or {}
        nodes = status.get("nodes") or []
        item["ca_pem"] = "given" if item["ca_pem"] else ""
        item["nodes"] = [f"{node['name']}={node['host']}:{node['port']}" for node in nodes]
        item |= {key: status.get(key) for key in ("serving_url", "revision", "problem", "reported_at")}
    show(item, output, ("cluster", "enabled", *_FIELDS, "nodes", "serving_url", "problem"))
