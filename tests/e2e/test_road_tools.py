# SPDX-License-Identifier: Apache-2.0
"""The tools that people use, through the server and none told that there is one: helm, the Python client, Ansible."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config, watch
from kubernetes.stream import stream
from support.chart import write
from support.road import BIN, Done, run
from testbed import binaries

from .conftest import CLUSTER, Road


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    return write(tmp_path / "boat")


def test_helm_installs_upgrades_rolls_back_and_uninstalls(road: Road, chart: Path) -> None:
    helm_binary = binaries.ensure("helm") / "helm"

    def helm(*words: str) -> Done:
        return run([helm_binary, "--kubeconfig", road.bob.kubeconfig, "-n", "bobs", *words])

    def sails() -> str:
        return str(road.direct.json("-n", "bobs", "get", "configmap", "sloop")["data"]["sails"])

    image = ("--set", f"image={road.image}", "--wait", "--timeout", "60s")
    helm("install", "sloop", str(chart), *image)
    assert sails() == "1"
    helm("upgrade", "sloop", str(chart), *image, "--set", "sails=2")
    assert sails() == "2"
    helm("rollback", "sloop", "1", "--wait", "--timeout", "60s")
    assert sails() == "1"
    history = json.loads(helm("history", "sloop", "-o", "json").stdout)
    assert [entry["revision"] for entry in history] == [1, 2, 3]
    helm("uninstall", "sloop", "--wait")
    assert "sloop" not in road.direct("-n", "bobs", "get", "configmaps", "-o", "name")


def test_the_rbac_of_a_cluster_is_exported_as_a_policy(road: Road) -> None:
    road.direct(
        *("-n", "bobs", "create", "rolebinding", "exported", "--clusterrole=view"),
        *("--user=mooring:bob", "--user=stranger", "--serviceaccount=bobs:default"),
    )
    try:
        text = road.server.mooring("policy", "export", "--cluster", CLUSTER).stdout
    finally:
        road.direct("-n", "bobs", "delete", "rolebinding", "exported")
    (found,) = yaml.safe_load(text)["mooring_policy"]["clusters"]
    (bobs,) = [project for project in found["projects"] if project["name"] == "bobs"]
    (binding,) = [binding for binding in bobs["bindings"] if binding["name"].endswith("-exported")]
    assert (binding["role"], binding["users"]) == ("view-in-project", ["bob"])
    assert binding["service_accounts"] == ["bobs/default"]
    assert "user stranger does not come through the server" in text


@pytest.fixture
def api(road: Road) -> Any:
    """A Python client as Bob."""
    return config.new_client_from_config(str(road.bob.kubeconfig))


def test_the_python_client_reads_writes_watches_and_executes(road: Road, pod: str, api: Any) -> None:
    core = client.CoreV1Api(api)
    name = f"python-{os.getpid()}"
    core.create_namespaced_config_map("bobs", {"metadata": {"name": name}, "data": {"a": "1"}})
    core.patch_namespaced_config_map(name, "bobs", {"data": {"b": "2"}})
    assert core.read_namespaced_config_map(name, "bobs").data == {"a": "1", "b": "2"}
    events = watch.Watch().stream(core.list_namespaced_config_map, "bobs", timeout_seconds=10)
    assert any(event["object"].metadata.name == name for event in events)
    out = stream(
        core.connect_get_namespaced_pod_exec, pod, "bobs", container="main", command=["echo", "ahoy"],
        stdout=True, stderr=True, stdin=False, tty=False,
    )  # fmt: skip
    assert out == "ahoy\n"
    core.delete_namespaced_config_map(name, "bobs")
    with pytest.raises(client.ApiException) as refused:
        client.CoreV1Api(api).list_namespaced_secret("kube-system")
    assert refused.value.status == 403


PLAYBOOK = """
- hosts: localhost
  connection: local
  gather_facts: false
  module_defaults:
    group/kubernetes.core.k8s:
      kubeconfig: "{{ kubeconfig }}"
      namespace: bobs
  tasks:
    - kubernetes.core.k8s:
        definition: {apiVersion: v1, kind: ConfigMap, metadata: {name: ansible}, data: {colour: blue}}
      register: made
    - kubernetes.core.k8s:
        definition: {apiVersion: v1, kind: ConfigMap, metadata: {name: ansible}, data: {colour: blue}}
      register: again
    - kubernetes.core.k8s_info: {kind: ConfigMap, api_version: v1, name: ansible}
      register: info
    - kubernetes.core.k8s_exec: {pod: "{{ pod }}", container: main, command: echo ahoy}
      register: executed
    - kubernetes.core.k8s_log: {name: "{{ pod }}", container: talker, tail_lines: 2}
      register: log
    - kubernetes.core.k8s_cp: {pod: "{{ pod }}", container: main, remote_path: /tmp/a.txt, local_path: "{{ file }}"}
    - kubernetes.core.k8s_cp:
        {pod: "{{ pod }}", container: main, remote_path: /tmp/a.txt, local_path: "{{ file }}.back", state: from_pod}
    - kubernetes.core.k8s: {kind: ConfigMap, api_version: v1, name: ansible, state: absent}
    - ansible.builtin.assert:
        that:
          - made is changed
          - again is not changed
          - info.resources[0].data.colour == 'blue'
          - executed.stdout == 'ahoy\\n' or executed.stdout == 'ahoy'
          - log.log_lines | select('match', 'line [0-9]+') | length >= 2
