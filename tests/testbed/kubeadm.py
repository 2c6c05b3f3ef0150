# SPDX-License-Identifier: Apache-2.0
"""A cluster made by kubeadm on machines, as people make theirs: each machine is a control plane with its own etcd.

m1 is initialised, the others join it one after the other. kubelet, static pods, certificates and kubeconfigs are those
of kubeadm, so that what changes them can be tried here. Left out: CoreDNS and kube-proxy; pods have a bridge per
machine, and know the API server only by the machines' addresses.

`controlPlaneEndpoint` is a name that stands in each machine's /etc/hosts: m1's while it joins, its own from then on, so
that each machine can be switched off without the others.

This module must not know the product.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from testbed import binaries, kubehost
from testbed.binaries import KUBERNETES_VERSION
from testbed.errors import TestbedError
from testbed.kubectl import Administrator
from testbed.machine import Machine, Machines
from testbed.pki import write_private
from testbed.state import Run, until

ENDPOINT = "cp.testbed"
PORT = 6443
SERVICES = "10.96.0.0/16"
SOCKET = "unix:///run/containerd/containerd.sock"
JOIN_DEADLINE = 300.0  # seconds; about 30 on an idle machine
READY_DEADLINE = 120.0
REBOOT_DEADLINE = 120.0
# cgroup v1 is what this machine has: "support is deprecated".
IGNORED = ["SystemVerification"]
SKIPPED = ["addon/coredns", "addon/kube-proxy"]


class KubeadmCluster(Administrator):
    """One cluster. A context manager, or `up` and `down`.

    count   how many control planes: m1, m2, …
    run     the register to use; without it the cluster makes and removes its own
    folder  for its files, instead of one in the run's
    """

    def __init__(self, count: int = 3, *, run: Run | None = None, folder: Path | None = None) -> None:
        self.count = count
        self.seconds: dict[str, float] = {}
        self._run = run
        self._own_run = run is None
        self._folder = folder

    # -- what a test needs to know

    @property
    def run(self) -> Run:
        """The register; there is one from `up` to `down`."""
        if self._run is None:
            raise TestbedError("the kubeadm cluster is not up")
        return self._run

    @property
    def dir(self) -> Path:
        """Its folder."""
        return self._folder or self.run.work / "kubeadm"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, by m1's API server."""
        return self.dir / "admin.kubeconfig"

    @property
    def ca(self) -> Path:
        """The certificate of the cluster's authority."""
        return self.dir / "ca.crt"

    @property
    def nodes(self) -> list[Machine]:
        """The machines, m1 first."""
        return self.machines.machines

    def server(self, name: str = "m1") -> str:
        """The URL of a machine's API server."""
        return f"https://{self.machines[name].address}:{PORT}"

    def kubeconfig_of(self, name: str) -> Path:
        """The administrator's kubeconfig, by another machine's API server."""
        return self.dir / f"admin-{name}.kubeconfig"

    def facts(self) -> dict[str, Any]:
        """What somebody outside of this process needs."""
        return {
            **self.machines.facts(),
            "kubeconfig": str(self.kubeconfig),
            "ca": str(self.ca),
            "bin": str(self.bin),
            "servers": {machine.name: self.server(machine.name) for machine in self.nodes},
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
        }

    # -- life

    def __enter__(self) -> Self:
        return self.up()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def up(self) -> Self:
        """Start it and wait until each node is Ready. Raises TestbedError with the end of what kubeadm said."""
        self.bin = binaries.ensure(*kubehost.GROUPS)
        layer = kubehost.ensure()
        if self._own_run:
            self._run = Run.create()
        try:
            self.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.machines = Machines(self.count, layers=[layer], run=self.run, folder=self.dir / "machines")
            with self._timed("all"):
                self._start()
        except BaseException:
            self.down()
            raise
        return self

    def down(self) -> None:
        """Pull all plugs and remove every trace, if the register is its own; else the run's `teardown` does so."""
        if self._own_run and self._run is not None:
            self._run.teardown()
            self._run = None

    def _start(self) -> None:
        with self._timed("machines"):
            self.machines.up()
        first, *others = self.nodes
        token = f"{secrets.token_hex(3)}.{secrets.token_hex(8)}"
        key = secrets.token_hex(32)
        with ThreadPoolExecutor() as pool:
            importing = {machine.name: pool.submit(self._prepare, machine) for machine in self.nodes}
            with self._timed("images"):
                importing[first.name].result()
            with self._timed("init"):
                self._kubeadm(first, "init", self._init_config(first, token, key), "--upload-certs")
                self._fetch(first)
            for machine in others:
                importing[machine.name].result()
                with self._timed(f"join {machine.name}"):
                    self._kubeadm(machine, "join", self._join_config(machine, token, key))
                    self._point_endpoint(machine, machine)
        with self._timed("ready"):
            self._untaint()
            self.wait_ready()

    def wait_ready(self, deadline: float = READY_DEADLINE) -> None:
        """Wait until each API server answers and each node is Ready. Raises TestbedError with what is not."""
        if not until(lambda: not self._not_ready(), deadline, 0.3):
            raise TestbedError(f"not ready after {deadline:.0f} s: {', '.join(self._not_ready())}")

    def healthy(self, name: str = "m1") -> bool:
        """Whether /readyz of a machine's API server says ok now."""
        context = ssl.create_default_context(cafile=str(self.ca))
        try:
            with urllib.request.urlopen(f"{self.server(name)}/readyz", timeout=2, context=context) as answer:
                return bool(answer.read() == b"ok")
        except (OSError, urllib.error.URLError):
            return False

    def reboot(self, name: str) -> float:
        """Reboot a machine and wait until its systemd runs again, not for Kubernetes; returns the seconds."""
        machine = self.machines[name]
        begun = time.monotonic()
        before = machine.ssh("cat /proc/sys/kernel/random/boot_id").stdout
        machine.ssh("systemctl reboot", check=False)

        def again() -> bool:
            with contextlib.suppress(TestbedError):
                now = machine.ssh("cat /proc/sys/kernel/random/boot_id", check=False, timeout=10)
                return now.returncode == 0 and now.stdout != before
            return False

        if not until(again, REBOOT_DEADLINE, 0.3):
            raise TestbedError(f"{name} does not come back from a reboot")
        return time.monotonic() - begun

    # -- helpers of tests

    def load(self, archive: Path) -> None:
        """Import an image archive into every machine's containerd."""

        def one(machine: Machine) -> None:
            machine.copy(archive, "/var/tmp/image.tar")
            machine.ssh("ctr -n k8s.io images import /var/tmp/image.tar && rm /var/tmp/image.tar", timeout=300)

        with ThreadPoolExecutor() as pool:
            list(pool.map(one, self.nodes))

    def user_kubeconfig(self, name: str, *groups: str, by: str = "m1") -> Path:
        """A kubeconfig with a client certificate for a user, by a machine's API server."""
        words = ["kubeadm", "kubeconfig", "user", "--client-name", name, *(f"--org {group}" for group in groups)]
        words += ["--config /root/kubeadm.json"]
        text = self.machines["m1"].ssh(*words).stdout
        return write_private(self.dir / f"{name}-{by}.kubeconfig", self._by(text, by).encode())

    def memory(self) -> dict[str, int]:
        """MiB that each machine's processes have in memory, without the page cache."""
        found = {}
        for machine in self.nodes:
            text = Path("/sys/fs/cgroup/memory", machine.cgroup, "memory.stat").read_text()
            stat = dict(line.split() for line in text.splitlines())
            found[machine.name] = int(stat["total_rss"]) >> 20
        return found

    # -- inside

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - begun

    def _prepare(self, machine: Machine) -> None:
        for archive in kubehost.archive_names():
            machine.ssh(f"ctr -n k8s.io images import {archive}", timeout=300)
        number = self.nodes.index(machine) + 1
        assert self.machines.network is not None
        self._write(machine, "/etc/cni/net.d/10-bridge.conflist", _cni(self.machines.network.node_pods(number)))
        self._point_endpoint(machine, self.nodes[0])

    def _point_endpoint(self, machine: Machine, to: Machine) -> None:
        machine.ssh(f"sed -i '/ {ENDPOINT}$/d' /etc/hosts && echo '{to.address} {ENDPOINT}' >> /etc/hosts")

    def _write(self, machine: Machine, path: str, value: Any) -> None:
        text = json.dumps(value) if not isinstance(value, list) else "\n---\n".join(map(json.dumps, value))
        machine.ssh(f"umask 077 && cat > {path}", input=text)

    def _kubeadm(self, machine: Machine, what: str, config: list[dict[str, Any]], *more: str) -> None:
        self._write(machine, "/root/kubeadm.json", config)
        words = ["kubeadm", what, "--config", "/root/kubeadm.json", *more, "2>&1"]
        done = machine.ssh(*words, check=False, timeout=JOIN_DEADLINE)
        (self.dir / f"{what}-{machine.name}.log").write_text(done.stdout)
        if done.returncode != 0:
            raise TestbedError(f"kubeadm {what} on {machine.name}: exit code {done.returncode}: {done.stdout[-1500:]}")

    def _fetch(self, first: Machine) -> None:
        text = first.ssh("cat /etc/kubernetes/admin.conf").stdout
        for machine in self.nodes:
            write_private(self.kubeconfig_of(machine.name), self._by(text, machine.name).encode())
        write_private(self.kubeconfig, self._by(text, first.name).encode())
        self.ca.write_text(first.ssh("cat /etc/kubernetes/pki/ca.crt").stdout)

    def _by(self, kubeconfig: str, name: str) -> str:
        return kubeconfig.replace(f"https://{ENDPOINT}:{PORT}", self.server(name))

    def _not_ready(self) -> Sequence[str]:
        missing = [f"API server of {machine.name}" for machine in self.nodes if not self.healthy(machine.name)]
        if missing:
            return missing
        path = '{range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}'
        done = self.kubectl("get", "nodes", "-o", f"jsonpath={path}", check=False)
        ready = {word.partition("=")[0] for word in done.stdout.split() if word.endswith("=True")}
        return [f"node {machine.name}" for machine in self.nodes if machine.name not in ready]

    def _untaint(self) -> None:
        # There is no worker: pods of tests run here.
        self.kubectl("taint", "nodes", "--all", "node-role.kubernetes.io/control-plane-", check=False)

    # -- what kubeadm reads

    def _registration(self, machine: Machine) -> dict[str, Any]:
        return {
            "name": machine.name,
            "criSocket": SOCKET,
            "imagePullPolicy": "Never",
            "ignorePreflightErrors": IGNORED,
            "kubeletExtraArgs": [{"name": "node-ip", "value": machine.address}],
        }

    def _init_config(self, machine: Machine, token: str, key: str) -> list[dict[str, Any]]:
        return [
            {
                "apiVersion": "kubeadm.k8s.io/v1beta4",
                "kind": "InitConfiguration",
                "bootstrapTokens": [{"token": token}],
                "certificateKey": key,
                "skipPhases": SKIPPED,
                "localAPIEndpoint": {"advertiseAddress": machine.address, "bindPort": PORT},
                "nodeRegistration": self._registration(machine),
            },
            {
                "apiVersion": "kubeadm.k8s.io/v1beta4",
                "kind": "ClusterConfiguration",
                "kubernetesVersion": KUBERNETES_VERSION,
                "controlPlaneEndpoint": f"{ENDPOINT}:{PORT}",
                "imageRepository": "localhost",
                "encryptionAlgorithm": "ECDSA-P256",
                "networking": {"serviceSubnet": SERVICES},
                "etcd": {
                    "local": {
                        "imageTag": kubehost.ETCD_TAG,
                        "dataDir": "/var/lib/etcd",
                        # A test's data: not worth the disk's time.
                        "extraArgs": [{"name": "unsafe-no-fsync", "value": "true"}],
                    }
                },
            },
            KUBELET,
        ]

    def _join_config(self, machine: Machine, token: str, key: str) -> list[dict[str, Any]]:
        certificate = x509.load_pem_x509_certificate(self.ca.read_bytes())
        public = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        bootstrap = {
            "apiServerEndpoint": f"{ENDPOINT}:{PORT}",
            "token": token,
            "caCertHashes": [f"sha256:{hashlib.sha256(public).hexdigest()}"],
        }
        return [
            {
                "apiVersion": "kubeadm.k8s.io/v1beta4",
                "kind": "JoinConfiguration",
                "discovery": {"bootstrapToken": bootstrap},
                "nodeRegistration": self._registration(machine),
                "controlPlane": {
                    "certificateKey": key,
                    "localAPIEndpoint": {"advertiseAddress": machine.address, "bindPort": PORT},
                },
            }
        ]


def _cni(pods: str) -> dict[str, Any]:
    ipam = {"type": "host-local", "ranges": [[{"subnet": pods}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "ipam": ipam}
    return {"cniVersion": "0.4.0", "name": "testbed", "plugins": [bridge]}


KUBELET: dict[str, Any] = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "failCgroupV1": False,
    "cgroupDriver": "systemd",
    "failSwapOn": False,
    "imageGCHighThresholdPercent": 100,  # these images cannot be pulled again
    "evictionHard": {
        "memory.available": "50Mi",
        "nodefs.available": "1%",
        "imagefs.available": "1%",
        "nodefs.inodesFree": "1%",
    },
    "nodeStatusUpdateFrequency": "2s",
    "makeIPTablesUtilChains": False,  # there is no iptables
    "staticPodPath": "/etc/kubernetes/manifests",
    "fileCheckFrequency": "1s",  # how soon a changed static pod is seen; 20 s otherwise
}
