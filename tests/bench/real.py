# SPDX-License-Identifier: Apache-2.0
"""A real API server behind a Mooring server, for what a stub cannot tell: watches that must lose nothing."""

from __future__ import annotations

import json
from pathlib import Path

from support.road import Kubectl
from testbed import ControlPlane
from testbed.errors import TestbedError

from bench.builds import Build
from bench.processes import Failed, Processes, until
from bench.roads import Mooring


def control_plane(processes: Processes) -> ControlPlane:
    """Start etcd and an API server. Raises Failed."""
    cluster = ControlPlane("bench")
    try:
        cluster.up()
    except TestbedError as error:
        raise Failed(str(error)) from error
    processes.later(cluster.down)
    return cluster


def join(processes: Processes, server: Mooring, build: Build, cluster: ControlPlane, name: str) -> int:
    """Register the cluster by its import manifest and start its agent; returns the agent's pid. Raises Failed."""
    kubectl = Kubectl(cluster.bin / "kubectl", cluster.kubeconfig)
    try:
        server.mooring("cluster", "create", name)
        kubectl("apply", "-f", "-", stdin=server.mooring("cluster", "manifest", name, "--no-workload").stdout)
        kubeconfig = agent_kubeconfig(kubectl, server.folder / f"{name}.kubeconfig")
    except AssertionError as error:
        raise Failed(f"the cluster cannot be registered: {error}") from error
    agent = processes.start(f"agent-{name}", [build.program, "agent", "--kubeconfig", kubeconfig])
    until(
        f"{name} is connected",
        lambda: server.cluster_state(name) == "connected",
        60,
        processes.logs / f"agent-{name}.log",
    )
    return agent.pid


def agent_kubeconfig(kubectl: Kubectl, path: Path) -> Path:
    """A kubeconfig with the rights of the agent's service account and no more."""
    token = kubectl("create", "token", "mooring-agent", "--namespace", "mooring-system", "--duration", "12h").strip()
    config = kubectl.json("config", "view", "--raw", "--minify", "--flatten")
    config["users"][0]["user"] = {"token": token}
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))
    return path


def people(server: Mooring, cluster: ControlPlane, name: str, count: int) -> list[str]:
    """Users who may do all in the namespace `watched` of a joined cluster; returns their tokens. Raises Failed."""
    cluster.kubectl("create", "namespace", "watched")
    try:
        users = [server.user(f"watcher-{number}", clusters=[name]) for number in range(count)]
    except AssertionError as error:
        raise Failed(f"no user could be made: {error}") from error
    for user in users:
        words = ["--clusterrole=cluster-admin", f"--user=mooring:{user.name}", "--namespace=watched"]
        cluster.kubectl("create", "rolebinding", user.name, *words)
    return [user.token for user in users]
