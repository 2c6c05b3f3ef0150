# SPDX-License-Identifier: Apache-2.0
"""Attack class 5: an agent of cluster A registers, resumes or answers for cluster B.

The attacker is A's administrator: he has A's private key, and may say what he likes through A's tunnel. Guards:
`authn/agents.py` (the key is looked up by the cluster that the JWT names; issuer and key must agree),
`api/agents.py` (a join token is for one cluster and one key, a cluster keeps its uid), `tunnel/hub.py` (sessions belong
to the cluster that was proved), `app/worker.py` (sessions of an old key end), `control/` (a status is about its own).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from mooring.agent.identity import Identity, new_key
from mooring.lib.secrets import Secret
from support import agentjwt
from support.glass import Glass, register, registration
from support.rawhttp import RawAnswer, RawClient, bearer
from support.road import Server, until

from .conftest import Cluster, Person, Road, new_source, strangers


def stolen(cluster: Cluster) -> Identity:
    """What the Secret of a cluster's agent holds, as its administrator reads it."""
    data = cluster.direct.json("-n", "mooring-system", "get", "secret", "mooring-agent-identity")["data"]
    text = {name: base64.b64decode(value).decode() for name, value in data.items()}
    return Identity(key=Secret(text["private_key"]), cluster_id=text["cluster_id"], audience=text["audience"])


def kubernetes(cluster: Cluster) -> str:
    """The uid by which a server knows a Kubernetes cluster."""
    return cluster.direct("get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}")


@pytest.fixture(scope="module", autouse=True)
def begin(road: Road) -> int:
    """Where B's audit log ended before this file."""
    return road.b.position()


def test_the_key_of_one_cluster_is_no_way_into_the_tunnel_of_another(road: Road, client: RawClient) -> None:
    a, b = stolen(road.a), stolen(road.b)
    key = agentjwt.private_key(a)
    assert agentjwt.handshake(client, agentjwt.good(a)).status == 101, "it is good for its own"
    before = road.server.api("GET", f"/clusters/{road.b.name}")["connected_at"]
    for head, body in [
        (agentjwt.header(b), agentjwt.claims(b)),
        (agentjwt.header(b), agentjwt.claims(a)),
        (agentjwt.header(a), agentjwt.claims(b)),
        (agentjwt.header(a, kid=road.b.name), agentjwt.claims(b)),
        (agentjwt.header(a, kid=[a.cluster_id, b.cluster_id]), agentjwt.claims(b)),
        (agentjwt.header(a, kid=f"{a.cluster_id}\n{b.cluster_id}"), agentjwt.claims(b)),
        (agentjwt.header(b, jku="https://127.0.0.1/keys", x5u="https://127.0.0.1/x"), agentjwt.claims(b)),
        (
            agentjwt.header(b, jwk={"kty": "OKP", "crv": "Ed25519", "x": a.public_key()}),
            agentjwt.claims(b),
        ),
    ]:
        answer = agentjwt.handshake(client, agentjwt.sign(key, head, body))
        assert answer.status in (401, 403), (head, body, str(answer))
    assert road.server.api("GET", f"/clusters/{road.b.name}")["connected_at"] == before
    assert road.whoami(client, road.b, road.server.admin_token).status == 201


def test_the_key_of_one_cluster_gets_the_policy_of_no_other(road: Road, client: RawClient) -> None:
    a, b = stolen(road.a), stolen(road.b)
    key = agentjwt.private_key(a)

    def fetch(jwt: str, *more: tuple[bytes, bytes], path: str = "/api/v1/agents/policy") -> RawAnswer:
        return client.request("GET", path, bearer(jwt, *more))

    until("both are rendered", lambda: fetch(agentjwt.good(a)).status == fetch(agentjwt.good(b)).status == 200)
    own = fetch(agentjwt.good(a))
    assert a.cluster_id.encode() in own.body
    assert b.cluster_id.encode() not in own.body
    tag = (b"If-None-Match", own.get(b"etag") or b"")
    assert (fetch(agentjwt.good(a), tag).status, fetch(agentjwt.good(a), tag).body) == (304, b"")
    for head, body in [
        (agentjwt.header(b), agentjwt.claims(b)),
        (agentjwt.header(b), agentjwt.claims(a)),
        (agentjwt.header(a), agentjwt.claims(b)),
        (agentjwt.header(b, jwk={"kty": "OKP", "crv": "Ed25519", "x": a.public_key()}), agentjwt.claims(b)),
    ]:
        answer = fetch(agentjwt.sign(key, head, body))
        assert answer.status == 401, (head, body, str(answer))
    for path in (f"/api/v1/agents/policy?cluster={road.b.name}", f"/api/v1/agents/policy/{road.b.id}"):
        assert fetch(agentjwt.good(a), path=path).status in (404, 422)
    named = fetch(agentjwt.good(a), (b"X-Cluster", b.cluster_id.encode()), (b"Host", road.b.name.encode()))
    assert b.cluster_id.encode() not in named.body


