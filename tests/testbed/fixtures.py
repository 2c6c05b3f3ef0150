# SPDX-License-Identifier: Apache-2.0
"""pytest fixtures of the test bed: a plugin that tests/conftest.py loads.

All are made once per session, at first use, in one register that is removed at the end; if the session is killed, the
next one removes it. A test that stops or breaks a cluster takes one of its own: `with ControlPlane() as cluster`.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from subprocess import CompletedProcess
from typing import Protocol

import pytest

from testbed import binaries, images, kubehost, machine
from testbed.controlplane import ControlPlane
from testbed.kubeadm import KubeadmCluster
from testbed.machine import Machines
from testbed.state import Run


class Kubectl(Protocol):
    """`ControlPlane.kubectl` as a fixture."""

    def __call__(self, *args: str, check: bool = True, input: str | None = None) -> CompletedProcess[str]: ...


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the collected tests need now, and not under the time limit of the first one that needs it."""
    if session.config.option.collectonly:
        return
    used = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if "testbed_run" in used:
        binaries.ensure("api")
    if "cluster_with_nodes" in used or any(item.get_closest_marker("nodes") for item in session.items):
        binaries.ensure("api", "control", "node")
        images.ensure_pause()
        images.ensure_py()
    if "kubeadm_cluster" in used:
        kubehost.ensure()
        images.ensure_agent_image()
    if used & {"machines", "kubeadm_cluster"}:
        machine.ensure_base()


@pytest.fixture(scope="session")
def testbed_run() -> Iterator[Run]:
    """The register of this session."""

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    # A runner that has waited long enough sends SIGTERM: pytest then ends as after Ctrl-C, with its fixtures.
    before = signal.signal(signal.SIGTERM, end)
    run = Run.create()
    yield run
    run.teardown()
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def control_plane(testbed_run: Run) -> ControlPlane:
    """etcd and kube-apiserver, with the audit log; no controllers, no nodes."""
    return ControlPlane("api", audit=True, run=testbed_run).up()


@pytest.fixture(scope="session")
def kubectl(control_plane: ControlPlane) -> Kubectl:
    """kubectl as the administrator of `control_plane`."""
    return control_plane.kubectl


@pytest.fixture(scope="session")
def cluster_with_nodes(testbed_run: Run) -> ControlPlane:
    """A whole cluster with two real nodes that hold the images of `testbed.images`."""
    return ControlPlane("nodes", nodes=2, audit=True, run=testbed_run).up()


@pytest.fixture(scope="session")
def machines(testbed_run: Run) -> Machines:
    """Two machines, m1 and m2."""
    return Machines(2, run=testbed_run).up()


@pytest.fixture(scope="session")
def kubeadm_cluster(testbed_run: Run) -> KubeadmCluster:
    """Three control planes made by kubeadm, on the machines m1, m2 and m3."""
    return KubeadmCluster(3, run=testbed_run).up()
