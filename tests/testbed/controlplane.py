# SPDX-License-Identifier: Apache-2.0
"""A real control plane: etcd and kube-apiserver, on request with controllers, a scheduler and real nodes.

Several stand side by side: ports are the kernel's choice, addresses those of a free network. Without nodes everything
listens on loopback and no privilege is needed. It is for tests only: etcd has no TLS and no fsync.

This module must not know pytest or the command line.
"""

from __future__ import annotations

import json
import signal
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testbed import binaries, pki
from testbed.errors import TestbedError
from testbed.kubectl import Administrator
from testbed.network import Network
from testbed.node import Node
from testbed.state import Process, Run, until

READY_DEADLINE = 90.0  # seconds; about 3 on an idle machine
SERVICES = "10.96.0.0/16"
KUBERNETES_SERVICE = "10.96.0.1"
ISSUER = "https://kubernetes.default.svc.cluster.local"
LOOPBACK = "127.0.0.1"
NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)

# Metadata of every request when its head is answered and when it ends, so that a test can see who was impersonated,
# and that a watch has ended. What the control plane does for itself is left out.
AUDIT_POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "users": ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"]},
        {"level": "None", "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"]},
        {"level": "Metadata"},
    ],
}


def free_port(address: str = LOOPBACK) -> int:
    """A TCP port that nobody listens on now. Somebody else may take it first: its user must be ready for that."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port


class ControlPlane(Administrator):
    """One cluster. Use it as a context manager, or call `up` and `down`.

    name         of the cluster, its kubeconfig context
    controllers  also kube-controller-manager and kube-scheduler (implied by nodes)
    nodes        how many real nodes (needs root)
    address      where the API server listens instead of on loopback, e.g. `Machines.host`; not with nodes
    audit        keep the API server's audit log for `audit_events`
    api_args     more arguments of kube-apiserver; changed ones are those of its next start
    run          the register to use; without it the control plane makes and removes its own
    folder       for its files, instead of one in the run's
    """

    def __init__(
        self,
        name: str = "cluster",
        *,
        controllers: bool = False,
        nodes: int = 0,
        address: str | None = None,
        audit: bool = False,
        api_args: Sequence[str] = (),
        run: Run | None = None,
        folder: Path | None = None,
    ) -> None:
        self.name = name
        self.controllers = controllers or nodes > 0
        self.node_count = nodes
        self.audit = audit
        self.nodes: list[Node] = []
        self.network: Network | None = None
        self.ready_seconds = 0.0
        self.nodes_ready_seconds = 0.0
        self._given_address = address
        self.api_args = list(api_args)
        self._run = run
        self._folder = folder
        self._own_run = run is None
        self._processes: dict[str, Process] = {}

    # -- what a test needs to know

    @property
    def run(self) -> Run:
        """The register; there is one from `up` to `down`."""
        if self._run is None:
            raise TestbedError(f"control plane {self.name} is not up")
        return self._run

    @property
    def dir(self) -> Path:
        """Its folder: pki/, logs/, etcd/, admin.kubeconfig."""
        return self._folder or self.run.work / self.name

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig (group system:masters), certificates inside."""
        return self.dir / "admin.kubeconfig"

    @property
    def ca(self) -> Path:
        """The certificate of the cluster's authority."""
        return self.dir / "pki" / "ca.crt"

    @property
    def admin(self) -> pki.Pair:
        """The administrator's client certificate and key."""
        return pki.Pair(self.dir / "pki" / "admin.crt", self.dir / "pki" / "admin.key")

    @property
    def server(self) -> str:
        """The URL of the API server."""
        return f"https://{self._address}:{self._port}"

    def facts(self) -> dict[str, Any]:
        """The same, for somebody who is not in this process."""
        return {
            "name": self.name,
            "server": self.server,
            "kubeconfig": str(self.kubeconfig),
            "ca": str(self.ca),
            "bin": str(self.bin),
            "dir": str(self.dir),
            "nodes": [node.name for node in self.nodes],
            "host": self._address,
            "audit": self.audit,
        }

    @classmethod
    def running(cls, facts: dict[str, Any]) -> ControlPlane:
        """One that another process keeps up, from its `facts`. It can be used, but not stopped, started or killed."""
        plane = cls(facts["name"], audit=facts["audit"], folder=Path(facts["dir"]))
        plane.bin = Path(facts["bin"])
        plane._address, _unused, port = facts["server"].removeprefix("https://").rpartition(":")
        plane._port = int(port)
        return plane

    # -- life

    def __enter__(self) -> Self:
        return self.up()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def up(self) -> Self:
        """Start it and wait until the API server and the nodes are ready. Raises TestbedError with the end of a log."""
        groups = ["api", *["control"] * self.controllers, *["node"] * (self.node_count > 0)]
        self.bin = binaries.ensure(*groups)
        if self._own_run:
            self._run = Run.create()
        try:
            self._start()
        except BaseException:
            self.down()
            raise
        return self

    def down(self) -> None:
        """Kill everything and remove every trace, if the register is its own; else the run's `teardown` does so."""
        if self._own_run and self._run is not None:
            self._run.teardown()
            self._run = None

    def _start(self) -> None:
        begin = time.monotonic()
        if self.node_count:
            self.network = Network.create(self.run)
            self._address, self._port = self.network.host, 6443
        else:
            self._address = self._given_address or LOOPBACK
            self._port = free_port(self._address)
        for folder in ("pki", "logs", "etcd"):
            (self.dir / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_pki()
        self._choose_ports()
        for attempt in range(3):
            self._spawn("etcd", self._etcd())
            self.start_api(wait=False)
            try:
                self._wait_ready()
                break
            except TestbedError:
                # Another program may have taken a port between its choice and its use.
                if attempt == 2 or "address already in use" not in self._tails():
                    raise
                self.kill_api()
                self._processes["etcd"].stop()
                self._choose_ports()
                if not self.node_count:
                    self._port = free_port(self._address)
                    self._make_pki()
        self.ready_seconds = time.monotonic() - begin
        if self.controllers:
            self._spawn("kube-controller-manager", self._controller_manager())
            self._spawn("kube-scheduler", self._scheduler())
        if self.network:
            self.nodes = [Node(self.run, self, self.network, index) for index in range(1, self.node_count + 1)]
            Node.up_all(self.nodes)
            self.nodes_ready_seconds = time.monotonic() - begin
        if self.controllers:
            self._wait_default_account()

    def _choose_ports(self) -> None:
        self._etcd_url = f"http://{LOOPBACK}:{free_port()}"
        self._peer_url = f"http://{LOOPBACK}:{free_port()}"

    # -- the API server

    def start_api(self, wait: bool = True) -> None:
        """Start the API server (again, on the same port); with `wait`, until it is ready."""
        self._spawn("kube-apiserver", self._apiserver())
        if wait:
            self._wait_ready()

    def stop_api(self) -> None:
        """SIGTERM, as an upgrade does it: the server goes on for as long as 10 s while watches are open."""
        self._processes["kube-apiserver"].stop(signal.SIGTERM, deadline=70)

    def kill_api(self) -> None:
        """SIGKILL."""
        self._processes["kube-apiserver"].stop()

    def healthy(self) -> bool:
        """Whether /readyz says ok now."""
        request = urllib.request.Request(f"{self.server}/readyz")
        try:
            with urllib.request.urlopen(request, timeout=2, context=self.ssl_context()) as answer:
                return bool(answer.read() == b"ok")
        except (OSError, urllib.error.URLError):
            return False

    def ssl_context(self) -> ssl.SSLContext:
        """A client context with the administrator's certificate, which trusts this cluster only."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.admin.crt, self.admin.key)
        return context

    # -- helpers of tests

    def load(self, archive: Path) -> None:
        """Import an image archive into every node."""
        for node in self.nodes:
            node.load(archive)

    def audit_events(self) -> list[dict[str, Any]]:
        """What the API server's audit log holds so far (only with `audit=True`), the oldest first.

        `stage` is ResponseStarted (a watch, log or exec has begun), ResponseComplete or Panic; `impersonatedUser` says
        as whom.
        """
        if not self.audit:
            raise TestbedError("this control plane keeps no audit log: audit=True")
        log = self.dir / "logs" / "audit.jsonl"
        if not log.exists():
            return []
        # The last line may be half written.
        return [json.loads(line) for line in log.read_text().split("\n")[:-1]]

    def wait_for_audit(self, matches: Callable[[dict[str, Any]], bool], timeout: float = 10.0) -> dict[str, Any]:
        """The first audit event that matches. Raises TestbedError if there is none within `timeout` seconds."""
        end = time.monotonic() + timeout
        while True:
            for event in self.audit_events():
                if matches(event):
                    return event
            if time.monotonic() > end:
                raise TestbedError(f"no such audit event within {timeout} s")
            time.sleep(0.1)

    # -- inside

    def _spawn(self, name: str, argv: list[str]) -> None:
        log = self.dir / "logs" / f"{name}.log"
        self._processes[name] = self.run.spawn(f"{self.name}-{name}", argv, log=log, cwd=self.dir)

    def _tails(self) -> str:
        return "\n".join(f"{process.log}:\n{process.tail()}" for process in self._processes.values())

    def _wait_ready(self) -> None:
        def settled() -> bool:
            return self.healthy() or not all(process.alive() for process in self._processes.values())

        if not until(settled, READY_DEADLINE, 0.1) or not self.healthy():
            raise TestbedError(f"control plane {self.name} is not ready:\n{self._tails()}")

    def _wait_default_account(self) -> None:
        # Until it exists, every pod of the namespace is refused.
        def exists() -> bool:
            return self.kubectl("get", "serviceaccount", "default", check=False).returncode == 0

        if not until(exists, READY_DEADLINE, 0.1):
            raise TestbedError(f"no default service account in {self.name}:\n{self._tails()}")

    def _make_pki(self) -> None:
        folder = self.dir / "pki"
        self._ca = ca = pki.Authority(folder, "ca")
        front = pki.Authority(folder, "front-proxy-ca")
        front.issue("front-proxy-client", "front-proxy-client", client=True)
        own_names = [self._address, LOOPBACK, KUBERNETES_SERVICE, *NAMES]
        ca.issue("apiserver", "kube-apiserver", names=own_names, server=True)
        ca.issue("apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters", client=True)
        pki.write_signing_keys(folder, "sa")
        admin = ca.issue("admin", "kubernetes-admin", "system:masters", client=True)
        pki.write_kubeconfig(self.kubeconfig, name=self.name, server=self.server, ca=ca.crt, user=admin)
        for user in ("kube-controller-manager", "kube-scheduler", "kube-proxy") if self.controllers else ():
            self.user_kubeconfig(user, f"system:{user}")

    def user_kubeconfig(self, file: str, common_name: str, organization: str | None = None) -> Path:
        """A client certificate for a user of this cluster, and a kubeconfig with it."""
        user = self._ca.issue(file, common_name, organization, client=True)
        path = self.dir / "pki" / f"{file}.kubeconfig"
        return pki.write_kubeconfig(path, name=self.name, server=self.server, ca=self.ca, user=user)

    def issue(self, file: str, common_name: str, organization: str, names: Sequence[str]) -> pki.Pair:
        """A certificate for a server that is a client too (a kubelet)."""
        return self._ca.issue(file, common_name, organization, names=names, server=True, client=True)

    def _etcd(self) -> list[str]:
        return [
            str(self.bin / "etcd"),
            f"--name={self.name}",
            f"--data-dir={self.dir / 'etcd'}",
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls={self._peer_url}",
            f"--initial-advertise-peer-urls={self._peer_url}",
            f"--initial-cluster={self.name}={self._peer_url}",
            "--unsafe-no-fsync",
        ]

    def _apiserver(self) -> list[str]:
        folder = self.dir / "pki"
        arguments = [
            str(self.bin / "kube-apiserver"),
            f"--etcd-servers={self._etcd_url}",
            f"--bind-address={self._address}",
            f"--advertise-address={self._address}",
            f"--secure-port={self._port}",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--service-cluster-ip-range={SERVICES}",
            f"--client-ca-file={folder / 'ca.crt'}",
            f"--tls-cert-file={folder / 'apiserver.crt'}",
            f"--tls-private-key-file={folder / 'apiserver.key'}",
            f"--kubelet-client-certificate={folder / 'apiserver-kubelet-client.crt'}",
            f"--kubelet-client-key={folder / 'apiserver-kubelet-client.key'}",
            f"--kubelet-certificate-authority={folder / 'ca.crt'}",
            "--kubelet-preferred-address-types=InternalIP",
            "--enable-aggregator-routing=true",
            f"--service-account-key-file={folder / 'sa.pub'}",
            f"--service-account-signing-key-file={folder / 'sa.key'}",
            f"--service-account-issuer={ISSUER}",
            f"--requestheader-client-ca-file={folder / 'front-proxy-ca.crt'}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={folder / 'front-proxy-client.crt'}",
            f"--proxy-client-key-file={folder / 'front-proxy-client.key'}",
            f"--cert-dir={self.dir}",
        ]
        if self._address.startswith("127."):
            # An Endpoints object cannot hold a loopback address: the service `kubernetes` stays without endpoints.
            arguments += ["--endpoint-reconciler-type=none"]
        if self.audit:
            policy = pki.write_private(self.dir / "audit-policy.json", json.dumps(AUDIT_POLICY).encode())
            arguments += [
                f"--audit-policy-file={policy}",
                f"--audit-log-path={self.dir / 'logs' / 'audit.jsonl'}",
                "--audit-log-mode=blocking",
            ]
        # A file says who authorises, or the flag does: not both.
        if not any(argument.startswith("--authorization-config=") for argument in self.api_args):
            arguments.append("--authorization-mode=Node,RBAC")
        return arguments + self.api_args

    def _controller_manager(self) -> list[str]:
        folder = self.dir / "pki"
        own = folder / "kube-controller-manager.kubeconfig"
        return [
            str(self.bin / "kube-controller-manager"),
            *self._own_kubeconfig(own),
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={folder / 'sa.key'}",
            f"--root-ca-file={folder / 'ca.crt'}",
            f"--cluster-signing-cert-file={folder / 'ca.crt'}",
            f"--cluster-signing-key-file={folder / 'ca.key'}",
            "--controllers=*,bootstrapsigner,tokencleaner",
            "--allocate-node-cidrs=false",
        ]

    def _scheduler(self) -> list[str]:
        own = self.dir / "pki" / "kube-scheduler.kubeconfig"
        return [str(self.bin / "kube-scheduler"), *self._own_kubeconfig(own)]

    def _own_kubeconfig(self, path: Path) -> list[str]:
        return [
            f"--kubeconfig={path}",
            f"--authentication-kubeconfig={path}",
            f"--authorization-kubeconfig={path}",
            f"--bind-address={LOOPBACK}",
            f"--secure-port={free_port()}",
            "--leader-elect=false",
            f"--cert-dir={self.dir}",
        ]
