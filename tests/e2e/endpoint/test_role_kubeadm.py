# SPDX-License-Identifier: Apache-2.0
"""The role kube_api_auth on a real kubeadm cluster of three control planes: on, broken, on again, off.

The tests follow each other: each takes the cluster as the one before left it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.plays import changes, said
from support.road import until
from support.rolebed import Fleet, Play
from testbed import images
from testbed.kubeadm import KubeadmCluster

pytestmark = pytest.mark.timeout(900)

NODES = ("m1", "m2", "m3")
MANIFEST = "/etc/kubernetes/manifests/kube-apiserver.yaml"
FOLDER = "/etc/kubernetes/mooring"


@pytest.fixture(scope="module")
def fleet(kubeadm_cluster: KubeadmCluster) -> Fleet:
    uid = kubeadm_cluster.kubectl("get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}").stdout
    it = Fleet(uid)
    apply(kubeadm_cluster, it.rights() + it.secrets())
    kubeadm_cluster.load(images.ensure_agent_image())
    return it


@pytest.fixture(scope="module")
def play(fleet: Fleet, kubeadm_cluster: KubeadmCluster, tmp_path_factory: pytest.TempPathFactory) -> Play:
    start = fleet.player(tmp_path_factory.mktemp("role"), kubeadm_cluster.machines.inventory)
    image = {"mooring_api_auth_image": images.AGENT, "mooring_api_auth_image_pull_policy": "Never"}
    return lambda *words, **variables: start(*words, **{**image, **variables})


@pytest.fixture(scope="module")
def manifests(kubeadm_cluster: KubeadmCluster) -> dict[str, str]:
    """The API servers' static pods before anything was done."""
    return {name: manifest(kubeadm_cluster, name) for name in NODES}


