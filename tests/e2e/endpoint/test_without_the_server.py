# SPDX-License-Identifier: Apache-2.0
"""The server is dead (kill -9) and there is no tunnel: people go on straight to the cluster, with the rights they had.

The table of user x verb x resource is the one of the proxy: first what each user may do through the server, then the
same questions on the direct road without it.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from support import tables
from support.chart import write
from support.road import Kubectl, run
from testbed import binaries, images

from .conftest import Harbour

POD = """
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: shop-web}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "%s", imagePullPolicy: Never, command: [sh, -c, "echo afloat; sleep 100000"]}]
"""


def who(harbour: Harbour) -> list[tuple[str, str, frozenset[str]]]:
    """(user, namespace, what the table says)."""
    found = [(f"p-{role}", "shop-web", expected) for role, expected in tables.IN_PROJECT.items()]
    found += [(f"p-{role}", "vault", frozenset()) for role in ("project-owner", "secrets-view")]
    found += [(f"c-{role}", "vault", expected) for role, expected in tables.IN_CLUSTER.items()]
    return [*found, ("g-admin", "kube-system", tables.ALL), ("bob", "shop-db", tables.OWNER)]


def sail(kubectl: Kubectl, name: str) -> None:
    """A new pod: made, started by the node, seen and entered, and removed."""
    kubectl("apply", "-f", "-", stdin=POD % (name, images.PY))
    kubectl("-n", "shop-web", "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=60s")
    assert kubectl("-n", "shop-web", "logs", name).strip() == "afloat"
    assert kubectl("-n", "shop-web", "exec", name, "--", "hostname").strip() == name
    kubectl("-n", "shop-web", "delete", "pod", name, "--wait=false")


@pytest.mark.nodes
@pytest.mark.timeout(600)
def test_each_user_may_do_the_same_as_through_the_server(whole: Harbour) -> None:
    through = {
        (user, space, probe): tables.may(whole.proxied(user), probe, space)
        for user, space, _unused in who(whole)
        for probe in ("get pods", "create configmaps", "get secrets", "get nodes")
    }
    whole.cut()
    found = []
    for user, space, expected in who(whole):
        found += [f"{user} {line}" for line in tables.differences(whole.direct[user].call, space, expected)]
    assert found == []
    for (user, space, probe), allowed in through.items():
        assert tables.may(whole.direct[user].call, probe, space) is allowed, (user, space, probe)


@pytest.mark.nodes
@pytest.mark.timeout(600)
def test_kubectl_and_helm_work_on_and_are_refused_what_the_roles_do_not_give(whole: Harbour, tmp_path: Path) -> None:
    bob = whole.kubectl("bob")
    viewer = whole.kubectl("c-cluster-viewer")
    whole.cut()

    me = bob.json("auth", "whoami")["status"]["userInfo"]
    assert me["username"] == "mooring:bob"
    assert "mooring:developers" in me["groups"]
    assert "system:authenticated" in me["groups"]
    [token_id] = me["extra"]["mooring.fleet/token-id"]
    assert token_id.startswith("e-")

    # The real calls agree with the table.
    bob("-n", "shop-web", "create", "configmap", "sign", "--from-literal=a=b")
    assert bob.json("-n", "shop-web", "get", "configmap", "sign")["data"] == {"a": "b"}
    assert viewer.json("-n", "shop-web", "get", "configmap", "sign")["data"] == {"a": "b"}
    assert "orbidden" in viewer.refused("-n", "shop-web", "delete", "configmap", "sign")
    assert "orbidden" in viewer.refused("-n", "shop-web", "get", "secrets")
    for words in (("-n", "vault", "get", "pods"), ("get", "nodes"), ("-n", "kube-system", "get", "configmaps")):
        assert "orbidden" in bob.refused(*words)
    for words in (("--as=system:admin", "get", "nodes"), ("--as-group=system:masters", "--as=x", "get", "nodes")):
        assert "orbidden" in bob.refused(*words)
    bob("-n", "shop-web", "delete", "configmap", "sign")

    sail(bob, "dinghy")

    helm = [binaries.ensure("helm") / "helm", "--kubeconfig", bob.kubeconfig]
    chart = write(tmp_path / "boat")
    image = ("--set", f"image={images.PY}", "--wait", "--timeout", "60s")
    run([*helm, "-n", "shop-web", "install", "sloop", chart, *image])
    run([*helm, "-n", "shop-web", "upgrade", "sloop", chart, *image, "--set", "sails=2"])
    history = json.loads(run([*helm, "-n", "shop-web", "history", "sloop", "-o", "json"]).stdout)
    assert [entry["revision"] for entry in history] == [1, 2]
    run([*helm, "-n", "shop-web", "uninstall", "sloop", "--wait"])
    refused = run([*helm, "-n", "vault", "install", "sloop", chart, *image], check=False)
    assert refused.returncode
    assert "forbidden" in refused.stderr

    # The API server's own log has the person in each line, not a machine.
    event = whole.plane.wait_for_audit(lambda event: event.get("objectRef", {}).get("name") == "sign")
    assert event["user"]["username"] == "mooring:bob"
    assert event["user"]["extra"]["mooring.fleet/token-id"] == [token_id]


@pytest.mark.nodes
@pytest.mark.timeout(600)
def test_it_works_after_a_restart_of_the_api_server_and_of_kube_api_auth_and_of_both(whole: Harbour) -> None:
    bob = whole.direct["bob"]
    good, bad = "/api/v1/namespaces/shop-web/pods", "/api/v1/namespaces/vault/pods"
    kubectl = whole.kubectl("bob")
    whole.cut()

    def works() -> None:
        assert (bob.status(good), bob.status(bad)) == (200, 403)

    works()
    whole.plane.kill_api()
    bob.client.close()
    whole.plane.start_api()
    works()

    # Without it, nobody who comes directly is let in by mistake, and the administrator's certificate still is.
    whole.auth.stop(signal.SIGKILL)
    fresh = whole.caller("mre_e-aaaaaaaaaaaa_" + "a" * 52)
    assert fresh.status(good) == 401
    assert whole.admin("get", "--raw", "/readyz") == "ok"
    whole.auth.start()
    works()

    # kube-api-auth comes first, while there is no API server to ask: it has what it needs on its disk.
    whole.plane.kill_api()
    whole.auth.stop(signal.SIGKILL)
    bob.client.close()
    whole.auth.start()
    whole.plane.start_api()
    works()
    sail(kubectl, "cutter")


@pytest.mark.nodes
@pytest.mark.timeout(300)
def test_a_cut_tunnel_alone_changes_nothing_and_a_token_of_the_server_opens_nothing_directly(whole: Harbour) -> None:
    assert whole.agent is not None
    whole.agent.kill()
    whole.agent.wait(20)
    assert whole.direct["bob"].status("/api/v1/namespaces/shop-web/pods") == 200
    assert whole.caller(whole.tokens["bob"]).status() == 401
    assert whole.caller(whole.tokens["g-admin"]).status() == 401
    # And the other way round.
    answer = whole.server.call("GET", "/api/v1/clusters", token=whole.direct["bob"].token)
    assert answer.status == 401
    answer = whole.server.call("GET", "/k8s/clusters/harbour/api", token=whole.direct["bob"].token)
    assert answer.status == 401
