# SPDX-License-Identifier: Apache-2.0
"""`mooring kube-api-auth`: starts the webhook of a control plane. It must not import anything of the server."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("kube-api-auth")
@click.option(
    "--config",
    "path",
    default="/etc/mooring/kube-api-auth.toml",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The settings.",
)
@click.option("--check", is_flag=True, help="Only say whether it could start with these settings.")
def kube_api_auth(path: Path, check: bool) -> None:
    """Tell the API server of this control plane who shows a token of the cluster's endpoint.

    It answers TokenReviews, and denies what a revoked token asks for, from the Secrets that the agent keeps in the
    cluster and from its own folder; it needs neither the server nor, to start, the API server. Runs until SIGTERM or
    SIGINT; SIGHUP reads the certificate anew.
    """
    from mooring.lib import logging
    from mooring.webhook import config, main

    settings = config.load(path)
    if check:
        api = main.check(settings)
        click.echo(f"{path} can be used; the API server is {api.authority.decode()}")
        return
    logging.configure(settings.log_level, settings.log_format)
    if code := main.run(settings):
        raise SystemExit(code)
