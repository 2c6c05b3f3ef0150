# SPDX-License-Identifier: Apache-2.0
"""The road that faults happen on: a server on this machine, an agent behind a bad link, a real API server.

    probes -> server (10.205.k.1) <- the wire <- agent (namespace) -> the wire -> API server (10.205.k.5) -> echo

The server's data is on a small tmpfs, so that its disk can be filled; a pod of the cluster echoes what an upgraded
connection sends, as `exec` would. All of it is in the test bed's register: a run that is killed is swept by the next.

This module must not know which faults there are.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from support.road import BIN, Server, until
from testbed import ControlPlane
from testbed.state import Pid, Process, Run, command

from faults.link import Link
from faults.postgres import Postgres

CLUSTER = "harbour"
NAMESPACE = "probe"
WORKERS = 2
DISK_MIB = 64


class RecordedServer(Server):
    """A server whose process is in the register, and whose clock can be set."""

    def __init__(self, register: Run, folder: Path, address: str) -> None:
        super().__init__(folder, address)
        self._register = register
        self.environment: dict[str, str] = {}
        self.recorded: Process | None = None

    def start(self, wait: bool = True) -> None:
        words: list[str | Path] = [BIN / "mooring", "server", "run", "--config", self.config]
        log = self.folder / "server.log"
        self.recorded = self._register.spawn("mooring-server", words, log=log, env={**os.environ, **self.environment})
        self.process = self.recorded._popen
        if wait:
            until("the server is ready", self.ready, 60)
        if not self.admin_token:
            self.admin_token = self.login("admin", (self.folder / "admin.password").read_text())

    def reload(self) -> None:
        """SIGHUP: read the certificate again."""
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """SIGKILL to all of its processes, the supervisor first, so that it replaces nothing."""
        assert self.recorded is not None
        others = self.pids()[1:]
        self.recorded.stop()
        for pid in others:
            kill(pid)


class Clock:
    """The wall clock of a process, which can be set off and can jump while it runs; see clock/sitecustomize.py."""

    def __init__(self, folder: Path, name: str) -> None:
        self.file = folder / f"{name}.clock"
        self.set(0)

    def set(self, seconds: float) -> None:
        """Seconds ahead of this machine's clock; negative: behind."""
        scratch = self.file.with_suffix(".new")
        scratch.write_text(f"{seconds}\n")
        scratch.rename(self.file)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be started with."""
        return {"PYTHONPATH": str(Path(__file__).parent / "clock"), "FAULTS_CLOCK": str(self.file)}


class Echo:
    """A program in the cluster that takes an upgrade and sends back what it gets, byte for byte."""

    def __init__(self, address: str) -> None:
        self._listener = socket.create_server((address, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _unused = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    @staticmethod
    def _serve(peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer:
            head = b""
            while b"\r\n\r\n" not in head:
                some = peer.recv(4096)
                if not some:
                    return
                head += some
            peer.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            while some := peer.recv(4096):
                peer.sendall(some)

    def close(self) -> None:
        self._listener.close()


class Clients(Protocol):
    """Who uses the road."""

    def quiet(self) -> None:
        """Ask the cluster for nothing."""

    def resume(self) -> None:
        """Go on."""


class Bed:
    """Everything that a fault can hit. `up` makes it, the register's teardown removes it."""

    def __init__(self, register: Run, seed: int = 0, postgres: bool = False) -> None:
        self.register = register
        name = "faults-postgres" if postgres else "faults"
        self.folder = register.work / f"{name}-road"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.link = Link.create(register, seed)
        self.cluster = ControlPlane(name, address=self.link.api, run=register)
        self.server = RecordedServer(register, self.folder / "server", self.link.server)
        self.server_clock = Clock(self.folder, "server")
        self.agent_clock = Clock(self.folder, "agent")
        self.agent: Process | None = None
        self.postgres = Postgres(register) if postgres else None
        self.clients: Clients | None = None
        self.noticed: float | None = None
        """Of the last fault on a tunnel at rest: seconds until the server's REST API said that the cluster is away."""
        self.echo = Echo(self.link.api)
        self._agent_config = self.folder / "agent.kubeconfig"

    # -- making it

    def up(self) -> None:
        """Bring it up, and wait until a request passes. Raises TestbedError or AssertionError."""
        self.cluster.up()
        data = self.server.folder / "data"
        data.mkdir(parents=True)
        self.register.record("mount", path=str(data))
        command("mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=0700", "mooring-faults", str(data))
        self.server.environment = self.server_clock.environment
        if self.postgres is not None:
            self.postgres.create()
            self.server.database = self.postgres.url
        self.server.init()
        self.server.set("workers", str(WORKERS))
        self.server.start()
        self.server.mooring("cluster", "create", CLUSTER)
        self.manifest = self.server.mooring("cluster", "manifest", CLUSTER, "--no-workload").stdout
        self.apply(self.manifest)
        self.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": self._objects()}))
        # No kubelet says where the pod is, so we do: the API server then passes `pods/proxy` on to the echo.
        status = json.dumps({"status": {"phase": "Running", "podIP": self.link.api, "podIPs": [{"ip": self.link.api}]}})
        self.cluster.kubectl("-n", NAMESPACE, "patch", "pod", "echo", "--subresource=status", "-p", status)
        self._write_agent_config()
        self.start_agent()
        until("the road is open", self.open, 60)

    def _objects(self) -> list[dict[str, Any]]:
        meta = {"name": "echo", "namespace": NAMESPACE}
        return [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {**meta, "name": "default"}},
            {"apiVersion": "v1", "kind": "Pod", "metadata": meta,
             "spec": {"containers": [{"name": "echo", "image": "echo"}], "automountServiceAccountToken": False}},
        ]  # fmt: skip

    def apply(self, text: str) -> None:
        """Apply a manifest straight to the cluster, as its administrator."""
        self.cluster.kubectl("apply", "-f", "-", input=text)

    def _write_agent_config(self) -> None:
        words = ("create", "token", "mooring-agent", "-n", "mooring-system", "--duration", "12h")
        token = self.cluster.kubectl(*words).stdout.strip()
        words = ("config", "view", "--raw", "--minify", "--flatten", "-o", "json")
        config = json.loads(self.cluster.kubectl(*words).stdout)
        config["users"][0]["user"] = {"token": token}
        self._agent_config.write_text(json.dumps(config))
        self._agent_config.chmod(0o600)

    # -- its parts

    def start_agent(self) -> None:
        """An agent at the far end of the link."""
        words: list[str | Path] = ["nsenter", f"--net={self.link.netns}", BIN / "mooring", "agent"]
        words += ["--kubeconfig", self._agent_config]
        environment = {**os.environ, **self.agent_clock.environment}
        self.agent = self.register.spawn("mooring-agent", words, log=self.folder / "agent.log", env=environment)

    def kill_agent(self) -> None:
        assert self.agent is not None
        self.agent.stop()

    def open(self) -> bool:
        """Whether a request passes now."""
        try:
            answer = self.server.call("GET", f"/k8s/clusters/{CLUSTER}/version", token=self.server.admin_token)
        except OSError:
            return False
        return answer.status == 200

    def state(self) -> str:
        """What the REST API says of the cluster: connected, disconnected..."""
        try:
            answer = self.server.call("GET", f"/api/v1/clusters/{CLUSTER}", token=self.server.admin_token)
        except OSError:
            return ""
        return str(answer.json()["state"]) if answer.status == 200 else ""

    def tokens_of_agent(self) -> int:
        """How often the agent got a token for the API server, since the bed is up."""
        return (self.folder / "agent.log").read_text().count("got a token for the impersonator")

    def log_in(self) -> None:
        """A new token for the administrator, for the probes too."""
        self.server.admin_token = self.server.login("admin", (self.server.folder / "admin.password").read_text())

    @property
    def tls(self) -> Path:
        """The folder of the server's certificates."""
        return self.server.folder / "data" / "tls"

    @contextlib.contextmanager
    def locked_database(self) -> Iterator[None]:
        """Somebody holds SQLite's write lock (a backup that hangs, a person with a shell)."""
        connection = sqlite3.connect(self.server.folder / "data" / "mooring.db", isolation_level=None, timeout=30)
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield
        finally:
            connection.rollback()
            connection.close()

    @contextlib.contextmanager
    def full_disk(self) -> Iterator[None]:
        """No byte of the data folder's disk is free."""
        ballast = self.server.folder / "data" / "ballast"
        try:
            with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(65536))
            with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"\0")
            yield
        finally:
            ballast.unlink(missing_ok=True)

    def audit(self) -> list[dict[str, Any]]:
        """The server's audit records. The rest of a line that a kill tore is passed over: it is there once more."""
        records = []
        for line in (self.server.folder / "data" / "audit.log").read_text(errors="replace").split("\n"):
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict):
                    records.append(record)
        return records


def kill(pid: int) -> None:
    """SIGKILL to one process, and wait until it is gone."""
    known = Pid.of(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    until(f"process {pid} is gone", lambda: known is None or not known.alive(), 20)
