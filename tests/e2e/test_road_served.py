# SPDX-License-Identifier: Apache-2.0
"""The agent serves the endpoint from its pod, as the manifest makes it: kubectl straight to it, exec included."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator

import pytest
from support.road import Kubectl, until
from testbed import images

from .conftest import CLUSTER, Road

NAME = "mooring-endpoint.mooring-system.svc"
SELECTOR = "app.kubernetes.io/name=mooring-agent"


def pod_address(road: Road) -> str:
    """Of the one agent that is there and has its endpoint."""
    pods = road.direct.json("-n", "mooring-system", "get", "pods", "-l", SELECTOR)["items"]
    alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"] and pod["status"].get("podIP")]
    return str(alive[0]["status"]["podIP"]) if len(alive) == 1 else ""


def apply(road: Road) -> None:
    """The cluster's manifest, as it is now."""
    words = ["--image", images.AGENT, "--image-pull-policy", "Never", "--no-join-token"]
    manifest = road.server.mooring("cluster", "manifest", CLUSTER, *words).stdout
    road.direct("apply", "-f", "-", stdin=manifest)
    road.direct("-n", "mooring-system", "rollout", "status", "deployment/mooring-agent", "--timeout=90s")


def delivered(road: Road) -> str:
    """A token of Bob's for the endpoint; empty if the cluster does not have it yet."""
    body = {"endpoint": True, "cluster": CLUSTER, "ttl_seconds": 3600}
    made = road.server.api("POST", "/tokens", body, token=road.bob_user.token)
    return str(made["token"]) if made["delivered"] else ""


@pytest.fixture
def straight(road: Road) -> Iterator[Kubectl]:
    """Bob's kubectl with a token of the endpoint, on the agent's pod."""
    road.server.api("PUT", f"/clusters/{CLUSTER}/endpoint", {"mode": "agent"})
    apply(road)
    assert road.direct.json("-n", "mooring-system", "get", "service", "mooring-endpoint")["spec"]["type"] == "ClusterIP"
    address = until("one agent is left", lambda: pod_address(road), 60)
    secret = until(
        "the agent has made a certificate",
        lambda: road.direct("-n", "mooring-system", "get", "secret", "mooring-endpoint-tls", "-o", "json", check=False),
        60,
    )
    # The agent of before lets go of the Lease when it has drained; until then nobody delivers.
    token = until("the cluster has a token", lambda: delivered(road), 60)
    cluster = {
        "server": f"https://{address}:8443",
        "tls-server-name": NAME,
        "certificate-authority-data": json.loads(secret)["data"]["ca.crt"],
    }
    assert base64.b64decode(cluster["certificate-authority-data"]).startswith(b"-----BEGIN")
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "x", "cluster": cluster}],
        "users": [{"name": "x", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
    }  # fmt: skip
    path = road.server.folder / "straight.kubeconfig"
    path.write_text(json.dumps(config))
    path.chmod(0o600)
    yield Kubectl(road.bob.binary, path)
    road.server.api("DELETE", f"/clusters/{CLUSTER}/endpoint")
    road.direct("-n", "mooring-system", "delete", "service", "mooring-endpoint")
    apply(road)


@pytest.mark.nodes
@pytest.mark.timeout(300)
def test_exec_goes_straight_to_the_pod_and_ends_with_the_token(road: Road, straight: Kubectl, pod: str) -> None:
    assert straight("-n", "bobs", "get", "pod", pod, "-o", "name") == f"pod/{pod}\n"
    assert straight("-n", "bobs", "exec", pod, "-c", "main", "--", "echo", "hello") == "hello\n"
    assert "forbidden" in straight.refused("get", "nodes").lower()
    shell = straight.start("-n", "bobs", "exec", pod, "-c", "echo", "-i", "--", "cat", stdin=-1)
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write("still here\n")
    shell.stdin.flush()
    assert shell.stdout.readline() == "still here\n"
    token = json.loads(straight.kubeconfig.read_text())["users"][0]["user"]["token"]
    begun = time.monotonic()
    road.server.api("DELETE", f"/tokens/{token.split('_')[1]}")
    shell.wait(20)
    took = time.monotonic() - begun
    print(f"the exec was cut {took:.2f} s after the click")
    assert took < 2
    assert "unknown or was revoked" in straight.refused("-n", "bobs", "get", "pods")

    def recorded() -> bool:
        lines = [line for line in road.server.audit() if line.get("via") == "endpoint" and line["user"] == "bob"]
        return any(line.get("subresource") == "exec" and line["stage"] == "end" for line in lines)

    until("the server's audit log has the exec", recorded, 30)
