# SPDX-License-Identifier: Apache-2.0
"""`mooring policy`: where the policy stands in each cluster, who can do what and why, and what a change would do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mooring.cli import profile
from mooring.cli.client import Client, segment
from mooring.cli.documents import read_document
from mooring.cli.files import write_output
from mooring.cli.output import output_option, show, show_list
from mooring.cli.parameters import NameOf
from mooring.cli.roles import rule_text
from mooring.lib.errors import MooringError

if TYPE_CHECKING:
    from mooring.cli.export import Exported

CLUSTER: Final = NameOf("clusters")
_RBAC: Final = "apis/rbac.authorization.k8s.io/v1"
_PAGE: Final = 500
_OBJECTS_MAX: Final = 100_000


@click.group()
def policy() -> None:
    """The policy: its state in the clusters, who can do what and why."""


@policy.command()
@click.argument("cluster", type=CLUSTER, required=False)
@output_option
def status(cluster: str | None, output: str) -> None:
    """How far the policy is in each cluster, or all that is known of one."""
    columns = (
        ("CLUSTER", "cluster"),
        ("STATE", "state"),
        ("DESIRED", "desired_revision"),
        ("APPLIED", "applied_revision"),
        ("LAG", "lag_seconds"),
        ("PROFILE", "profile"),
        ("HEALED", "healed"),
        ("ERRORS", "errors"),
    )
    with Client(profile.active()) as client:
        if cluster is not None:
            found = client.get(f"clusters/{segment(cluster)}/policy")
            if output == "table":
                found = {**found, "errors": [_fault(fault) for fault in found.get("errors") or ()]}
            show(found, output, [key for _unused, key in columns])
            return
        rows = list(client.items("policy/status", {}))
        if output == "table":
            rows = [{**row, "errors": len(row.get("errors") or ())} for row in rows]
        show_list(rows, columns, output)


def _fault(fault: Mapping[str, Any]) -> str:
    return f"{fault.get('object')}: {fault.get('reason')}"


@policy.command()
@click.argument("verb")
@click.argument("resource", required=False)
@click.option("--cluster", type=CLUSTER, help="In this cluster; without it, on the server's own API.")
@click.option("-n", "--namespace", help="In this namespace; without it, in the whole cluster.")
@click.option("--name", help="On the object of this name.")
@click.option("--path", help="A path that is no resource, such as /metrics, in place of RESOURCE.")
@output_option
def explain(verb: str, resource: str | None, path: str | None, output: str, **place: str | None) -> None:
    """Who can do VERB on RESOURCE, and why.

    RESOURCE is written as kubectl does: pods, pods/log, deployments.apps, deployments.apps/scale. Resources of the
    server's own API are of the group mooring.fleet: users.mooring.fleet.
    """
    if (resource is None) == (path is None):
        raise MooringError("one thing is asked about", "give --path or RESOURCE")
    asked = {"verb": verb, **{key: value for key, value in place.items() if value}}
    if path is not None:
        asked["path"] = path
    else:
        kind, _unused, subresource = str(resource).partition("/")
        kind, _unused, group = kind.partition(".")
        asked["resource"] = kind
        asked |= {key: value for key, value in (("group", group), ("subresource", subresource)) if value}
    with Client(profile.active()) as client:
        answer = client.get("policy/explain", **asked)
    if output != "table":
        show(answer, output)
        return
    show_list(
        [{**reason, "subjects": _subjects(reason)} for reason in answer["items"]],
        (("BINDING", "binding"), ("SUBJECTS", "subjects"), ("ENDS", "expires_at"), ("WHY", "sentence")),
        output,
    )
    if answer.get("total", 0) > len(answer["items"]):
        click.echo(f"and {answer['total'] - len(answer['items'])} more bindings", err=True)


def _subjects(binding: Mapping[str, Any]) -> list[str]:
    found = [str(name) for name in binding.get("users") or ()]
    found += [f"group {name}" for name in binding.get("groups") or ()]
    found += [f"service account {name}" for name in binding.get("service_accounts") or ()]
    more = int(binding.get("subjects") or 0) - len(found)
    return [*found, f"and {more} more"] if more > 0 else found


@policy.command()
@click.option("--user", type=NameOf("users"), help="What this user can do, by groups too.")
@click.option("--group", type=NameOf("groups"), help="What the members of this group can do by it.")
@click.option("--cluster", type=CLUSTER, help="Only what holds in this cluster.")
@output_option
def access(user: str | None, group: str | None, cluster: str | None, output: str) -> None:
    """What a user or group can do, and where; without options, what you can do."""
    if user is not None and group is not None:
        raise MooringError("one user or one group is asked about", "give --user or --group")
    asked = {key: value for key, value in (("user", user), ("group", group), ("cluster", cluster)) if value}
    with Client(profile.active()) as client:
        answer = client.get("policy/access", **asked)
    if output != "table":
        show(answer, output)
        return
    show_list(
        [{**item, "rules": _rules(item)} for item in answer["items"]],
        (
            ("BINDING", "binding"),
            ("ROLE", "role"),
            ("CLUSTER", "cluster"),
            ("PROJECT", "project"),
            ("BY", "subject"),
            ("ENDS", "expires_at"),
            ("RULES", "rules"),
        ),
        output,
    )
    if answer.get("more"):
        click.echo("and more bindings", err=True)


def _rules(item: Mapping[str, Any]) -> str:
    told = [rule_text(rule) for rule in item.get("rules") or ()]
    told += [f"what the ClusterRole {name} gives" for name in item.get("externals") or ()]
    return "; ".join(told)


@policy.command()
@click.option(
    "-f", "--file", "path", type=click.Path(path_type=Path), required=True, help="Changes; - is standard input."
)
@output_option
def simulate(path: Path, output: str) -> None:
    """What a change would add and remove in each cluster. Nothing is written.

    \b
    FILE is YAML or JSON:
      changes:
        - {kind: cluster_binding, op: create, body: {name: x, role: cluster-viewer, cluster: lab, users: [bob]}}
        - {kind: project_binding, op: delete, name: y, cluster: lab}
    """
    found = read_document(path)
    changes = found.get("changes") if isinstance(found, dict) else found
    if not isinstance(changes, list) or not changes:
        raise MooringError(f"{path} has no changes", "write a list under 'changes'; --help shows one")
    with Client(profile.active()) as client:
        answer = client.post("policy/simulate", {"changes": changes})
    if output != "table":
        show(answer, output)
        return
    hidden = answer.get("hidden") or 0
    if not answer["clusters"] and not hidden:
        click.echo("nothing changes in any cluster")
    for cluster in answer["clusters"]:
        counts = cluster.get("counts") or {}
        told = ", ".join(f"{counts.get(what, 0)} {what}" for what in ("added", "removed", "changed"))
        click.echo(f"{cluster['cluster']}: {told}")
        for sign, what in (("+", "added"), ("-", "removed"), ("~", "changed")):
            listed = cluster.get(what) or []
            for item in listed:
                name = "/".join(part for part in (item.get("namespace"), item["name"]) if part)
                click.echo(f"  {sign} {item['kind']} {name}")
            if counts.get(what, 0) > len(listed):
                click.echo(f"  {sign} and {counts[what] - len(listed)} more")
    if hidden:
        click.echo(f"and {hidden} clusters that you may not see")


@policy.command()
@click.option("--cluster", type=CLUSTER, required=True, help="The cluster to read, with your own rights in it.")
@click.option("--prefix", default="mooring:", show_default=True, help="What users of the server begin with there.")
@click.option("-o", "--output", "path", type=click.Path(path_type=Path), help="Write to a file, else print.")
def export(cluster: str, prefix: str, path: Path | None) -> None:
    """A starting policy from the roles and bindings that a cluster has, for the role mooring.fleet.policies."""
    from mooring.cli.export import Export

    with Client(profile.active()) as client:
        lists = [
            list(_objects(client, cluster, resource))
            for resource in ("clusterroles", "roles", "clusterrolebindings", "rolebindings")
        ]
    write_output(path, export_text(cluster, Export(cluster, prefix).policy(*lists)))


def export_text(cluster: str, found: Exported) -> str:
    """The policy as YAML, with what is not in it as comments."""
    import yaml

    head = [
        f"A starting policy, from the RBAC of the cluster {cluster}: the variable of the role mooring.fleet.policies."
    ]
    if found.notes:
        head += ["", "Not in it:", *(f"- {note}" for note in found.notes)]
    comments = "".join(f"# {_comment(line)}".rstrip() + "\n" for line in head)
    tree = yaml.safe_dump({"mooring_policy": found.tree(cluster)}, sort_keys=False, allow_unicode=True)
    return f"---\n{comments}{tree}"


def _comment(line: str) -> str:
    # Names come from the cluster; one with a line break must not end the comment.
    return "".join(char if char.isprintable() else " " for char in line)


def _objects(client: Client, cluster: str, resource: str) -> Iterator[Mapping[str, Any]]:
    """All objects of a kind, page by page, through the proxy. Raises MooringError."""
    url = f"{client.login.url}/k8s/clusters/{segment(cluster)}/{_RBAC}/{resource}"
    params = {"limit": str(_PAGE)}
    count = 0
    while True:
        page = client.call("GET", url, params=params).json()
        items = page.get("items") or []
        yield from items
        count += len(items)
        more = (page.get("metadata") or {}).get("continue")
        if not more:
            return
        if count >= _OBJECTS_MAX:
            raise MooringError(
                f"the cluster has more than {_OBJECTS_MAX} {resource}", "that is not a policy to start with"
            )
        params["continue"] = str(more)
