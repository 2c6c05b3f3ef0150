# SPDX-License-Identifier: Apache-2.0
"""`mooring agent`: starts the agent. It must not import anything of the server."""

from __future__ import annotations

from pathlib import Path

import click

from mooring.lib import logging

_HEALTH = ":8080"


@click.command()
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path),
    help="Reach the cluster by this kubeconfig.  [default: the service account of the pod]",
)
@click.option("--context", help="A context of the kubeconfig.  [default: its current one]")
@click.option("--namespace", default="mooring-system", show_default=True, help="Where the agent's Secrets are.")
@click.option(
    "--health",
    default="",
    help="Where to serve /healthz and /readyz, such as ':8080'; 'off': nowhere.  [default: ':8080' in a pod, else off]",
)
@click.option(
    "--endpoint-listen",
    metavar="[HOST]:PORT",
    help="Serve the cluster's authorized endpoint here, such as ':8443'.  [default: nowhere]",
)
@click.option(
    "--endpoint-names",
    default="",
    metavar="NAME,...",
    help="DNS names and addresses under which clients reach it, for the certificate that the agent makes.",
)
@click.option("--endpoint-url", default="", help="Where clients reach it.  [default: the first name, and the port]")
@click.option(
    "--endpoint-dir",
    default="/var/lib/mooring-agent",
    show_default=True,
    type=click.Path(path_type=Path),
    help="A folder of its own for audit records that wait for the server.",
)
@click.option(
    "--endpoint-audit-mib",
    default=64,
    show_default=True,
    type=click.IntRange(min=1),
    help="MiB of such records at which no more requests are taken.",
)
@click.option(
    "--endpoint-audit-required/--endpoint-audit-optional",
    default=True,
    show_default=True,
    help="Whether requests are refused while they cannot be recorded.",
)
@click.option(
    "--endpoint-limit", multiple=True, metavar="NAME=VALUE", help="A bound of the endpoint, as in limits of the server."
)
@click.option("--drain", default=10.0, show_default=True, help="Seconds that open streams may go on after SIGTERM.")
@click.option(
    "--log-level", default="info", show_default=True, type=click.Choice(logging.LEVELS), help="How much to log."
)
@click.option(
    "--log-format",
    default="json",
    show_default=True,
    type=click.Choice(logging.FORMATS),
    help="For machines or people.",
)
def agent(
    kubeconfig: Path | None,
    context: str | None,
    namespace: str,
    health: str,
    endpoint_listen: str | None,
    endpoint_names: str,
    endpoint_url: str,
    endpoint_dir: Path,
    endpoint_audit_mib: int,
    endpoint_audit_required: bool,
    endpoint_limit: tuple[str, ...],
    drain: float,
    log_level: str,
    log_format: str,
) -> None:
    """Run the agent of a cluster until SIGTERM or SIGINT.

    It finds the server's address and its join token in the Secret mooring-join of the namespace (see 'mooring cluster
    manifest'), joins, and keeps the tunnel up from then on.
    """
    from mooring.agent.config import AgentOptions

    logging.configure(log_level, log_format)
    address, port = _health(health, in_pod=kubeconfig is None)
    options = AgentOptions(
        kubeconfig=kubeconfig,
        context=context,
        namespace=namespace,
        health_address=address,
        health_port=port,
        drain_seconds=drain,
    )
    if endpoint_listen is None:
        from mooring.agent import main

        code = main.run(options)
    else:
        from mooring.app import clusteragent
        from mooring.endpoint.settings import MIB, EndpointOptions, limits

        host, port = _address(endpoint_listen)
        code = clusteragent.run(
            options,
            EndpointOptions(
                host=host,
                port=port,
                names=tuple(name.strip() for name in endpoint_names.split(",") if name.strip()),
                url=endpoint_url,
                folder=endpoint_dir,
                audit_limit=endpoint_audit_mib * MIB,
                audit_required=endpoint_audit_required,
                limits=limits(endpoint_limit),
            ),
        )
    if code:
        raise SystemExit(code)


def _health(text: str, *, in_pod: bool) -> tuple[str, int]:
    """The address and port of the health endpoint; port 0 means none. A process beside others takes no port unasked."""
    if text == "off" or (not text and not in_pod):
        return "", 0
    return _address(text or _HEALTH, "':8080', '127.0.0.1:8080' or 'off'")


def _address(text: str, forms: str = "':8443' or '127.0.0.1:8443'") -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise click.BadParameter(f"{text!r} is not an address and port; write {forms}")
    return host.strip("[]"), int(port)
