# SPDX-License-Identifier: Apache-2.0
"""The command line: `python -m testbed up|down|status|build|sweep`. README.md beside this file says how to use it."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from testbed import binaries, images, kubehost
from testbed.controlplane import ControlPlane
from testbed.errors import TestbedError
from testbed.kubeadm import KubeadmCluster
from testbed.machine import Machines, ensure_base
from testbed.progress import say
from testbed.state import Run, locked, root, runs, sweep

# What is made beside programs.
MADE: dict[str, Callable[[], Path]] = {
    "pause": images.ensure_pause,
    "py": images.ensure_py,
    "agent": images.ensure_agent_image,
    "base": ensure_base,
    "kubehost": kubehost.ensure,
}


def main() -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m testbed", description="A real Kubernetes on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start a cluster that stays until `down`; does nothing if it is up and healthy")
    up.add_argument("--name", default="testbed")
    up.add_argument("--nodes", type=int, default=0, help="real nodes (root)")
    up.add_argument("--controllers", action="store_true", help="controller manager and scheduler without nodes")
    up.add_argument("--machines", type=int, default=0, help="Debian hosts with systemd and sshd (root)")
    up.add_argument("--kubeadm", type=int, default=0, help="instead: so many control planes by kubeadm (root)")
    up.add_argument("--no-cluster", action="store_true", help="machines only")
    up.add_argument("--audit", action="store_true", help="keep the API server's audit log")
    up.add_argument("--api-arg", action="append", default=[], metavar="ARG", help="an argument of kube-apiserver more")
    up.add_argument("--dir", type=Path, help="folder for kubeconfig, keys, logs and data (new or empty)")
    down = commands.add_parser("down", help="remove it and every trace")
    down.add_argument("--name", default="testbed")
    down.add_argument("--dir", type=Path, help="refuse if its folder is another one")
    status = commands.add_parser("status", help="what there is, as JSON")
    status.add_argument("--name", help="only this one; the exit code is 1 unless it is healthy")
    build = commands.add_parser("build", help="make what takes long, or parts of it: programs, images, machines' base")
    parts = ", ".join(["programs", "images", *binaries.GROUPS, *MADE])
    build.add_argument("parts", nargs="*", metavar="part", help=f"{parts}, or a program; all that tests use")
    swept = commands.add_parser("sweep", help="remove what killed runs left")
    swept.add_argument("--all", action="store_true", help="also clusters started by `up`")
    arguments = parser.parse_args()
    try:
        return int(globals()[f"_{arguments.command}"](arguments))
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1


def _up(arguments: argparse.Namespace) -> int:
    # Two at once would remove each other's half-made cluster.
    with locked(f"up-{arguments.name}"):
        return _up_alone(arguments)


def _up_alone(arguments: argparse.Namespace) -> int:
    found = _find(arguments.name)
    if found is not None:
        there = _facts(found)
        if _healthy(found, there) and _as_wanted(there, arguments):
            print(json.dumps(there, indent=1))
            return 0
        say(f"[testbed] {arguments.name} is not whole or not what was asked for: made anew")
        found.teardown()
    begin = time.monotonic()
    run = Run.create(arguments.name, work=arguments.dir)
    facts: dict[str, Any] = {"wanted": _wanted(arguments), "dir": str(run.work)}
    try:
        machines = Machines(arguments.machines, run=run).prepare() if arguments.machines else None
        if arguments.kubeadm:
            facts |= KubeadmCluster(arguments.kubeadm, run=run, folder=run.work).up().facts()
        elif not arguments.no_cluster:
            cluster = ControlPlane(
                arguments.name,
                nodes=arguments.nodes,
                controllers=arguments.controllers,
                audit=arguments.audit,
                api_args=arguments.api_arg,
                # Machines cannot reach this machine's loopback.
                address=machines.host if machines else None,
                run=run,
                folder=run.work,
            ).up()
            facts |= cluster.facts()
        if machines:
            facts |= machines.up().facts()
        (run.folder / "facts.json").write_text(json.dumps(facts))
        run.detach()
    except BaseException:
        run.teardown()
        raise
    say(f"[testbed] {arguments.name} up in {time.monotonic() - begin:.1f} s")
    print(json.dumps(facts, indent=1))
    return 0


def _down(arguments: argparse.Namespace) -> int:
    found = _find(arguments.name)
    if found is None:
        say(f"[testbed] there is no {arguments.name}")
    else:
        if arguments.dir is not None and arguments.dir.absolute() != found.work:
            raise TestbedError(f"{arguments.name} is in {found.work}, not in {arguments.dir}")
        found.teardown()
    sweep()
    return 0


def _status(arguments: argparse.Namespace) -> int:
    report = []
    for run in runs():
        if arguments.name in (None, run.id):
            facts = _facts(run)
            report.append({"id": run.id, "dead": run.dead(), "healthy": _healthy(run, facts), **facts})
    print(json.dumps(report, indent=1))
    return 0 if arguments.name is None or any(entry["healthy"] for entry in report) else 1


def _build(arguments: argparse.Namespace) -> int:
    groups = [group for group in binaries.GROUPS if group not in binaries.ON_REQUEST]
    # What is made of programs waits for them: whoever needs it makes it, in a few seconds.
    whole = {"programs": groups, "images": [name for name in MADE if name != "kubehost"]}
    wanted = [name for part in arguments.parts or whole for name in whole.get(part, [part])]
    programs = [name for name in wanted if name not in MADE]
    if programs:
        print(binaries.ensure(*programs))
    for name in wanted:
        if name in MADE:
            print(MADE[name]())
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    for ident in sweep(everything=arguments.all):
        print(f"removed {ident}")
    return 0


def _wanted(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "nodes": arguments.nodes,
        "controllers": arguments.controllers,
        "cluster": not arguments.no_cluster,
        "machines": arguments.machines,
        "kubeadm": arguments.kubeadm,
        "audit": arguments.audit,
        "api_args": arguments.api_arg,
    }


def _as_wanted(facts: dict[str, Any], arguments: argparse.Namespace) -> bool:
    same_place = arguments.dir is None or facts.get("dir") == str(arguments.dir.absolute())
    return same_place and facts.get("wanted") == _wanted(arguments)


def _find(name: str) -> Run | None:
    folder = root() / "runs" / name
    return Run(folder) if (folder / "owner.json").exists() else None


def _facts(run: Run) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((run.folder / "facts.json").read_text())
    except OSError:
        return {}
    return facts


def _healthy(run: Run, facts: dict[str, Any]) -> bool:
    if not facts or run.dead() or not Path(facts.get("kubeconfig", facts["dir"])).exists():
        return False
    return all(process.alive() for process in run.processes())


if __name__ == "__main__":
    sys.exit(main())
