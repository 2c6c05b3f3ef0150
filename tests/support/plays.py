# SPDX-License-Identifier: Apache-2.0
"""The collection as users get it, built and installed from its tarball, and plays of it run by ansible-runner."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible_runner

from support.road import BIN, Server, run

ROOT = Path(__file__).resolve().parents[2]
Play = Callable[..., ansible_runner.Runner]


def install(built: Path, into: Path) -> Path:
    """Build the tarball in `built` and install it; returns the folder for ANSIBLE_COLLECTIONS_PATH."""
    run([sys.executable, ROOT / "tests" / "collection" / "checks.py", "build", built], timeout=300)
    [tarball] = built.glob("mooring-fleet-*.tar.gz")
    run([BIN / "ansible-galaxy", "collection", "install", "--no-deps", "--offline", "-p", into, tarball])
    return into


def player(collections: Path, server: Server, folder: Path) -> Play:
    """play("mooring.fleet.import_cluster", name=value...) -> what ansible-runner says when it has ended.

    `cmdline` goes to ansible-playbook as it is.
    """
    count = itertools.count(1)

    def start(
        playbook: str | list[dict[str, Any]], inventory: Any = None, cmdline: str | None = None, **variables: Any
    ) -> ansible_runner.Runner:
        data = folder / "runs" / str(next(count))  # the runner keeps variables in it, for the next run too
        data.mkdir(parents=True)
        return ansible_runner.run(
            private_data_dir=str(data),
            playbook=playbook,
            inventory=inventory,
            extravars=variables,
            cmdline=cmdline,
            envvars={
                "ANSIBLE_COLLECTIONS_PATH": str(collections),
                "ANSIBLE_HOME": str(folder / "home"),
                "ANSIBLE_LOCALHOST_WARNING": "false",
                "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
                "MOORING_URL": server.url,
                "MOORING_TOKEN": server.admin_token,
                "MOORING_CA_FILE": str(server.ca),
                "PATH": f"{BIN}:/usr/bin:/bin",
            },
            quiet=True,
            timeout=300,
        )

    return start


def said(runner: ansible_runner.Runner) -> str:
    return str(runner.stdout.read())


def changes(runner: ansible_runner.Runner) -> int:
    """How many tasks changed something; the play must have worked."""
    assert runner.status == "successful", said(runner)
    return int(sum((runner.stats or {})["changed"].values()))
