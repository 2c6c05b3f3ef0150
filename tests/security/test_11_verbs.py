# SPDX-License-Identifier: Apache-2.0
"""Attack class 11: a verb that hides. Every Kubernetes verb and subresource, mapped rightly in audit and policy.

What our audit calls a request is compared with what the API server's own audit calls the very same request: an `exec`
that reads as `get pods`, or a deletion of everything that reads as `delete`, would not be found by whoever looks for
it. And the rights that lead to all others (`exec`, `nodes/proxy`, `escalate`, `bind`, `impersonate`) stay the
cluster's to give, by whichever method and upgrade they are asked for. Guard: `proxy/requestinfo.py`; and that every
request runs as its user (`proxy/impersonate.py`).
"""

from __future__ import annotations

import json
from typing import Any

from support.rawhttp import Headers, RawClient, bearer
from support.road import until

from .conftest import Person, Road

NS = "/api/v1/namespaces/default"
WEBSOCKET: Headers = (
    (b"Connection", b"Upgrade"),
    (b"Upgrade", b"websocket"),
    (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    (b"Sec-WebSocket-Version", b"13"),
    (b"Sec-WebSocket-Protocol", b"v5.channel.k8s.io"),
)
SPDY: Headers = (
    (b"Connection", b"Upgrade"),
    (b"Upgrade", b"SPDY/3.1"),
    (b"X-Stream-Protocol-Version", b"v4.channel.k8s.io"),
)
REQUESTS: list[tuple[str, str]] = [
    *[
        ("GET", path)
        for path in (
            "/api/v1/pods",
            "/api/v1/pods?watch=1",
            "/api/v1/pods?watch=true&fieldSelector=metadata.name%3Dx",
            "/api/v1/pods?watch=0",
            "/api/v1/pods?watch",
            "/api/v1/pods?watch=False",
            "/api/v1/watch/pods",
            "/api/v1/watch/namespaces/default/pods/x",
            f"{NS}/pods/x",
            f"{NS}/pods/x?watch=1",
            f"{NS}/pods/x/log?follow=true",
            f"{NS}/pods?fieldSelector=metadata.name=x",
            NS,
            f"{NS}/secrets",
            f"{NS}/secrets/x",
            "/api/v1/nodes/n/proxy/pods",
            "/api/v1/nodes/n/proxy",
            f"{NS}/pods/x/proxy/a/b",
            f"{NS}/services/s:80/proxy/a",
            f"{NS}/pods/x/portforward?ports=1",
            f"{NS}/pods/x/exec?command=id",
            f"{NS}/pods/x/attach",
            "/apis/apps/v1/deployments",
            "/apis/apps/v1/namespaces/default/deployments/d/scale",
            "/api/v1/nodes/n/metrics",
            "/metrics",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/r",
            f"{NS}/%70ods/x",
            f"{NS}/pods/x%2fy",
            "/api/v1//pods",
            "/logs/x",
            "/api/v1/componentstatuses/x",
            "/apis/metrics.k8s.io/v1beta1/pods",
            f"{NS}/pods/x/status",
        )
    ],
    *[("HEAD", path) for path in (f"{NS}/pods", f"{NS}/pods/x", "/metrics")],
    *[
        ("POST", path)
        for path in (
            f"{NS}/pods",
            f"{NS}/pods/x/exec?command=id",
            f"{NS}/pods/x/attach?stdin=1",
            f"{NS}/pods/x/portforward",
            f"{NS}/pods/x/eviction",
            f"{NS}/pods/x/binding",
            f"{NS}/serviceaccounts/default/token",
            "/api/v1/nodes/n/proxy/run/x",
            f"{NS}/pods/x/proxy/a",
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            "/apis/certificates.k8s.io/v1/certificatesigningrequests",
            "/api/v1/namespaces",
            f"{NS}/services/s/proxy/x",
            "/metrics",
        )
    ],
    *[
        ("PUT", path)
        for path in (
            f"{NS}/pods/x",
            f"{NS}/pods/x/status",
            f"{NS}/finalize",
            f"{NS}/status",
            "/apis/certificates.k8s.io/v1/certificatesigningrequests/c/approval",
            f"{NS}/pods/x/ephemeralcontainers",
            "/api/v1/nodes/n/proxy/x",
        )
    ],
    *[
        ("PATCH", path)
        for path in (
            f"{NS}/pods/x",
            f"{NS}/pods/x/ephemeralcontainers",
            f"{NS}/pods/x/resize",
            f"{NS}/configmaps/x",
            "/api/v1/nodes/n/status",
            "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles/r",
        )
    ],
    *[
        ("DELETE", path)
        for path in (
            f"{NS}/pods",
            f"{NS}/pods/x",
            f"{NS}/pods?labelSelector=a",
            NS,
            "/api/v1/nodes/n",
            "/api/v1/nodes",
            "/api/v1/nodes/n/proxy/x",
            f"{NS}/configmaps?fieldSelector=metadata.name%3Dx",
        )
    ],
]
UPGRADES: list[tuple[str, str, Headers]] = [
    *[("GET", f"{NS}/pods/x/{what}?command=id", WEBSOCKET) for what in ("exec", "attach", "portforward")],
    *[("POST", f"{NS}/pods/x/{what}?command=id", SPDY) for what in ("exec", "attach", "portforward")],
    ("GET", f"{NS}/pods/x/proxy/a", WEBSOCKET),
    ("GET", "/api/v1/nodes/n/proxy/exec/default/x/c?command=id", WEBSOCKET),
    ("GET", "/api/v1/pods?watch=1", WEBSOCKET),
]


def named(event: dict[str, Any]) -> tuple[str, ...]:
    """An API server's audit event in the terms of ours."""
    what = event.get("objectRef", {})
    return (
        event["verb"],
        what.get("apiGroup", ""),
        what.get("apiVersion", ""),
        what.get("resource", ""),
        what.get("subresource", ""),
        what.get("namespace", ""),
        what.get("name", ""),
    )


def ours(record: dict[str, Any]) -> tuple[str, ...]:
    keys = ("verb", "api_group", "api_version", "resource", "subresource", "namespace", "name")
    return tuple(str(record.get(key) or "") for key in keys)


def test_the_audit_names_every_request_as_the_cluster_does(road: Road, client: RawClient) -> None:
    nobody = road.person("verbless", clusters=[road.a])
    begin = road.a.position()
    asked: dict[str, tuple[str, str]] = {}
    for method, path, more in [*((method, path, ()) for method, path in REQUESTS), *UPGRADES]:
        answer = client.request(method, road.a.path(path), bearer(nobody.token, *more))
        # Every one is Kubernetes' to refuse: this person may nothing there.
        assert answer.status == 403, (method, path, str(answer))
        request_id = answer.get(b"x-request-id")
        assert request_id is not None
        asked[request_id.decode()] = (method, path)
    events = {}
    for event in road.seen_until(road.a, begin):
        extra = event.get("impersonatedUser", {}).get("extra", {})
        for request_id in extra.get("mooring.fleet/request-id", ()):
            events[request_id] = event
    assert set(asked) <= set(events), [asked[i] for i in set(asked) - set(events)]

    def written() -> dict[str, dict[str, Any]]:
        records = {record["request_id"]: record for record in road.server.audit()}
        return records if set(asked) <= set(records) else {}

    records = until("the server's audit log is written", written)
    for request_id, (method, path) in asked.items():
        event, record = events[request_id], records[request_id]
        assert ours(record) == named(event), (method, path)
        assert record["resource_request"] is ("objectRef" in event), (method, path)
        assert (record["user"], record["code"]) == ("verbless", 403), (method, path)


def test_rights_that_lead_to_others_are_the_clusters_to_give(road: Road, client: RawClient, bob: Person) -> None:
    """Bob may write roles and bindings in a namespace of his: neither escalate nor bind, nor what he lacks himself."""
    direct = road.a.direct
    direct("create", "namespace", "bobs-verbs")
    verbs = "--verb=get,list,create,update,patch,delete"
    direct(
        "-n",
        "bobs-verbs",
        "create",
        "role",
        "role-writer",
        verbs,
        "--resource=roles.rbac.authorization.k8s.io,rolebindings.rbac.authorization.k8s.io",
    )
    direct("-n", "bobs-verbs", "create", "rolebinding", "bob", "--role=role-writer", "--user=mooring:bob")
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    more = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
    own = {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["get"]}
    subject = {"kind": "User", "name": "mooring:bob", "apiGroup": "rbac.authorization.k8s.io"}

    def role(rule: dict[str, Any]) -> dict[str, Any]:
        return {"metadata": {"name": "made"}, "rules": [rule]}

    def binding(kind: str, name: str) -> dict[str, Any]:
        ref = {"kind": kind, "name": name, "apiGroup": "rbac.authorization.k8s.io"}
        return {"metadata": {"name": f"to-{name}"}, "roleRef": ref, "subjects": [subject]}

    def ask(path: str, body: dict[str, Any], method: str = "POST", kind: bytes = b"application/json") -> int:
        headers = bearer(bob.token, (b"Content-Type", kind))
        return client.request(method, road.a.path(path), headers, json.dumps(body).encode()).status

    namespaced = f"{rbac}/namespaces/bobs-verbs"
    assert ask(f"{namespaced}/roles", role(own)) == 201, "what he holds he may give"
    merge = b"application/merge-patch+json"
    refused = {
        "escalate by create": ask(f"{namespaced}/roles", {**role(more), "metadata": {"name": "more"}}),
        "escalate by patch": ask(f"{namespaced}/roles/made", {"rules": [more]}, "PATCH", merge),
        "escalate by update": ask(f"{namespaced}/roles/made", role(more), "PUT"),
        "bind cluster-admin": ask(f"{namespaced}/rolebindings", binding("ClusterRole", "cluster-admin")),
        "bind for the cluster": ask(f"{rbac}/clusterrolebindings", binding("ClusterRole", "view")),
        "impersonate": ask(
            f"{rbac}/clusterroles",
            {"metadata": {"name": "as"}, "rules": [{**more, "resources": ["users"], "verbs": ["impersonate"]}]},
        ),
        "token of the impersonator": ask(
            "/api/v1/namespaces/mooring-system/serviceaccounts/mooring-impersonator/token", {}
        ),
        "secrets of the agent": client.request(
            "GET", road.a.path("/api/v1/namespaces/mooring-system/secrets"), bearer(bob.token)
        ).status,
    }
    assert refused == dict.fromkeys(refused, 403)
