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
    drain: float,
    log_level: str,
    log_format: str,
) -> None:
    """Run the agent of a cluster until SIGTERM or SIGINT.

    It finds the server's address and its join token in the Secret mooring-join of the namespace (see 'mooring cluster
    manifest'), joins, and keeps the tunnel up from then on.
    """
    from mooring.agent import main
    from mooring.agent.config import AgentOptions

    logging.configure(log_level, log_format)
    address, port = _health(health, in_pod=kubeconfig is None)
    code = main.run(
        AgentOptions(
            kubeconfig=kubeconfig,
            context=context,
            namespace=namespace,
            health_address=address,
            health_port=port,
            drain_seconds=drain,
        )
    )
    if code:
        raise SystemExit(code)


def _health(text: str, *, in_pod: bool) -> tuple[str, int]:
    """The address and port of the health endpoint; port 0 means none. A process beside others takes no port unasked."""
    if text == "off" or (not text and not in_pod):
        return "", 0
    host, colon, port = (text or _HEALTH).rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        raise click.BadParameter(f"{text!r} is not an address and port; write ':8080', '127.0.0.1:8080' or 'off'")
    return host.strip("[]"), int(port)