@pytest.fixture
def bob(
    fleet: Fleet, kubeadm_cluster: KubeadmCluster, tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """bob("m2", "get", "pods"): kubectl with Bob's token, straight to one of the API servers."""

    def call(node: str, *words: str) -> subprocess.CompletedProcess[str]:
        empty = tmp_path / "empty"
        empty.touch()
        where = ["--kubeconfig", empty, "--server", kubeadm_cluster.server(node), "--token", fleet.token]
        command = [kubeadm_cluster.bin / "kubectl", *where, "--certificate-authority", kubeadm_cluster.ca, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return call


def apply(cluster: KubeadmCluster, objects: list[dict[str, object]]) -> None:
    cluster.kubectl("apply", "-f", "-", input="\n---\n".join(json.dumps(item) for item in objects))


def manifest(cluster: KubeadmCluster, name: str) -> str:
    return cluster.machines[name].ssh(f"cat {MANIFEST}").stdout


def kubeadm_config(cluster: KubeadmCluster) -> str:
    return cluster.kubectl(
        "get", "configmap", "kubeadm-config", "-n", "kube-system", "-o", "jsonpath={.data.ClusterConfiguration}"
    ).stdout


def test_check_mode_shows_the_flags_and_changes_nothing(
    play: Play, kubeadm_cluster: KubeadmCluster, manifests: dict[str, str]
) -> None:
    runner = play("--check --diff --limit m1")
    assert changes(runner) > 0
    text = said(runner)
    assert f"+    - --authorization-config={FOLDER}/apiserver/authorization.yaml" in text
    assert "-    - --authorization-mode=Node,RBAC" in text
    assert "PRIVATE KEY" not in text
    assert manifest(kubeadm_cluster, "m1") == manifests["m1"]
    assert "authorization-config" not in kubeadm_config(kubeadm_cluster)
    assert "mooring" not in kubeadm_cluster.machines["m1"].ssh("ls /etc/kubernetes /etc/kubernetes/manifests").stdout
    secrets = kubeadm_cluster.kubectl("get", "secrets", "-n", "mooring-system", "-o", "name").stdout
    assert "mooring-kube-api-auth-token" not in secrets


def test_an_api_server_that_does_not_come_back_is_given_its_old_flags(
    play: Play, kubeadm_cluster: KubeadmCluster, manifests: dict[str, str]
) -> None:
    runner = play(mooring_api_auth_cache_ttl="nonsense", mooring_api_auth_timeout=45)
    assert runner.status == "failed"
    text = said(runner)
    assert "The static pod of before was put back and the API server is ready again" in text
    assert 'invalid argument \\"nonsense\\" for \\"--authentication-token-webhook-cache-ttl\\" flag' in text
    assert {name: manifest(kubeadm_cluster, name) for name in NODES} == manifests
    kubeadm_cluster.wait_ready()
    # The first that fails is the last that was touched.
    for name in ("m2", "m3"):
        assert "mooring" not in kubeadm_cluster.machines[name].ssh("ls /etc/kubernetes").stdout
    assert "nonsense" not in kubeadm_config(kubeadm_cluster)


def test_each_control_plane_knows_bob(
    play: Play, kubeadm_cluster: KubeadmCluster, manifests: dict[str, str], bob: Callable[..., object], fleet: Fleet
) -> None:
    assert changes(play()) > 0
    for name in NODES:
        who = bob(name, "auth", "whoami", "-o", "json")
        info = json.loads(who.stdout)["status"]["userInfo"]  # type: ignore[attr-defined]
        assert info["username"] == "mooring:bob"
        assert info["groups"] == ["mooring:developers", "system:authenticated"]
        refused = bob(name, "get", "nodes")
        assert 'User "mooring:bob" cannot list resource "nodes"' in refused.stderr  # type: ignore[attr-defined]
        modes = kubeadm_cluster.machines[name].ssh(f"find {FOLDER} /var/lib/mooring-kube-api-auth -type f -perm /077")
        assert modes.stdout == ""
        backup = kubeadm_cluster.machines[name].ssh(f"cat {FOLDER}/backup/kube-apiserver.yaml").stdout
        assert backup == manifests[name]
    assert f"value: {FOLDER}/apiserver/authorization.yaml" in kubeadm_config(kubeadm_cluster)


def test_the_second_run_changes_nothing(play: Play) -> None:
    assert changes(play("--limit m3")) == 0


def test_a_revoked_token_is_refused_before_the_api_server_forgets_it(
    kubeadm_cluster: KubeadmCluster, bob: Callable[..., object], fleet: Fleet
) -> None:
    assert bob("m1", "get", "--raw=/api").returncode == 0  # type: ignore[attr-defined]
    held, fleet.bob.tokens = fleet.bob.tokens, []
    apply(kubeadm_cluster, fleet.secrets())
    until("the token is refused", lambda: bob("m1", "get", "--raw=/api").returncode != 0, 5)  # type: ignore[attr-defined]
    fleet.bob.tokens = held
    apply(kubeadm_cluster, fleet.secrets())


def test_bob_gets_in_again_after_kills_a_reboot_and_a_power_cut(
    kubeadm_cluster: KubeadmCluster, bob: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """There is no server here at all, and nobody writes the Secrets anew."""
    cluster, machines = kubeadm_cluster, kubeadm_cluster.machines

    def let_in(name: str) -> bool:
        return bob(name, "auth", "whoami", "-o", "name").returncode == 0

    # What is killed on a node is started again by its kubelet, and goes on by itself.
    machines["m1"].ssh("kill -9 $(pidof kube-apiserver)")
    until("m1 lets him in", lambda: let_in("m1"), 90)
    machines["m1"].ssh("kill -9 $(pgrep -f '[m]ooring kube-api-auth')")
    until("m1 lets him in", lambda: let_in("m1"), 90)
    print(f"m2 rebooted in {cluster.reboot('m2'):.1f} s")
    assert let_in("m3"), "the others serve meanwhile"
    until("m2 lets him in", lambda: let_in("m2"), 120)
    machines["m3"].cut()
    assert let_in("m1")
    machines["m3"].up()
    until("m3 lets him in", lambda: let_in("m3"), 120)
    cluster.wait_ready()
    for name in NODES:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"sail-{name}", "namespace": "default"}}
        container = {"name": "c", "image": images.PY, "imagePullPolicy": "Never", "command": ["sleep", "100000"]}
        apply(cluster, [{**pod, "spec": {"nodeName": name, "containers": [container]}}])
    pods = [f"pod/sail-{name}" for name in NODES]
    cluster.kubectl("wait", "--for=condition=Ready", *pods, "--timeout=90s", timeout=120)
    cluster.kubectl("delete", *pods, "--wait=false")
    assert "Forbidden" in bob("m2", "get", "nodes").stderr


def test_kubeadm_writes_the_same_flags(kubeadm_cluster: KubeadmCluster) -> None:
    machine = kubeadm_cluster.machines["m3"]
    machine.ssh("cat > /root/cc.yaml", input=kubeadm_config(kubeadm_cluster))
    made = machine.ssh(
        "mkdir -p /root/made && export KUBEADM_INIT_DRYRUN_DIR=/root/made && "
        "kubeadm init phase control-plane apiserver --config /root/cc.yaml --dry-run >&2 && "
        "cat $(find /root/made -name kube-apiserver.yaml)"
    ).stdout
    assert f"--authorization-config={FOLDER}/apiserver/authorization.yaml" in made
    assert "--authorization-mode" not in made
    assert "--authentication-token-webhook-version=v1" in made
    assert f"mountPath: {FOLDER}/apiserver" in made


def test_removal_restores_what_was_there(
    play: Play, kubeadm_cluster: KubeadmCluster, manifests: dict[str, str], bob: Callable[..., object]
) -> None:
    would = play("--check --limit m1", mooring_api_auth_state="absent")
    assert changes(would) > 0
    assert manifest(kubeadm_cluster, "m1") != manifests["m1"]
    assert changes(play(mooring_api_auth_state="absent")) > 0
    kubeadm_cluster.wait_ready()
    for name in NODES:
        assert manifest(kubeadm_cluster, name) == manifests[name]
        left = kubeadm_cluster.machines[name].ssh("ls /etc/kubernetes /etc/kubernetes/manifests /var/lib").stdout
        assert "mooring" not in left
        assert "kube-api-auth" not in left
    assert "authorization-config" not in kubeadm_config(kubeadm_cluster)
    assert "Unauthorized" in bob("m1", "get", "--raw=/api").stderr  # type: ignore[attr-defined]
    assert changes(play("--limit m1", mooring_api_auth_state="absent")) == 0
