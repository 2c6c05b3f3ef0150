# SPDX-License-Identifier: Apache-2.0
"""`mooring kubeconfig`: how kubectl and its relatives get in, through the server and straight to the clusters."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import click

from mooring.cli import profile
from mooring.cli.client import Client
from mooring.cli.credential import Wanted, keep
from mooring.cli.files import write_output
from mooring.cli.parameters import Duration, NameOf, Words
from mooring.lib.errors import MooringError

WAYS: Final = ("proxy", "fqdn", "nodes")
_MAX_KEPT: Final = 50


@click.command()
@click.option("--cluster", "clusters", type=NameOf("clusters"), multiple=True, help="Only this cluster (repeatable).")
@click.option(
    "--contexts", type=Words(WAYS), help="Which ways: proxy, fqdn, nodes, with commas.  [default: all that there are]"
)
@click.option(
    "--exec/--token",
    "by_exec",
    default=True,
    show_default=True,
    help="Have kubectl ask 'mooring credential' (renews by itself), or put tokens into the file.",
)
@click.option("--ttl", "ttl_seconds", type=Duration(), help="With --token: how long the tokens live, such as 12h.")
@click.option(
    "--current",
    "--current-context",
    "current",
    type=NameOf("clusters"),
    help="The cluster or context that is current in the file.",
)
@click.option(
    "--prefer-direct",
    is_flag=True,
    help="Go straight to the cluster, and through the server while that does not answer (the latter with --exec).",
)
@click.option("--prefix", default="", help="Goes before every name in the file.")
@click.option(
    "-o", "--output", "path", type=click.Path(path_type=Path), help="Write to a file (mode 0600), else print."
)
@click.option(
    "--merge",
    "into",
    type=click.Path(path_type=Path),
    help="Put it into a file that others use too, where all that is not ours stays. Current only with --current.",
)
def kubeconfig(
    clusters: tuple[str, ...],
    contexts: tuple[str, ...] | None,
    by_exec: bool,
    ttl_seconds: int | None,
    current: str | None,
    prefer_direct: bool,
    prefix: str,
    path: Path | None,
    into: Path | None,
) -> None:
    """A kubeconfig with the ways to each cluster that you may enter.

    \b
    mooring kubeconfig --merge ~/.kube/config
    """
    if path is not None and into is not None:
        raise MooringError("-o and --merge do not go together", "-o writes a file of its own, --merge adds to one")
    file = into if into is not None else path if path is not None and str(path) != "-" else None
    wishes = {
        "clusters": list(clusters),
        "contexts": list(contexts or ()),
        "ttl_seconds": ttl_seconds,
        "current_context": current,
        "prefer_direct": prefer_direct,
        "prefix": prefix,
        "path": str(file.absolute()) if file is not None and prefer_direct and by_exec else None,
    }
    body: dict[str, Any] = {"mode": "exec" if by_exec else "token"}
    body |= {key: value for key, value in wishes.items() if value}
    login = profile.active()
    with Client(login) as client:
        answer = client.post("kubeconfig", body)
    if into is not None:
        _merge(into, answer, make_current=current is not None, secret=not by_exec)
    else:
        write_output(path, answer["kubeconfig"], private=True)
        if file is not None:
            click.echo(f"{file}: {_count(answer['contexts'])}: {', '.join(answer['contexts']) or 'none'}")
    for name in answer.get("undelivered", ()):
        click.echo(f"mooring: the agent of {name} did not yet say that it has the token", err=True)
    if by_exec:
        direct = {item["cluster"] for item in answer.get("details", ()) if item["kind"] != "proxy"}
        _at_hand(login, sorted(direct))


def _merge(into: Path, answer: dict[str, Any], *, make_current: bool, secret: bool) -> None:
    from mooring.cli import kubefile
    from mooring.kube import configmerge, configtext

    ours = configtext.load(answer["kubeconfig"].encode()) or {}
    after: dict[str, Any] = {}

    def change(existing: dict[str, Any] | None) -> dict[str, Any]:
        after.update(configmerge.merge(existing, ours, make_current=make_current))
        return after

    changed = kubefile.update(into, change)
    done = "merged" if changed else "as they were"
    others = len(after["contexts"]) - len(ours["contexts"])
    click.echo(
        f"{into}: {_count(answer['contexts'])} {done}, {others} other{'' if others == 1 else 's'} kept; "
        f"current: {after['current-context'] or 'none'}"
    )
    if secret and kubefile.open_to_others(into):
        click.echo(f"mooring: others can read {into}, which holds tokens now; run: chmod 600 {into}", err=True)


def _count(names: list[str]) -> str:
    return f"{len(names)} context{'' if len(names) == 1 else 's'}"


def _at_hand(login: profile.Login, clusters: list[str]) -> None:
    """Have tokens for direct contexts in the cache already: when they are needed, there may be no server to ask."""
    for cluster in clusters[:_MAX_KEPT]:
        keep(Wanted(login, cluster, endpoint=True), time.time())