"""


def test_kubernetes_core_modules_in_a_playbook(road: Road, pod: str, tmp_path: Path) -> None:
    book, file = tmp_path / "play.yml", tmp_path / "file.txt"
    book.write_text(PLAYBOOK)
    file.write_text("from the pier\n" * 1000)
    variables = yaml.safe_dump({"kubeconfig": str(road.bob.kubeconfig), "pod": pod, "file": str(file)})
    (tmp_path / "vars.yml").write_text(variables)
    done = run(
        [BIN / "ansible-playbook", "-i", "localhost,", "-e", f"@{tmp_path / 'vars.yml'}",
         "-e", f"ansible_python_interpreter={BIN / 'python'}", book],
        timeout=180, check=False, cwd=tmp_path,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "PATH": road.bob.env()["PATH"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert Path(f"{file}.back").read_text() == file.read_text()


def test_an_exec_plugin_gets_a_token_and_keeps_it_until_a_new_login(road: Road, tmp_path: Path) -> None:
    home, kubeconfig = tmp_path / "home", tmp_path / "exec.kubeconfig"
    environment = {**os.environ, "XDG_CONFIG_HOME": str(home / "config"), "XDG_CACHE_HOME": str(home / "cache"),
                   "PATH": road.bob.env()["PATH"]}  # fmt: skip
    password = tmp_path / "password"
    password.write_text(road.bob_user.password)
    login = [BIN / "mooring", "login", road.server.url, "--username", "bob", "--password-file", password,
             "--ca-file", road.server.ca]  # fmt: skip
    run(login, env=environment)
    run([BIN / "mooring", "kubeconfig", "--exec", "-o", kubeconfig], env=environment)
    assert kubeconfig.stat().st_mode & 0o777 == 0o600
    assert "mrg_" not in kubeconfig.read_text()
    kubectl = [road.bob.binary, "--kubeconfig", kubeconfig, "-n", "bobs", "auth", "whoami", "-o", "json"]

    def token_id() -> str:
        info = json.loads(run(kubectl, env=environment).stdout)["status"]["userInfo"]
        assert info["username"] == "mooring:bob"
        return str(info["extra"]["mooring.fleet/token-id"][0])

    first = token_id()
    assert token_id() == first, "the second call makes a token anew"
    secrets = [path for path in home.rglob("*") if path.is_file()]
    assert secrets
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}
    road.server.api("DELETE", f"/tokens/{first}")
    assert "revoked" in run(kubectl, env=environment, check=False).stderr
    run(login, env=environment)
    assert token_id() != first
