# SPDX-License-Identifier: Apache-2.0
"""The road that the end-to-end tests share: two real nodes, a server, the agent in a pod, an administrator and Bob."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.road import Kubectl, Server, User, until
from testbed import ControlPlane, images

CLUSTER = "harbour"
AGE = re.compile(r"(?<!\S)(?:\d+[smhd]){1,2}(?!\S)")


@dataclass
class Road:
    """`direct` goes straight to the cluster as its administrator, `admin` and `bob` go through the server."""

    server: Server
    cluster: ControlPlane
    direct: Kubectl
    admin: Kubectl
    bob: Kubectl
    bob_user: User
    image: str

    def same(self, *words: str) -> str:
        """Run one command straight and through the server; both must print the same, which is returned."""
        straight, through = self.direct(*words), self.admin(*words)
        # An age passes its mark between the two: at every second while it is below ten minutes.
        assert AGE.sub("<age>", through) == AGE.sub("<age>", straight)
        return through


@pytest.fixture(scope="session")
def server(cluster_with_nodes: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on the nodes' bridge, where pods reach it."""
    it = Server(tmp_path_factory.mktemp("server"), address=str(cluster_with_nodes.facts()["host"]))
    it.init()
    it.set("workers", "2")
    it.start()
    yield it
    it.stop()


@pytest.fixture(scope="session")
def road(server: Server, cluster_with_nodes: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Road:
    folder = tmp_path_factory.mktemp("road")
    kubectl = cluster_with_nodes.bin / "kubectl"
    direct = Kubectl(kubectl, Path(cluster_with_nodes.kubeconfig))
    for node in cluster_with_nodes.nodes:
        node.load(images.ensure_agent_image())
    server.mooring("cluster", "create", CLUSTER, "--label", "tier=test")
    manifest = server.mooring(
        "cluster", "manifest", CLUSTER, "--image", images.AGENT, "--image-pull-policy", "Never"
    ).stdout
    direct("apply", "-f", "-", stdin=manifest)
    direct("-n", "mooring-system", "rollout", "status", "deployment/mooring-agent", "--timeout=90s")
    until("the cluster is connected", lambda: server.api("GET", f"/clusters/{CLUSTER}")["state"] == "connected", 60)

    kubeconfig = folder / "admin.kubeconfig"
    server.mooring("kubeconfig", "--token", "-o", kubeconfig)
    admin = Kubectl(kubectl, kubeconfig)
    bob = server.user("bob", clusters=[CLUSTER], groups=["developers"])
    admin("create", "namespace", "bobs")
    admin("-n", "bobs", "create", "rolebinding", "developers", "--clusterrole=admin", "--group=mooring:developers")
    return Road(server, cluster_with_nodes, direct, admin, Kubectl(kubectl, bob.kubeconfig), bob, images.PY)


@pytest.fixture
def namespace(road: Road, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, made and removed past the proxy."""
    name = request.node.name.lower().translate({ord(c): "-" for c in "_[]/. "}).strip("-")[:50].strip("-")
    road.direct("create", "namespace", name)
    yield name
    road.direct("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def pod(road: Road) -> str:
    """A pod in `bobs` that sleeps, with a shell and an HTTP server on 8080: returns its name."""
    manifest = f"""
apiVersion: v1
kind: Pod
metadata: {{name: boat, namespace: bobs, labels: {{app: boat}}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: main
      image: {road.image}
      imagePullPolicy: Never
      command: [python3, -m, http.server, "8080", --directory, /usr/lib]
    - name: talker
      image: {road.image}
      imagePullPolicy: Never
      command: [sh, -c, 'i=0; while :; do i=$((i+1)); echo "line $i"; sleep 0.2; done']
    - name: echo
      image: {road.image}
      imagePullPolicy: Never
      stdin: true
      command: [cat]
"""
    road.bob("apply", "-f", "-", stdin=manifest)
    road.bob("-n", "bobs", "wait", "--for=condition=Ready", "pod/boat", "--timeout=60s")
    return "boat"
