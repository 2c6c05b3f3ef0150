# SPDX-License-Identifier: Apache-2.0
"""`mooring cluster`: clusters and how they join."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mooring.cli import profile
from mooring.cli.client import Client, segment
from mooring.cli.endpoints import endpoint
from mooring.cli.files import write_output
from mooring.cli.output import output_option, show, show_list
from mooring.cli.parameters import Duration, Label, NameOf, confirm, yes_option
from mooring.lib.errors import MooringError
from mooring.lib.profiles import PROFILES

_COLUMNS = (
    ("NAME", "name"),
    ("STATE", "state"),
    ("KUBERNETES", "kubernetes_version"),
    ("NODES", "node_count"),
    ("LAST SEEN", "last_seen_at"),
    ("LABELS", "labels"),
)
_ORDER = (
    "name", "id", "state", "state_reason", "description", "labels", "profile", "kubernetes_version", "node_count",
)  # fmt: skip
CLUSTER = NameOf("clusters")
_PROFILE = click.option(
    "--profile", "agent_profile", type=click.Choice(PROFILES),
    help="How much the agent may change there, and so what policies can do.  [default when made: admin]",
)  # fmt: skip


@click.group()
def cluster() -> None:
    """Clusters and how they join."""


cluster.add_command(endpoint)


@cluster.command("list")
@click.option(
    "--state", type=click.Choice(["pending", "connected", "disconnected", "refused"]), help="Only in this state."
)
@click.option("--label", "labels", type=Label(), multiple=True, help="Only with this label (repeatable).")
@output_option
def list_(state: str | None, labels: tuple[tuple[str, str], ...], output: str) -> None:
    """List the clusters that you may see."""
    if len(labels) > 1:
        # The API takes one label; the others are compared here.
        first, rest = labels[:1], labels[1:]
    else:
        first, rest = labels, ()
    params = {"state": state} if state else {}
    if first:
        params["label"] = "=".join(first[0])
    with Client(profile.active()) as client:
        found = [item for item in client.items("clusters", params) if all(item["labels"].get(k) == v for k, v in rest)]
    show_list(found, _COLUMNS, output)


@cluster.command()
@click.argument("name", type=CLUSTER)
@output_option
def get(name: str, output: str) -> None:
    """Show a cluster with its state and conditions."""
    with Client(profile.active()) as client:
        show(client.get(f"clusters/{segment(name)}"), output, _ORDER)


@cluster.command()
@click.argument("name")
@click.option("--description", default="", help="What it is for.")
@click.option("--label", "labels", type=Label(), multiple=True, help="A label (repeatable).")
@_PROFILE
@output_option
def create(
    name: str, description: str, labels: tuple[tuple[str, str], ...], agent_profile: str | None, output: str
) -> None:
    """Make a cluster. It is pending until its agent joins."""
    body: dict[str, Any] = {"name": name, "description": description, "labels": dict(labels)}
    if agent_profile is not None:
        body["profile"] = agent_profile
    with Client(profile.active()) as client:
        made = client.post("clusters", body)
    show(made, output, _ORDER)
    if output == "table":
        click.echo(f"\nnext: mooring cluster manifest {name} | kubectl apply -f -   (in that cluster)", err=True)


@cluster.command()
@click.argument("name", type=CLUSTER)
@click.option("--description", help="The new description.")
@click.option("--label", "labels", type=Label(), multiple=True, help="Set a label (repeatable).")
@click.option("--remove-label", "removed", multiple=True, help="Take a label away (repeatable).")
@_PROFILE
@output_option
def update(
    name: str,
    description: str | None,
    labels: tuple[tuple[str, str], ...],
    removed: tuple[str, ...],
    agent_profile: str | None,
    output: str,
) -> None:
    """Change a cluster's description, labels and profile. A new profile holds once the manifest is applied again."""
    path = f"clusters/{segment(name)}"
    change: dict[str, Any] = {}
    with Client(profile.active()) as client:
        if description is not None:
            change["description"] = description
        if labels or removed:
            kept = {k: v for k, v in client.get(path)["labels"].items() if k not in removed}
            change["labels"] = {**kept, **dict(labels)}
        if agent_profile is not None:
            change["profile"] = agent_profile
        if not change:
            raise MooringError("nothing to change", "give --description, --label, --remove-label or --profile")
        show(client.change(path, change), output, _ORDER)


