# SPDX-License-Identifier: Apache-2.0
"""A real Kubernetes, and machines to run roles on, for tests and the demo. See README.md beside this file."""

from __future__ import annotations

from testbed.controlplane import ControlPlane
from testbed.errors import BuildError, TestbedError
from testbed.kubeadm import KubeadmCluster
from testbed.machine import Machine, Machines
from testbed.node import Node
from testbed.state import Run, sweep

__all__ = [
    "BuildError",
    "ControlPlane",
    "KubeadmCluster",
    "Machine",
    "Machines",
    "Node",
    "Run",
    "TestbedError",
    "sweep",
]
