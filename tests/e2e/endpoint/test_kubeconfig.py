# SPDX-License-Identifier: Apache-2.0
"""Bob's own kubeconfig, into which his contexts were merged: real clients on a real cluster, with the server and
without it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config
from support.road import BIN, Done, run
from testbed import binaries

from .conftest import CLUSTER, Harbour

DIRECT = f"{CLUSTER}-fqdn"
MINE = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "kind", "cluster": {"server": "https://127.0.0.1:1"}}],
    "users": [{"name": "kind", "user": {"token": "1e3"}}],
    "contexts": [{"name": "kind", "context": {"cluster": "kind", "user": "kind"}}],
    "current-context": "kind",
}


@dataclass
class Bob:
    """His home, with a kubeconfig that he has already."""

    harbour: Harbour
    home: Path

    @property
    def file(self) -> Path:
        return self.home / ".kube" / "config"

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / "xdg"),
            "MOORING_URL": self.harbour.server.url,
            "MOORING_TOKEN": self.harbour.tokens["bob"],
            "MOORING_CA_FILE": str(self.harbour.server.ca),
        }

    def mooring(self, *words: str | Path) -> Done:
        return run([BIN / "mooring", *words], env=self.environment())

    def kubectl(self, *words: str, check: bool = True) -> Done:
        return run([self.harbour.plane.bin / "kubectl", *words], env=self.environment(), check=check)

    def who(self, *words: str) -> tuple[str, str]:
        """The name that the cluster knows, and the id of the token that was sent."""
        info = json.loads(self.kubectl(*words, "auth", "whoami", "-o", "json").stdout)["status"]["userInfo"]
        return info["username"], info["extra"]["mooring.fleet/token-id"][0]


@pytest.fixture
def bob(whole: Harbour, tmp_path: Path) -> Bob:
    found = Bob(whole, tmp_path)
    found.file.parent.mkdir()
    found.file.write_text(json.dumps(MINE))
    found.file.chmod(0o600)
    return found


def test_kubectl_helm_and_python_go_on_without_the_server(bob: Bob, monkeypatch: pytest.MonkeyPatch) -> None:
    helm = binaries.ensure("helm") / "helm"
    bob.mooring("kubeconfig", "--merge", bob.file, "--current", DIRECT)
    made = yaml.safe_load(bob.file.read_text())
    for section in ("clusters", "users", "contexts"):
        assert made[section][0] == MINE[section][0]  # type: ignore[index]
    assert "mre_" not in bob.file.read_text()
    name, direct = bob.who()
    assert (name, direct[:2]) == ("mooring:bob", "e-")
    name, through = bob.who("--context", CLUSTER)
    assert (name, through[:2]) == ("mooring:bob", "t-")
    bob.harbour.cut()
    began = time.monotonic()
    assert bob.who() == ("mooring:bob", direct)
    assert time.monotonic() - began < 5, "the token was at hand"
    bob.kubectl("-n", "shop-web", "create", "configmap", "bobs", "--from-literal=a=1")
    refused = bob.kubectl("-n", "vault", "get", "secrets", check=False)
    assert "Forbidden" in refused.stderr
    assert run([helm, "-n", "shop-web", "list"], env=bob.environment()).stdout.startswith("NAME")
    for key, value in bob.environment().items():
        if key != "HOME":
            monkeypatch.setenv(key, value)
    core = client.CoreV1Api(config.new_client_from_config(str(bob.file), context=DIRECT))
    assert core.read_namespaced_config_map("bobs", "shop-web").data == {"a": "1"}
    core.delete_namespaced_config_map("bobs", "shop-web")
    assert bob.kubectl("--context", CLUSTER, "get", "--raw", "/version", "--request-timeout=5s", check=False).returncode


def test_a_token_that_is_due_is_used_on_while_the_server_is_away_and_renewed_when_it_is_back(bob: Bob) -> None:
    bob.mooring("kubeconfig", "--merge", bob.file, "--current", DIRECT)
    _name, first = bob.who()
    for file in (bob.home / "xdg" / "mooring" / "credentials").glob("*.json"):
        kept: dict[str, Any] = json.loads(file.read_text())
        kept["made_at"] -= 10_000  # more than half of its life is over
        file.write_text(json.dumps(kept))
    bob.harbour.cut()
    done = bob.kubectl("auth", "whoami")
    assert "mooring:bob" in done.stdout
    assert f"the token for {CLUSTER} that is there is used until" in done.stderr
    bob.harbour.whole()
    for file in (bob.home / "xdg" / "mooring" / "credentials").glob("*.json"):
        kept = json.loads(file.read_text())
        kept["tried_at"] = 1.0  # half a minute later
        file.write_text(json.dumps(kept))
    name, second = bob.who()
    assert (name, second[:2]) == ("mooring:bob", "e-")
    assert second != first


def test_where_the_direct_way_does_not_answer_kubectl_goes_through_the_server(bob: Bob) -> None:
    bob.mooring("kubeconfig", "--merge", bob.file, "--prefer-direct", "--current", CLUSTER)
    assert bob.who()[1].startswith("e-")
    address = bob.harbour.plane.server
    bob.kubectl("config", "set-cluster", DIRECT, "--server", "https://127.0.0.1:1")
    failed = bob.kubectl("get", "--raw", "/version", "--request-timeout=5s", check=False)
    assert f"the next calls use the context {CLUSTER} (" in failed.stderr
    assert bob.who()[1].startswith("t-")
    bob.kubectl("config", "set-cluster", DIRECT, "--server", address)
    assert bob.who()[1].startswith("t-"), "the way is another one than that which failed: nothing is switched for it"
    bob.kubectl("config", "use-context", DIRECT)
    assert bob.who()[1].startswith("e-")