@cluster.command()
@click.argument("name", type=CLUSTER)
@yes_option
def delete(name: str, yes: bool) -> None:
    """Remove a cluster here: its sessions end, its agent's key is dead. Nothing is removed in the cluster itself."""
    confirm(yes, f"delete the cluster {name}")
    with Client(profile.active()) as client:
        client.call("DELETE", f"clusters/{segment(name)}")
    click.echo(f"cluster {name} deleted")


@cluster.command()
@click.argument("name", type=CLUSTER)
@click.option("--image", help="Image of the agent.")
@click.option("--image-pull-policy", type=click.Choice(["Always", "IfNotPresent", "Never"]), help="When to pull it.")
@click.option("--replicas", type=click.IntRange(1, 10), help="How many agents.")
@click.option("--no-admin-binding", is_flag=True, help="Leave out the binding of the server's admins to cluster-admin.")
@click.option("--no-workload", is_flag=True, help="Leave out the Deployment: the agent runs elsewhere as a process.")
@click.option("--no-join-token", is_flag=True, help="Without a join token: for a cluster that has joined already.")
@click.option("--ttl", "ttl_seconds", type=Duration(), help="How long the join token in it is good.  [default: 24h]")
@click.option(
    "--endpoint-service",
    type=click.Choice(["ClusterIP", "NodePort", "LoadBalancer"]),
    help="The Service of an endpoint that the agent serves.  [default: ClusterIP]",
)
@click.option("--endpoint-node-port", type=click.IntRange(1, 65535), help="Its port on the nodes.  [default: any]")
@click.option("--endpoint-name", "endpoint_names", multiple=True, help="A name or address for its certificate, too.")
@click.option("-f", "--file", "path", type=click.Path(path_type=Path), help="Write to a file (mode 0600).")
def manifest(
    name: str,
    image: str | None,
    image_pull_policy: str | None,
    replicas: int | None,
    no_admin_binding: bool,
    no_workload: bool,
    no_join_token: bool,
    ttl_seconds: int | None,
    endpoint_service: str | None,
    endpoint_node_port: int | None,
    endpoint_names: tuple[str, ...],
    path: Path | None,
) -> None:
    """Print what to apply in a cluster so that it joins. It holds a new one-time join token.

    \b
    mooring cluster manifest NAME | kubectl --kubeconfig THE-CLUSTER apply -f -
    """
    wishes = {
        "image": image,
        "image_pull_policy": image_pull_policy,
        "replicas": replicas,
        "ttl_seconds": ttl_seconds,
        "admin_binding": False if no_admin_binding else None,
        "workload": "none" if no_workload else None,
        "join_token": False if no_join_token else None,
        "endpoint_service": endpoint_service,
        "endpoint_node_port": endpoint_node_port,
        "endpoint_names": list(endpoint_names) or None,
    }
    body = {key: value for key, value in wishes.items() if value is not None}
    with Client(profile.active()) as client:
        text = client.call("POST", f"clusters/{segment(name)}/manifest", body).text
    write_output(path, text, private=True)


@cluster.command("join-token")
@click.argument("name", type=CLUSTER)
@click.option("--ttl", "ttl_seconds", type=Duration(), help="How long it is good.  [default: 24h]")
@output_option
def join_token(name: str, ttl_seconds: int | None, output: str) -> None:
    """Make a one-time join token for a cluster's agent."""
    body = {"ttl_seconds": ttl_seconds} if ttl_seconds else {}
    with Client(profile.active()) as client:
        show(client.post(f"clusters/{segment(name)}/join-tokens", body), output, ("join_token", "id", "expires_at"))
