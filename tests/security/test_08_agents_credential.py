# SPDX-License-Identifier: Apache-2.0
"""Attack class 8: an agent's credentials tried on every path of the REST API, on the proxy, and in its own cluster.

An agent is known at `/tunnel/connect` and, for what is its own, at `/api/v1/agents/policy`, `endpoint` and `audit`, and
nowhere else: it reads no cluster, not even its own, and lists nothing.
Guards: `authn/tokens.py` and `authn/index.py` (only `mrg_` tokens of users are bearers), `api/access.py` (each route
says who may call it), `proxy/chain.py` (`authenticate`), `kube/rights.py` (what its service accounts may do).
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from support import agentjwt
from support.glass import Glass
from support.rawhttp import RawClient

from .conftest import Cluster, Road, new_source
from .test_05_agent_of_another import stolen

METHODS = ("get", "post", "put", "patch", "delete")
PUBLIC = {("post", "/api/v1/login"), ("post", "/api/v1/agents/register")}
AUDIT = "/api/v1/agents/audit"
JOURNAL = ((b"Mooring-Journal", b"a-aaaaaaaaaaaa"), (b"Mooring-Offset", b"0"))
OWN = {("get", "/api/v1/agents/policy"), ("post", "/api/v1/agents/endpoint"), ("post", AUDIT)}
"""Where the JWT of an agent is taken, once (classes 5, 7 and 21 attack it)."""


def credentials(road: Road, glass: Glass) -> dict[str, str]:
    """What an agent of A has, or may ask its API server for; and an agent's JWT that the server would take."""
    account = ("create", "token", "--namespace", "mooring-system", "--duration", "1h")
    join = road.a.direct.json("-n", "mooring-system", "get", "secret", "mooring-join")["data"]["join_token"]
    return {
        "its JWT": agentjwt.good(stolen(road.a)),
        "a JWT of another agent": agentjwt.good(glass.identity),
        "its join token": base64.b64decode(join).decode(),
        "a fresh join token": road.server.api("POST", f"/clusters/{road.a.name}/join-tokens")["join_token"],
        "its service account": road.a.direct(*account, "mooring-agent").strip(),
        "the impersonator's service account": road.a.direct(*account, "mooring-impersonator").strip(),
        "its public key": stolen(road.a).public_key(),
    }


def operations(road: Road) -> list[tuple[str, str]]:
    """Each operation of the OpenAPI document, with the names of A where a path wants one."""
    document = road.server.call("GET", "/schema/openapi.json")
    assert document.status == 200
    found = []
    for path, item in document.json()["paths"].items():
        for method in METHODS:
            if method in item:
                found.append((method, re.sub(r"\{[^}]*\}", road.a.name, path)))
    assert len(found) > 30
    return found


def test_no_credential_of_an_agent_opens_any_path(road: Road, glass: Glass, client: RawClient) -> None:
    own = [
        "/metrics",
        road.a.path("/version"),
        road.b.path("/version"),
        glass.path("/version"),
        road.a.path("/api/v1/nodes"),
    ]
    paths = [*operations(road), *(("get", path) for path in own)]
    begin = road.a.position()
    for what, secret in credentials(road, glass).items():
        for method, path in paths:
            if (method, path) in OWN and "JWT" in what:
                continue
            for scheme in (b"Bearer ", b"bearer "):
                kind = b"application/x-ndjson" if path == AUDIT else b"application/json"
                headers = [(b"Authorization", scheme + secret.encode()), (b"Content-Type", kind)]
                headers += JOURNAL if path == AUDIT else ()
                answer = client.request(method.upper(), path, headers, b"{}" if method != "get" else b"")
                wanted = (400, 422) if (method, path) in PUBLIC else (401,)
                assert answer.status in wanted, (what, method, path, str(answer))
                assert road.a.id.encode() not in answer.body, (what, method, path)
    through = [e for e in road.seen_until(road.a, begin) if "impersonatedUser" in e]
    assert through == []


def test_registering_takes_a_join_token_and_nothing_else(road: Road, glass: Glass) -> None:
    uid = "uid-of-nobody"
    for what, secret in credentials(road, glass).items():
        if "join token" in what:
            continue  # class 5 tries those
        body = {"join_token": secret, "public_key": glass.identity.public_key(), "cluster_uid": uid}
        with road.dial(new_source()) as client:
            data = json.dumps(body).encode()
            answer = client.request("POST", "/api/v1/agents/register", [(b"Content-Type", b"application/json")], data)
        assert answer.status in (401, 422), (what, str(answer))


def allowed(cluster: Cluster, account: str, asked: list[dict[str, str]]) -> list[dict[str, str]]:
    """Which of these the cluster's RBAC lets a service account of the agent do."""
    spec = {
        "user": f"system:serviceaccount:mooring-system:{account}",
        "groups": ["system:serviceaccounts", "system:serviceaccounts:mooring-system", "system:authenticated"],
    }
    reviews: list[dict[str, Any]] = [
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {**spec, "resourceAttributes": attributes},
        }
        for attributes in asked
    ]
    stdin = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
    form = 'jsonpath={.status.allowed}{"\\n"}'  # a line for each
    answers = cluster.direct("create", "-f", "-", "-o", form, stdin=stdin).split()
    assert set(answers) <= {"true", "false"}
    return [attributes for attributes, answer in zip(asked, answers, strict=True) if answer == "true"]


def test_in_its_cluster_it_reads_its_own_secrets_and_no_list_of_them(road: Road) -> None:
    home = {"namespace": "mooring-system"}
    own = {"verb": "get", "resource": "secrets", "name": "mooring-agent-identity", **home}
    others: list[dict[str, str]] = [
        {"verb": "list", "resource": "secrets", **home},
        {"verb": "watch", "resource": "secrets", **home},
        {"verb": "get", "resource": "secrets", **home, "name": "other"},
        {"verb": "get", "resource": "secrets", "namespace": "kube-system"},
        {"verb": "create", "resource": "pods", **home},
        {"verb": "create", "resource": "serviceaccounts", **home, "subresource": "token", "name": "mooring-agent"},
        {"verb": "impersonate", "resource": "users"},
        {"verb": "*", "resource": "*"},
    ]
    assert allowed(road.a, "mooring-agent", [own, *others]) == [own]


def test_the_impersonator_can_do_nothing_by_itself(road: Road) -> None:
    """A request that lost its identity headers on the way comes to nothing."""
    accounts = {"verb": "impersonate", "resource": "serviceaccounts", "namespace": "kube-system"}
    own = [{"verb": "impersonate", "resource": "users"}, accounts]
    others = [
        {"verb": verb, "resource": resource, "namespace": "default"}
        for verb, resource in [("get", "pods"), ("list", "secrets"), ("create", "pods"), ("get", "nodes"), ("*", "*")]
    ]
    others += [{"verb": "impersonate", "resource": "pods", "namespace": "kube-system"}]
    assert allowed(road.a, "mooring-impersonator", [*own, *others]) == own
