# SPDX-License-Identifier: Apache-2.0
"""From a click to the cluster: a server, an agent in a process of its own with the rights of the smallest profile, and
what whoever reads the Secrets finds there. Nobody asks kube-api-auth here; the tokens are looked for in the documents.
"""

from __future__ import annotations

import base64
import binascii
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mooring.wire import endpoint
from mooring.wire.sealed import BadDocument, public_key
from support.road import Kubectl, Server, agent_process, stop_process, until
from testbed import ControlPlane

CLUSTER = "cove"
INDEX = "mooring-endpoint"
SPACE = "mooring-system"


@dataclass
class Cove:
    """A cluster with an endpoint; `admin` goes straight there."""

    server: Server
    admin: Kubectl
    folder: Path
    agent: subprocess.Popen[bytes]
    facts: dict[str, Any]

    def user(self, name: str) -> str:
        self.server.api("POST", "/users", {"name": name})
        self.server.api("POST", "/memberships", {"cluster": CLUSTER, "user": name})
        return str(self.server.api("POST", "/tokens", {"user": name})["token"])

    def issue(self, token: str) -> dict[str, Any]:
        """A new token for the endpoint, of the owner of a token of the server."""
        body = {"endpoint": True, "cluster": CLUSTER, "ttl_seconds": 600}
        made: dict[str, Any] = self.server.api("POST", "/tokens", body, token=token)
        return made

    def secret(self, name: str) -> dict[str, bytes]:
        done = self.admin.run("get", "secret", "-n", SPACE, name, "-o", "json", check=False)
        data = json.loads(done.stdout).get("data") if done.returncode == 0 else None
        return {key: base64.b64decode(value) for key, value in (data or {}).items()}

    def tokens(self) -> set[str]:
        """The ids of the tokens by which somebody gets in."""
        key = public_key(self.facts["policy_key"])
        assert key is not None
        whose = (key, self.facts["cluster_id"], self.facts["cluster_uid"])
        try:
            _header, index = endpoint.open_index(self.secret(INDEX).get("document", b""), *whose)
            found = set()
            for number, digest in index.shards.items():
                data = self.secret(f"{INDEX}-{number}").get("document", b"")
                header, shard = endpoint.open_shard(data, *whose, number)
                if header.sha256 == digest:
                    found |= {token.id for user in shard.users if user.enabled for token in user.tokens}
        except (BadDocument, binascii.Error):
            return set()
        return found

    def rss(self) -> float:
        """MiB of the agent."""
        text = Path(f"/proc/{self.agent.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.server.api("GET", f"/clusters/{CLUSTER}/endpoint")["status"] or {}
        return found


@pytest.fixture(scope="module")
def cove(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cove]:
    folder = tmp_path_factory.mktemp("cove")
    admin = Kubectl(control_plane.bin / "kubectl", Path(control_plane.kubeconfig))
    server = Server(folder / "server")
    server.init()
    server.start()
    server.mooring("cluster", "create", CLUSTER, "--profile", "proxy-only")
    server.api("PUT", f"/clusters/{CLUSTER}/endpoint", {"mode": "webhook"})
    admin("apply", "-f", "-", stdin=server.mooring("cluster", "manifest", CLUSTER, "--no-workload").stdout)
    agent = agent_process(admin, folder)
    try:
        made = Cove(server, admin, folder, agent, {})
        until("it is connected", lambda: server.api("GET", f"/clusters/{CLUSTER}")["state"] == "connected", 60)
        made.facts = server.api("GET", f"/clusters/{CLUSTER}/endpoint")
        yield made
    finally:
        stop_process(made.agent)
        server.stop()
        admin("delete", "-n", SPACE, "secrets,leases", "--all")


def test_a_token_is_in_the_cluster_when_it_is_handed_out_and_gone_a_second_after_it_was_revoked(cove: Cove) -> None:
    bob = cove.user("bob")
    until("an endpoint is there", lambda: cove.issue(bob)["delivered"], 30)
    came, went = [], []
    for _unused in range(5):
        began = time.monotonic()
        made = cove.issue(bob)
        came.append(time.monotonic() - began)
        assert made["delivered"] is True
        assert made["id"] in cove.tokens()
        revision = cove.status().get("revision", 0)
        began = time.monotonic()
        cove.server.api("DELETE", f"/tokens/{made['id']}")
        until("it is gone", lambda made=made: made["id"] not in cove.tokens(), 5)
        went.append(time.monotonic() - began)
        assert revision >= 0
    print(f"handed out and in the cluster: {sorted(round(x * 1000) for x in came)} ms")
    print(f"revoked and gone (with kubectl's time): {sorted(round(x * 1000) for x in went)} ms")
    assert sorted(came)[2] < 1.0
    assert sorted(went)[2] < 2.0


def test_who_may_not_come_in_any_more_is_gone_and_the_others_stay(cove: Cove) -> None:
    eve, kim = cove.user("eve"), cove.user("kim")
    hers, his = cove.issue(eve), cove.issue(kim)
    until("both are there", lambda: {hers["id"], his["id"]} <= cove.tokens(), 30)
    cove.server.api("PATCH", "/users/eve", {"enabled": False})
    until("she is out", lambda: hers["id"] not in cove.tokens(), 5)
    assert his["id"] in cove.tokens()


def test_without_the_server_the_tokens_stay_and_who_touches_them_is_put_right(cove: Cove) -> None:
    token = cove.user("ann")
    made = cove.issue(token)
    assert json.loads(cove.secret(INDEX)["link"])["connected"] is True
    cove.server.stop()
    until("the link is down", lambda: json.loads(cove.secret(INDEX)["link"])["connected"] is False, 20)
    cove.admin("delete", "secret", "-n", SPACE, INDEX)
    until("it is back", lambda: made["id"] in cove.tokens(), 5)
    stop_process(cove.agent)
    stray = f"{INDEX}-{next(number for number in range(endpoint.SHARDS) if not cove.secret(f'{INDEX}-{number}'))}"
    cove.admin("create", "secret", "generic", "-n", SPACE, stray, "--from-literal=document=mine")
    cove.agent = agent_process(cove.admin, cove.folder)  # a restart without the server
    # It removes what the index does not name when it has read what is there: what it has not read it cannot put back.
    until("it has begun", lambda: not cove.secret(stray), 60)
    cove.admin("patch", "secret", "-n", SPACE, INDEX, "-p", '{"data":{"document":"bWluZQ=="}}')
    until("it is as it was", lambda: made["id"] in cove.tokens(), 10)
    cove.server.start()
    until("the link is up", lambda: json.loads(cove.secret(INDEX)["link"])["connected"] is True, 30)
    again = until("another token gets there", lambda: (it := cove.issue(token))["delivered"] and it, 30)
    assert {made["id"], again["id"]} <= cove.tokens()


def test_an_idle_agent_with_an_endpoint_stays_small(cove: Cove) -> None:
    owner = cove.user("many")
    for _unused in range(100):
        body = {"endpoint": True, "cluster": CLUSTER, "ttl_seconds": 600, "wait_seconds": 0}
        cove.server.api("POST", "/tokens", body, token=owner)
    last = cove.issue(owner)
    until("all are there", lambda: last["id"] in cove.tokens(), 10)
    print(f"the agent's RSS: {cove.rss():.1f} MiB")
    assert cove.rss() < 64


def test_an_endpoint_that_is_turned_off_leaves_no_token_in_the_cluster(cove: Cove) -> None:
    cove.server.api("DELETE", f"/clusters/{CLUSTER}/endpoint")
    until("nobody is left", lambda: cove.secret(INDEX) and not cove.tokens(), 5)
    names = cove.admin("get", "secrets", "-n", SPACE, "-o", "name").split()
    assert [name for name in names if name.startswith(f"secret/{INDEX}")] == [f"secret/{INDEX}"]
