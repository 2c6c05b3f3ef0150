# SPDX-License-Identifier: Apache-2.0
"""Kubernetes, etcd, containerd and helm, built from the Go modules pinned in `modules/`.

The programs are built by group and only when somebody asks for one of the group, since a control plane needs three
of them and the rest costs minutes. They are kept in the user's cache folder under a key made of the pins and the
build flags, so that a changed pin never meets an old program.

A folder named by KUBEBUILDER_ASSETS (the convention of controller-runtime's envtest) that holds etcd, kube-apiserver
and kubectl is used as it is by whoever needs only these. Nodes and controllers always come from the pins: a kubelet
must not be newer than its API server.

This module must not start any of the programs.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import BuildError, TestbedError
from testbed.progress import run_long, say

MODULES = Path(__file__).parent / "modules"
KUBERNETES_VERSION = "v1.36.3"
CONTAINERD_VERSION = "v2.3.7"
ASSETS = ("etcd", "kube-apiserver", "kubectl")
BUILD_DEADLINE = 3600.0

_VERSION = "k8s.io/component-base/version"
_unused, _MINOR, _unused = KUBERNETES_VERSION.split(".")
_LDFLAGS = {
    "kubernetes": " ".join(
        [
            "-s -w",
            f"-X {_VERSION}.gitVersion={KUBERNETES_VERSION}",
            f"-X {_VERSION}.gitMajor=1",
            f"-X {_VERSION}.gitMinor={_MINOR}",
            f"-X {_VERSION}.gitTreeState=clean",
            f"-X {_VERSION}.gitCommit={'0' * 40}",
            f"-X {_VERSION}.buildDate=2026-01-01T00:00:00Z",
        ]
    ),
    "etcd": "-s -w",
    "containerd": f"-s -w -X github.com/containerd/containerd/v2/version.Version={CONTAINERD_VERSION}",
    "helm": "-s -w",
}
_TAGS = {"containerd": "no_btrfs,no_devmapper,no_zfs"}


@dataclass(frozen=True, slots=True)
class Program:
    """One program: the pinned module that it is built in and its package there."""

    module: str
    package: str
    group: str

    @property
    def output(self) -> str:
        """The name that `go build` gives it: the package path's last word that is not a major version."""
        return re.sub(r"/v[0-9]+$", "", self.package).rpartition("/")[2]


def _kubernetes(group: str, *names: str) -> dict[str, Program]:
    return {name: Program("kubernetes", f"k8s.io/kubernetes/cmd/{name}", group) for name in names}


def _containerd(*names: str) -> dict[str, Program]:
    return {name: Program("containerd", f"github.com/containerd/containerd/v2/cmd/{name}", "node") for name in names}


PROGRAMS: dict[str, Program] = {
    "etcd": Program("etcd", "go.etcd.io/etcd/server/v3", "api"),
    **_kubernetes("api", "kube-apiserver", "kubectl"),
    **_kubernetes("control", "kube-controller-manager", "kube-scheduler"),
    **_kubernetes("node", "kubelet", "kube-proxy"),
    **_kubernetes("kubeadm", "kubeadm"),
    **_containerd("containerd", "containerd-shim-runc-v2", "ctr"),
    "helm": Program("helm", "helm.sh/helm/v3/cmd/helm", "helm"),
    "etcdctl": Program("etcd", "go.etcd.io/etcd/etcdctl/v3", "etcd-tools"),
    "etcdutl": Program("etcd", "go.etcd.io/etcd/etcdutl/v3", "etcd-tools"),
}
# Left out where nothing is named: no test needs them.
ON_REQUEST = ("etcd-tools",)
GROUPS = tuple(dict.fromkeys(program.group for program in PROGRAMS.values()))


def cache_root() -> Path:
    """The user's cache folder of the test bed (`MOORING_TESTBED_CACHE`, else XDG's)."""
    named = os.environ.get("MOORING_TESTBED_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "mooring-testbed"


def key() -> str:
    """What the built programs depend on: every go.mod and go.sum, and the flags."""
    digest = hashlib.sha256()
    for module in sorted(_LDFLAGS):
        for name in ("go.mod", "go.sum"):
            digest.update((MODULES / module / name).read_bytes())
        digest.update(f"{module} {_LDFLAGS[module]} {_TAGS.get(module, '')}".encode())
    return digest.hexdigest()[:16]


def pinned_folder() -> Path:
    """Where the programs built from the pins are, or will be."""
    return cache_root() / key() / "bin"


def assets_folder() -> Path | None:
    """The folder named by KUBEBUILDER_ASSETS, if it holds all three programs."""
    named = os.environ.get("KUBEBUILDER_ASSETS")
    if not named:
        return None
    folder = Path(named).absolute()
    return folder if all(os.access(folder / name, os.X_OK) for name in ASSETS) else None


def expand(names: tuple[str, ...]) -> list[str]:
    """Programs named by themselves or by their group, in the order in which they are built.

    Raises TestbedError for a name that is neither.
    """
    wanted: set[str] = set()
    for name in names:
        members = {program for program, facts in PROGRAMS.items() if facts.group == name or program == name}
        if not members:
            raise TestbedError(
                f"no program or group {name!r}: programs {', '.join(PROGRAMS)}; groups {', '.join(GROUPS)}"
            )
        wanted |= members
    return [name for name in PROGRAMS if name in wanted]


def ensure(*names: str) -> Path:
    """Build what is missing of the named programs (or groups) and return the one folder that holds them all.

    Raises BuildError if Go is missing or a build fails; its message ends with what Go said.
    """
    wanted = expand(names or ("api",))
    assets = assets_folder()
    if assets and set(wanted) <= set(ASSETS):
        return assets
    folder = pinned_folder()
    if any(not (folder / name).exists() for name in wanted):
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder.parent / "build.lock"):
            # Looked at again under the lock: another run may have built them meanwhile.
            missing = [name for name in wanted if not (folder / name).exists()]
            for module in dict.fromkeys(PROGRAMS[name].module for name in missing):
                _build(module, [name for name in missing if PROGRAMS[name].module == module], folder)
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("[build] another process builds; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(module: str, names: list[str], folder: Path) -> None:
    """Build programs of one module by one command: their links run side by side, and shared packages load once."""
    go = shutil.which("go") or ("/usr/local/go/bin/go" if Path("/usr/local/go/bin/go").exists() else None)
    if go is None:
        raise BuildError(
            f"{', '.join(names)}: to be built, and there is no `go`: install Go 1.26 or newer, "
            "or name a folder with etcd, kube-apiserver and kubectl in KUBEBUILDER_ASSETS"
        )
    scratch = folder / f".{module}.{os.getpid()}"
    scratch.mkdir()
    # -mod=readonly: what is not in go.sum is refused, never fetched.
    command = [go, "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", _LDFLAGS[module]]
    if module in _TAGS:
        command += ["-tags", _TAGS[module]]
    command += ["-o", f"{scratch}/", *(PROGRAMS[name].package for name in names)]
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
    log = folder.parent / f"build-{module}.log"
    title = f"[build] {' '.join(names)}"
    try:
        run_long(title, command, log=log, deadline=BUILD_DEADLINE, cwd=MODULES / module, env=environment)
        for name in names:
            (scratch / PROGRAMS[name].output).replace(folder / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
