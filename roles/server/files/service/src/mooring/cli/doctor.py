# SPDX-License-Identifier: Apache-2.0
"""`mooring doctor`: finds out what is wrong, and says what to do about it.

On the server's machine it checks the server (`checks.py`); with `--cluster`, from any machine with a login, each hop up
to the cluster's API server (`hops.py`). It changes nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mooring.cli.files import config_option
from mooring.cli.findings import Finding
from mooring.cli.main import EXIT_FAILED
from mooring.cli.output import output_option, show_list
from mooring.cli.parameters import NameOf

_MARKS = {"ok": "ok  ", "warning": "WARN", "failed": "FAIL"}


@click.command()
@config_option
@click.option(
    "--cluster", type=NameOf("clusters"), help="Check each hop up to this cluster's API server (needs a login)."
)
@output_option
def doctor(config_path: Path, cluster: str | None, output: str) -> None:
    """Check a server, or with --cluster the way to a cluster. Exit code 1 when something failed."""
    findings: list[Finding] = []
    source = click.get_current_context().get_parameter_source("config_path")
    given = source is not None and source.name != "DEFAULT"
    # Without a server on this machine, --cluster alone is a question about the way there.
    if given or cluster is None or config_path.exists():
        from mooring.cli import checks

        findings += checks.server(config_path)
    if cluster is not None:
        from mooring.cli import hops

        findings += hops.cluster(cluster)
    if output == "table":
        for finding in findings:
            click.echo(f"{_MARKS[finding.result]}  {finding.check}: {finding.message}")
            if finding.remedy and finding.result != "ok":
                click.echo(f"      -> {finding.remedy}")
    else:
        rows = [
            {"check": f.check, "result": f.result, "message": f.message, "remedy": f.remedy or None} for f in findings
        ]
        show_list(rows, (), output)
    if any(finding.result == "failed" for finding in findings):
        sys.exit(EXIT_FAILED)
