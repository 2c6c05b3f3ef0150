# SPDX-License-Identifier: Apache-2.0
"""`mooring project`: sets of namespaces of a cluster, with what limits them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import click

from mooring.cli import profile
from mooring.cli.client import Client, segment
from mooring.cli.documents import file_option, read_fields
from mooring.cli.output import output_option, show, show_list
from mooring.cli.parameters import Label, NameOf, confirm, yes_option
from mooring.lib.errors import MooringError

F = TypeVar("F", bound=Callable[..., Any])

PROJECT: Final = NameOf("projects")
_COLUMNS: Final = (
    ("NAME", "name"),
    ("CLUSTER", "cluster"),
    ("NAMESPACES", "namespaces"),
    ("POD SECURITY", "pod_security"),
    ("ISOLATED", "isolated"),
)
_ORDER: Final = (
    *("name", "id", "cluster", "description", "namespaces", "quota", "namespace_quota", "container_limits"),
    *("container_requests", "pod_security", "isolated"),
)
_LEVELS: Final = ("privileged", "baseline", "restricted")


@click.group()
def project() -> None:
    """Sets of namespaces of a cluster, with quotas and limits."""


def _cluster_option(function: F) -> F:
    return click.option("--cluster", type=NameOf("clusters"), help="Its cluster, where NAME is in several.")(function)


def _limit_options(function: F) -> F:
    for name, about in (
        ("--container-request", "What a container asks for that does not say it, as cpu=100m (repeatable)."),
        ("--container-limit", "What a container is limited to that does not say it, as memory=1Gi (repeatable)."),
        ("--namespace-quota", "The quota of each namespace, as pods=20 (repeatable)."),
        ("--quota", "The quota of all namespaces together, as requests.cpu=4 (repeatable)."),
    ):
        function = click.option(name, type=Label(), multiple=True, help=about)(function)
    function = click.option("--pod-security", type=click.Choice([*_LEVELS, "none"]), help="Pod security level.")(
        function
    )
    return click.option(
        "--isolated/--no-isolated", default=None, help="Whether pods are reached from namespaces of the project only."
    )(function)


def _path(name: str, cluster: str | None, *more: str) -> str:
    path = "/".join(["projects", segment(name), *more])
    return f"{path}?{urlencode({'cluster': cluster})}" if cluster else path


def _fields(options: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for option, field in (
        ("quota", "quota"),
        ("namespace_quota", "namespace_quota"),
        ("container_limit", "container_limits"),
        ("container_request", "container_requests"),
    ):
        if options[option]:
            fields[field] = dict(options[option])
    if options["pod_security"]:
        fields["pod_security"] = None if options["pod_security"] == "none" else options["pod_security"]
    for name in ("description", "isolated"):
        if options[name] is not None:
            fields[name] = options[name]
    return fields


def _shown(item: dict[str, Any], output: str) -> dict[str, Any]:
    if output != "table":
        return item
    return {**item, "namespaces": [namespace["name"] for namespace in item.get("namespaces") or ()]}


@project.command("list")
@click.option("--cluster", type=NameOf("clusters"), help="Only of this cluster.")
@output_option
def list_(cluster: str | None, output: str) -> None:
    """List projects."""
    with Client(profile.active()) as client:
        found = client.items("projects", {"cluster": cluster} if cluster else {})
        show_list((_shown(item, output) for item in found), _COLUMNS, output)


@project.command()
@click.argument("name", type=PROJECT)
@_cluster_option
@output_option
def get(name: str, cluster: str | None, output: str) -> None:
    """Show a project."""
    with Client(profile.active()) as client:
        show(_shown(client.get(_path(name, cluster)), output), output, _ORDER)


@project.command()
@click.argument("name")
@click.option("--cluster", type=NameOf("clusters"), help="The cluster that it is in.")
@file_option
@click.option("--description", help="What it is for.")
@click.option("--namespace", "namespaces", multiple=True, help="A namespace that is made for it (repeatable).")
@click.option("--existing", multiple=True, help="A namespace that is there already (repeatable).")
@_limit_options
@output_option
def create(
    name: str,
    cluster: str | None,
    path: Path | None,
    namespaces: tuple[str, ...],
    existing: tuple[str, ...],
    output: str,
    **options: Any,
) -> None:
    """Make a project."""
    body = {**read_fields(path, ("cluster_id",)), **_fields(options), "name": name}
    if cluster:
        body["cluster"] = cluster
    if "cluster" not in body:
        raise MooringError("a project is in a cluster", "give --cluster")
    made = [{"name": namespace, "create": True} for namespace in namespaces]
    made += [{"name": namespace, "create": False} for namespace in existing]
    if made:
        body["namespaces"] = made
    with Client(profile.active()) as client:
        show(_shown(client.post("projects", body), output), output, _ORDER)


@project.command()
@click.argument("name", type=PROJECT)
@_cluster_option
@file_option
@click.option("--description", help="The new description.")
@_limit_options
@output_option
def update(name: str, cluster: str | None, path: Path | None, output: str, **options: Any) -> None:
    """Change a project. What a quota option names takes the place of the whole quota."""
    change = {**read_fields(path, ("name", "cluster", "cluster_id")), **_fields(options)}
    if not change:
        raise MooringError("nothing to change", "give --file, or an option; --help lists them")
    with Client(profile.active()) as client:
        show(_shown(client.change(_path(name, cluster), change), output), output, _ORDER)


@project.command()
@click.argument("name", type=PROJECT)
@_cluster_option
@yes_option
def delete(name: str, cluster: str | None, yes: bool) -> None:
    """Delete a project and its bindings; the namespaces stay in the cluster."""
    confirm(yes, f"delete the project {name}")
    with Client(profile.active()) as client:
        client.call("DELETE", _path(name, cluster))
    click.echo(f"project {name} deleted")


@project.command("add-namespace")
@click.argument("name", type=PROJECT)
@click.argument("namespace")
@_cluster_option
@click.option("--existing", is_flag=True, help="It is there already; otherwise the agent makes it.")
@click.option("--move", is_flag=True, help="Take it out of the project that has it.")
@click.option("--quota", type=Label(), multiple=True, help="Its own quota, as pods=20 (repeatable).")
@output_option
def add_namespace(
    name: str,
    namespace: str,
    cluster: str | None,
    existing: bool,
    move: bool,
    quota: tuple[tuple[str, str], ...],
    output: str,
) -> None:
    """Put a namespace into a project."""
    body: dict[str, Any] = {"name": namespace, "create": not existing, "quota": dict(quota)}
    if move:
        body["move"] = True
    with Client(profile.active()) as client:
        show(_shown(client.post(_path(name, cluster, "namespaces"), body), output), output, _ORDER)


@project.command("remove-namespace")
@click.argument("name", type=PROJECT)
@click.argument("namespace")
@_cluster_option
@yes_option
def remove_namespace(name: str, namespace: str, cluster: str | None, yes: bool) -> None:
    """Take a namespace out of a project; it stays in the cluster."""
    confirm(yes, f"take the namespace {namespace} out of the project {name}")
    with Client(profile.active()) as client:
        client.call("DELETE", _path(name, cluster, "namespaces", segment(namespace)))
    click.echo(f"namespace {namespace} taken out of the project {name}")