def test_a_join_token_registers_one_key_for_one_cluster(road: Road) -> None:
    server = road.server
    a, b = stolen(road.a), stolen(road.b)
    a_uid, b_uid = kubernetes(road.a), kubernetes(road.b)
    spare = server.api("POST", "/clusters", {"name": "spare"})

    def attempt(token: str, key: str, uid: str) -> int:
        return refused(server, token, key, uid)

    for_a = server.api("POST", f"/clusters/{road.a.name}/join-tokens")["join_token"]
    for_spare = server.api("POST", "/clusters/spare/join-tokens")["join_token"]
    mine = Identity(key=new_key()).public_key()
    assert attempt(for_spare, mine, b_uid) == 409, "B's Kubernetes under another name"
    assert attempt(for_spare, b.public_key(), b_uid) == 409
    assert attempt(for_a, mine, b_uid) == 409, "A's name for B's Kubernetes"
    assert attempt(for_a, mine, "another-uid") == 409, "A's name for no known Kubernetes"
    assert attempt(for_spare, mine, "uid-of-spare") == 201
    assert attempt(for_spare, mine, "uid-of-spare") == 201, "the same agent, which lost the answer"
    assert attempt(for_spare, Identity(key=new_key()).public_key(), "uid-of-spare") == 401, "spent"
    assert attempt(for_spare, mine, b_uid) == 401, "spent"
    assert attempt(for_a.replace("mrj_", "mrg_"), mine, a_uid) == 401
    assert attempt(for_a[:-1] + ("a" if for_a[-1] != "a" else "b"), mine, a_uid) == 401
    for cluster, identity in ((road.a, a), (road.b, b)):
        with road.dial() as client:
            assert agentjwt.handshake(client, agentjwt.good(identity)).status == 101, f"{cluster.name} kept its key"
    server.api("DELETE", f"/clusters/{spare['id']}")


def refused(server: Server, token: str, key: str, uid: str) -> int:
    """The status of a registration, tried from an address of its own, as wrong tokens slow their address down."""
    with RawClient(server.address, server.port, server.ca, new_source()) as client:
        body = json.dumps(registration(token, key, uid)).encode()
        return client.request("POST", "/api/v1/agents/register", [(b"Content-Type", b"application/json")], body).status


def test_what_an_agent_says_is_about_its_own_cluster(road: Road, bob: Person, glass: Glass, client: RawClient) -> None:
    """It names B in its status, in its instance and in what it answers: B is served by B alone."""
    before = road.server.api("GET", f"/clusters/{road.b.name}")
    lie = {
        "kind": "status",
        "cluster": road.b.id,
        "cluster_id": road.b.id,
        "cluster_name": road.b.name,
        "kubernetes_version": "v0.0.1-forged",
        "node_count": 666,
        "conditions": [{"type": "Connected", "status": "False", "reason": "Forged"}],
    }

    async def say() -> None:
        for session in glass.sessions:
            session.message(lie)

    glass.run(say())
    until(
        "its own cluster shows the status",
        lambda: road.server.api("GET", f"/clusters/{glass.name}")["kubernetes_version"] == "v0.0.1-forged",
    )
    after = road.server.api("GET", f"/clusters/{road.b.name}")
    assert {k: after[k] for k in ("kubernetes_version", "node_count", "state", "connected_at")} == {
        k: before[k] for k in ("kubernetes_version", "node_count", "state", "connected_at")
    }
    own = road.server.api("GET", f"/clusters/{glass.name}")
    connected = [condition["status"] for condition in own["conditions"] if condition["type"] == "Connected"]
    assert (own["state"], connected) == ("connected", ["True"]), "nor may it say that it is not connected"
    glass.calls.clear()
    for _unused in range(20):
        assert road.whoami(client, road.b, road.server.admin_token).status == 201
    assert glass.calls == []


def gone(client: RawClient, identity: Identity, code: int) -> None:
    """The key is no good any more, and stays so, whoever answers."""
    until("the key is refused", lambda: agentjwt.handshake(client, agentjwt.good(identity)).status == code, 10)
    assert [agentjwt.handshake(client, agentjwt.good(identity)).status for _unused in range(10)] == [code] * 10


@pytest.fixture
def second(road: Road) -> Iterator[Glass]:
    it = Glass(road.server, "rekeyed")
    yield it
    it.close()


def test_sessions_of_an_old_key_end_when_a_new_one_is_registered(road: Road, second: Glass, client: RawClient) -> None:
    """Incident: nobody noticed when the sessions of a key that was replaced went on."""
    old = second.identity
    open_before = second.sessions
    assert open_before
    new = register(road.server, second.name, Identity(key=new_key()), f"uid-of-{second.name}")
    until("the old key's sessions are ended by the server", lambda: all(s.closed for s in open_before), 30)
    assert all("another key" in session.close_reason for session in open_before)
    second.calls.clear()
    for _unused in range(10):
        answer = client.request("GET", second.path("/version"), bearer(road.server.admin_token))
        assert answer.status == 503, str(answer)
    assert second.calls == []
    gone(client, old, 401)
    assert agentjwt.handshake(client, agentjwt.good(replace(old, key=new.key))).status == 101


def test_an_agent_of_a_cluster_that_was_deleted_does_not_come_back(road: Road, client: RawClient) -> None:
    it = Glass(road.server, "deleted")
    try:
        open_before = it.sessions
        road.server.api("DELETE", f"/clusters/{it.name}")
        until("its sessions are ended", lambda: all(session.closed for session in open_before), 30)
        gone(client, it.identity, 403)
        again = road.server.api("POST", "/clusters", {"name": it.name})
        jwt = agentjwt.good(replace(it.identity, cluster_id=again["id"]))
        assert agentjwt.handshake(client, jwt).status == 403, "nor as the cluster that has its name now"
        assert client.request("GET", it.path("/version"), bearer(road.server.admin_token)).status == 503
    finally:
        it.close()


def test_all_this_brought_nobody_into_b(road: Road, begin: int) -> None:
    """The last look of this file: what came through B's agent came as the administrator."""
    admin = road.server.api("GET", "/users/admin")
    known = ("mooring:admin", admin["uid"], ["mooring:admins", "system:authenticated"])
    assert strangers(road.seen_until(road.b, begin), known) == []
