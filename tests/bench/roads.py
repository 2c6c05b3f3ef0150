# SPDX-License-Identifier: Apache-2.0
"""The ways to an upstream that are compared: direct, nginx, the peer, and Mooring's builds.

A road is a URL before a Kubernetes path, a token for it, and the pids whose CPU time it costs. Each is checked with one
call before it is measured: a road that does not work is an error, never a row that is missing.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import shutil
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from support.road import Server, free_port

from bench.builds import Build
from bench.processes import Failed, Processes, tail, until
from bench.upstream import SMALL, SMALL_BYTES, Trust, Upstream, chain

NO_SETTINGS: Mapping[str, str] = MappingProxyType({})

BOUNDS = {
    "max_connections_per_address": 50000,
    "max_handshakes_per_address": 10000,
    "handshakes_per_address": 10000000,
    "agent_handshakes_per_address": 100000,
}
"""Bounds of one address: all clients and agents of the bench have the same (docs/performance.md)."""


@dataclass(kw_only=True)
class Road:
    """A way to an upstream."""

    name: str
    url: str
    token: str
    ca: Path
    server: list[int] = field(default_factory=list)
    """Root processes of the server side; empty: nothing of it is measured."""
    agent: list[int] = field(default_factory=list)

    def check(self) -> None:
        """One call through it. Raises Failed."""
        request = urllib.request.Request(self.url + SMALL, headers={"Authorization": f"Bearer {self.token}"})
        try:
            with urllib.request.urlopen(request, context=_context(self.ca), timeout=30) as answer:
                size = len(answer.read())
        except OSError as error:
            raise Failed(f"{self.name}: {error}") from error
        if size != SMALL_BYTES:
            raise Failed(f"{self.name}: {size} bytes came instead of {SMALL_BYTES}")


def _context(ca: Path) -> Any:
    return Trust(ca, None).context()  # type: ignore[arg-type]


def direct(upstream: Upstream) -> Road:
    """No proxy at all."""
    return Road(name="direct", url=upstream.url, token=secrets.token_urlsafe(32), ca=upstream.trust.ca)


def nginx(processes: Processes, folder: Path, upstream: Upstream) -> Road:
    """Two nginx proxies with TLS between them: the limit."""
    token = secrets.token_urlsafe(32)
    url, pid = chain(processes, folder, upstream.trust, upstream, token)
    return Road(name="nginx", url=f"{url}/k8s/clusters/bench", token=token, ca=upstream.trust.ca, server=[pid])


def peer(
    processes: Processes, programs: Path, upstream: Upstream, *, address: str = "127.0.0.1",
    inside: tuple[str, ...] = (),
) -> Road:  # fmt: skip
    """The Go peer; `inside` is a command prefix that takes the agent into a network namespace."""
    environment = {f"PEER_{name}": secrets.token_urlsafe(32) for name in ("TOKEN", "SECRET", "BEARER")}
    port, trust = free_port("127.0.0.1"), upstream.trust
    words: list[str | Path] = [programs / "peer", "-ca", trust.ca, "-upstream", upstream.url]
    listen: list[str | Path] = ["-listen", f"{address}:{port}", "-cert", trust.pair.crt, "-key", trust.pair.key]
    server = processes.start(f"peer-server-{port}", [*words, *listen, "server"], env=environment)
    connect = f"wss://{address}:{port}/connect"
    agent = processes.start(f"peer-agent-{port}", [*inside, *words, "-connect", connect, "agent"], env=environment)
    return Road(
        name="peer", url=f"https://{address}:{port}/k8s/clusters/bench", token=environment["PEER_TOKEN"], ca=trust.ca,
        server=[server.pid], agent=[agent.pid],
    )  # fmt: skip


@dataclass
class Mooring(Server):
    """A Mooring server of a build, with bounds raised for the bench."""

    def init(self) -> None:
        """Make its data and configuration."""
        super().init()
        text = self.config.read_text()
        for name, value in {**{name: str(value) for name, value in BOUNDS.items()}, **self.settings}.items():
            # A setting that this tree does not know (an older commit) is left out.
            text = re.sub(rf"^(# )?{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
        self.config.write_text(text)

    @property
    def pid(self) -> int:
        """Its root process."""
        assert self.process is not None
        return self.process.pid

    def join_values(self, cluster: str) -> dict[str, str]:
        """What the import manifest's Secret mooring-join holds."""
        for document in yaml.safe_load_all(self.mooring("cluster", "manifest", cluster, "--no-workload").stdout):
            if document and document["kind"] == "Secret" and document["metadata"]["name"] == "mooring-join":
                return {name: base64.b64decode(value).decode() for name, value in document["data"].items()}
        raise Failed("the import manifest holds no Secret mooring-join")

    def cluster_state(self, cluster: str) -> str:
        """The state of a cluster as the API says it."""
        return str(self.api("GET", f"/clusters/{cluster}")["state"])


