# SPDX-License-Identifier: Apache-2.0
"""Real clients read what we write: kubectl, helm and the Python client, with a file that holds others' entries too.

The servers here only answer as they are told; that whole clusters can be used so is shown with clusters, elsewhere.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config
from mooring.kube import configtext
from mooring.kube.kubeconfig import Place, contexts, document, exec_user
from mooring.lib import pki
from support.fake_api import FakeApi, served
from support.road import BIN, Done, run
from testbed import binaries

VERSION = {
    "major": "1", "minor": "36", "gitVersion": "v1.36.3", "gitCommit": "0", "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go", "compiler": "gc", "platform": "linux/amd64",
}  # fmt: skip
OTHERS = """\
# my own clusters
apiVersion: v1
kind: Config
clusters:
- name: kind
  cluster: {server: "https://127.0.0.1:1", insecure-skip-tls-verify: true}
  # the one on the laptop
users:
- name: kind
  user: {token: "0123e4"}
contexts:
- name: kind
  context: {cluster: kind, user: kind, namespace: "12345"}
  extensions: []
- name: 1e3
  context: {cluster: kind, user: kind}
extensions:
- name: tool
  extension: {last-update: "2026-01-01"}
current-context: kind
""".replace("  extensions: []\n", "").replace("name: 1e3", 'name: "1e3"')


@dataclass
class Clients:
    """A home with a kubeconfig; the server and a cluster that can be reached straight, each of which can be stopped."""

    home: Path
    server: FakeApi
    direct: FakeApi

    @property
    def file(self) -> Path:
        return self.home / ".kube" / "config"

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / "xdg"),
            "MOORING_URL": self.server.url,
            "MOORING_TOKEN": "mrg_bob",
            "MOORING_CA_FILE": str(self.home / "ca.pem"),
        }

    def kubectl(self, *words: str, check: bool = True) -> Done:
        return run([binaries.ensure("kubectl") / "kubectl", *words], env=self.environment(), check=check, timeout=60)

    def merge(self, *words: str) -> Done:
        return run([BIN / "mooring", "kubeconfig", "--merge", self.file, *words], env=self.environment())


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[Clients]:
    ca_pem, ca_key = pki.make_ca("Test CA", time.time())
    for name in ("server", "direct"):
        (tmp_path / name).mkdir()
    with served(tmp_path / "server", ca_pem, ca_key) as server, served(tmp_path / "direct", ca_pem, ca_key) as direct:
        made = Clients(tmp_path / "home", server, direct)
        made.file.parent.mkdir(parents=True)
        made.file.write_text(OTHERS)
        made.file.chmod(0o600)
        (made.home / "ca.pem").write_text(ca_pem)
        for api, path in ((server, "/k8s/clusters/lab/version"), (direct, "/version"), (direct, "/version/")):
            api.answer("GET", path, VERSION, Content_Type="application/json")
        token = {"created_at": "2026-01-01T00:00:00.000Z", "expires_at": "2026-01-01T01:00:00.000Z"}
        server.answer("POST", "/api/v1/tokens", {**token, "token": "mre_bob"}, 201)
        server.answer("POST", "/api/v1/kubeconfig", kubeconfig(made))
        yield made


def kubeconfig(clients: Clients, **_unused: Any) -> dict[str, Any]:
    """What the server answers for a cluster with an FQDN, to somebody who prefers direct ways."""
    url, ca_pem = clients.server.url, clients.server.ca_pem
    found = contexts(
        [
            Place(kind="proxy", cluster="lab", server=f"{url}/k8s/clusters/lab", ca_pem=ca_pem),
            Place(kind="fqdn", cluster="lab", server=clients.direct.url, ca_pem=ca_pem),
        ]
    )
    words = ["--server", url, "--cluster", "lab"]
    prefers = ["--prefer-direct", "--kubeconfig", str(clients.file)]
    users = {
        "mooring-lab": exec_user([*words, "--keep-endpoint", *prefers]),
        "mooring-lab-endpoint": exec_user([*words, "--endpoint", *prefers], tell_cluster=True),
    }
    text = configtext.dump(document(url, found, users, "lab-fqdn"))
    details = [{"name": c.name, "cluster": c.place.cluster, "kind": c.place.kind} for c in found]
    return {"kubeconfig": text, "contexts": ["lab", "lab-fqdn"], "details": details, "undelivered": []}


def test_kubectl_and_the_python_client_read_a_merged_file(clients: Clients) -> None:
    before = yaml.safe_load(OTHERS)
    clients.merge()
    assert clients.kubectl("config", "get-contexts", "-o", "name").stdout.split() == ["1e3", "kind", "lab", "lab-fqdn"]
    assert clients.kubectl("config", "current-context").stdout == "kind\n"
    seen = json.loads(clients.kubectl("config", "view", "--raw", "-o", "json").stdout)
    for section in ("clusters", "users", "contexts"):
        mine = [entry for entry in seen[section] if entry["name"] in ("kind", "1e3")]
        assert sorted(mine, key=lambda entry: str(entry["name"])) == sorted(
            before[section], key=lambda entry: str(entry["name"])
        )
    assert seen["extensions"] == before["extensions"]
    names, current = config.list_kube_config_contexts(str(clients.file))
    assert [found["name"] for found in names] == ["kind", "1e3", "lab", "lab-fqdn"]
    assert current["name"] == "kind"


def test_what_kubectl_writes_afterwards_is_kept_by_the_next_merge(clients: Clients) -> None:
    """kubectl writes the whole file in its own way; our marks and what was set on our contexts survive that."""
    clients.merge()
    clients.kubectl("config", "set-context", "lab", "--namespace", "bobs")
    clients.kubectl("config", "set-cluster", "mine", "--server", "https://mine")
    clients.kubectl("config", "use-context", "lab")
    assert "as they were" in clients.merge().stdout
    seen = json.loads(clients.kubectl("config", "view", "-o", "json").stdout)
    assert seen["current-context"] == "lab"
    (lab,) = [entry["context"] for entry in seen["contexts"] if entry["name"] == "lab"]
    assert lab["namespace"] == "bobs"
    assert "mine" in [entry["name"] for entry in seen["clusters"]]


def test_clients_use_a_direct_context_while_the_server_is_away(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients.merge("--current", "lab-fqdn")
    clients.server.answers.clear()
    clients.server.asked.clear()
    assert "v1.36.3" in clients.kubectl("get", "--raw", "/version").stdout
    for name, value in clients.environment().items():
        if name != "HOME":  # the test bed's programs are kept there
            monkeypatch.setenv(name, value)
    api = config.new_client_from_config(str(clients.file), context="lab-fqdn")
    assert client.VersionApi(api).get_code().git_version == "v1.36.3"
    secrets = "/api/v1/namespaces/default/secrets?labelSelector=owner%3Dhelm"
    empty = {"kind": "SecretList", "apiVersion": "v1", "metadata": {}, "items": []}
    clients.direct.answer("GET", secrets, empty, Content_Type="application/json")
    helm = run([binaries.ensure("helm") / "helm", "--kube-context", "lab-fqdn", "-n", "default", "list"],
               env=clients.environment(), timeout=60)  # fmt: skip
    assert helm.stdout.startswith("NAME")
    sent = [{name.lower(): value for name, value in asked.headers.items()} for asked in clients.direct.asked]
    assert {headers.get("authorization") for headers in sent} == {"Bearer mre_bob"}
    assert clients.server.asked == [], "the token was at hand since the file was made"


def test_kubectl_falls_back_to_the_server_and_returns(clients: Clients) -> None:
    clients.merge("--current", "lab-fqdn")
    clients.direct.stop()
    failed = clients.kubectl("get", "--raw", "/version", "--request-timeout=3s", check=False)
    assert failed.returncode != 0
    assert "the next calls use the context lab (" in failed.stderr
    assert "v1.36.3" in clients.kubectl("get", "--raw", "/version").stdout
    assert clients.kubectl("config", "current-context").stdout == "lab\n"
    clients.direct.start()
    for probe in (clients.home / "xdg" / "mooring" / "direct").glob("probe-*"):
        probe.unlink()  # half a minute has passed
    done = clients.kubectl("get", "--raw", "/version")
    assert "the next calls use the context lab-fqdn" in done.stderr
    assert clients.kubectl("config", "current-context").stdout == "lab-fqdn\n"
    assert "v1.36.3" in clients.kubectl("get", "--raw", "/version").stdout