def has_workers(folder: Path) -> bool:
    """Whether the server that keeps its data below `folder` can be told how many processes it has."""
    return re.search(r"^(# )?workers = ", (folder / "data/mooring.toml").read_text(), re.MULTILINE) is not None


def start_server(
    processes: Processes,
    folder: Path,
    build: Build,
    settings: Mapping[str, str] = NO_SETTINGS,
    address: str = "127.0.0.1",
) -> Mooring:
    """Start a Mooring server in `folder`. Raises Failed."""
    server = Mooring(folder, address, program=build.program, settings=dict(settings))
    try:
        server.init()
        processes.later(server.stop)
        server.start()
    except AssertionError as error:
        raise Failed(f"{build.name}: {error}") from error
    return server


def start_agent(
    processes: Processes, server: Mooring, build: Build, upstream: Upstream, cluster: str = "bench",
    *, inside: tuple[str, ...] = (),
) -> int:  # fmt: skip
    """Register a cluster, start its agent in front of an upstream, and wait until it is connected; returns the pid."""
    namespace = f"mooring-{secrets.token_hex(4)}"
    try:
        server.mooring("cluster", "create", cluster)
        upstream.put_secret(namespace, "mooring-join", server.join_values(cluster))
    except (AssertionError, OSError) as error:
        raise Failed(f"{build.name}: the cluster cannot be registered: {error}") from error
    kubeconfig = server.folder / f"{cluster}.kubeconfig"
    ca = upstream.trust.ca
    content = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": upstream.url, "certificate-authority": str(ca)}}],
        "users": [{"name": "c", "user": {"token": "stub"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }  # fmt: skip
    kubeconfig.write_text(json.dumps(content))
    kubeconfig.chmod(0o600)
    name = f"agent-{build.name}-{cluster}-{server.port}"
    agent = processes.start(
        name, [*inside, build.program, "agent", "--kubeconfig", kubeconfig, "--namespace", namespace]
    )
    until(
        f"{name} is connected", lambda: server.cluster_state(cluster) == "connected", 60, processes.logs / f"{name}.log"
    )
    return agent.pid


def mooring(
    processes: Processes, folder: Path, build: Build, upstream: Upstream, *, name: str = "",
    settings: Mapping[str, str] = NO_SETTINGS, address: str = "127.0.0.1", inside: tuple[str, ...] = (),
) -> Road:  # fmt: skip
    """A Mooring server and agent of a build; `inside` takes the agent into a network namespace."""
    name = name or build.name
    server = start_server(processes, folder / name, build, settings, address)
    agent = start_agent(processes, server, build, upstream, inside=inside)
    return Road(
        name=name, url=f"{server.url}/k8s/clusters/bench", token=server.admin_token, ca=server.ca,
        server=[server.pid], agent=[agent],
    )  # fmt: skip


def ready(road: Road, logs: Path) -> Road:
    """Wait until a road answers rightly. Raises Failed with what it said last."""
    last: list[str] = []

    def works() -> bool:
        try:
            road.check()
        except Failed as error:
            last[:] = [str(error)]
            return False
        return True

    try:
        until(f"{road.name} answers", works, 30)
    except Failed as error:
        log = max(logs.glob(f"{road.name}*.log"), key=lambda path: path.stat().st_mtime, default=None)
        raise Failed(f"{error}: {' '.join(last)}{tail(log)}") from None
    return road


def remove(folder: Path) -> None:
    """Remove a work folder."""
    shutil.rmtree(folder, ignore_errors=True)
