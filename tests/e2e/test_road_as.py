# SPDX-License-Identifier: Apache-2.0
"""`kubectl --as` through the server does what it does straight to the cluster, and both audit logs name the real user.

Pilot is a user of the server, and with a client certificate the same user straight to the cluster (name and group; only
the uid differs). The cluster lets them impersonate a few things by name. Each case is asked on both ways; who the API
server then takes the caller for, or the refusal, must be the same.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.road import Kubectl, until

from .conftest import CLUSTER, Road

Headers = list[tuple[str, str]]
SELF = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
OURS = "mooring.fleet/"
ROBOT = "system:serviceaccount:crew:robot"


@dataclass
class Way:
    """One way to the API server, for raw calls and for kubectl."""

    url: str
    tls: ssl.SSLContext
    token: str
    kubectl: Kubectl

    def call(self, method: str, path: str, headers: Headers, body: Any = None) -> tuple[int, Any]:
        parts = urlsplit(self.url)
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=60, context=self.tls)
        data = b"" if body is None else json.dumps(body).encode()
        try:
            connection.putrequest(method, parts.path + path)
            for name, value in [*headers, ("Content-Type", "application/json"), ("Content-Length", str(len(data)))]:
                connection.putheader(name, value)
            if self.token:
                connection.putheader("Authorization", f"Bearer {self.token}")
            connection.endheaders(data)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def whoami(self, headers: Headers) -> tuple[int, Any]:
        """Who the API server says one is (without our extras), or its refusal."""
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        status, answer = self.call("POST", SELF, headers, review)
        if status != 201:
            return status, {key: answer.get(key) for key in ("kind", "reason", "code", "message", "details")}
        info = answer["status"]["userInfo"]
        extra = {key: value for key, value in info.get("extra", {}).items() if not key.startswith(OURS)}
        return status, {**info, "extra": extra}


@dataclass
class Ways:
    direct: Way
    through: Way


RULES = """
apiVersion: v1
kind: Namespace
metadata: {name: crew}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot, namespace: crew}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: chart, namespace: crew}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: pilot-acts}
rules:
  - {apiGroups: [""], resources: [users], resourceNames: [alice, "system:node:raft", "a&b"], verbs: [impersonate]}
  - {apiGroups: [""], resources: [groups], resourceNames: [sailors, "mooring:deck"], verbs: [impersonate]}
  - {apiGroups: [authentication.k8s.io], resources: [uids], resourceNames: ["7"], verbs: [impersonate]}
  - apiGroups: [authentication.k8s.io]
    resources: [userextras/scopes]
    resourceNames: [read, log]
    verbs: [impersonate]
  - {apiGroups: [authentication.k8s.io], resources: [userextras/example.com/ship], verbs: [impersonate]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: pilot-acts}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: pilot-acts}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "mooring:pilots"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: pilot-robots, namespace: crew}
rules: [{apiGroups: [""], resources: [serviceaccounts], resourceNames: [robot], verbs: [impersonate]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: pilot-robots, namespace: crew}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: pilot-robots}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "mooring:pilot"}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: alice-acts}
rules: [{apiGroups: [""], resources: [users], resourceNames: [nested], verbs: [impersonate]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: alice-acts}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: alice-acts}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: alice}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: sailors, namespace: crew}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: sailors}]
"""


def user(name: str) -> tuple[str, str]:
    return ("Impersonate-User", name)


def group(name: str) -> tuple[str, str]:
    return ("Impersonate-Group", name)


def uid(value: str) -> tuple[str, str]:
    return ("Impersonate-Uid", value)


def extra(key: str, value: str) -> tuple[str, str]:
    return (f"Impersonate-Extra-{key}", value)


@pytest.fixture(scope="module")
def ways(road: Road) -> Iterator[Ways]:
    """Pilot, on both ways, and what they may."""
    cluster, server = road.cluster, road.server
    road.direct("apply", "-f", "-", stdin=RULES)
    pilot = server.user("pilot", clusters=[CLUSTER], groups=["pilots"])
    kubeconfig = cluster.user_kubeconfig("pilot", "mooring:pilot", "mooring:pilots")
    tls = ssl.create_default_context(cafile=str(cluster.ca))
    folder = cluster.dir / "pki"
    tls.load_cert_chain(folder / "pilot.crt", folder / "pilot.key")
    to_server = ssl.create_default_context(cafile=str(server.ca))
    kubectl = road.bob.binary
    found = Ways(
        Way(cluster.server, tls, "", Kubectl(kubectl, Path(kubeconfig))),
        Way(f"{server.url}/k8s/clusters/{CLUSTER}", to_server, pilot.token, Kubectl(kubectl, pilot.kubeconfig)),
    )
    # RBAC arrives in the API server a moment after it was written. And an API server that has let somebody impersonate
    # once by the verb `impersonate` tells refusals by that verb, and not by the newer ones of KEP-5284.
    chart = "/api/v1/namespaces/crew/configmaps/chart"
    until("pilot may act as alice", lambda: found.direct.whoami([user("alice"), uid("7")])[0] == 201)
    until("pilot may act as the robot", lambda: found.direct.whoami([user(ROBOT)])[0] == 201)
    until("sailors may read", lambda: found.direct.call("GET", chart, [user("alice"), group("sailors")])[0] == 200)
    until("pilot may act as alice", lambda: found.through.whoami([user("alice")])[0] == 201)
    yield found
    road.direct("delete", "namespace", "crew", "--wait=false")
    road.direct("delete", "clusterrole,clusterrolebinding", "pilot-acts", "alice-acts")


ALLOWED: dict[str, Headers] = {
    "nobody": [],
    "a user": [user("alice")],
    "a user and a group": [user("alice"), group("sailors")],
    "groups, in their order": [user("alice"), group("sailors"), group("mooring:deck"), group("sailors")],
    "a uid": [user("alice"), uid("7")],
    "extras": [
        user("alice"),
        extra("Scopes", "read"),
        extra("scopes", "log"),
        extra("Example.com%2FShip", "any thing"),
    ],
    "everything": [user("alice"), uid("7"), group("sailors"), extra("scopes", "read")],
    "a name with a sign": [user("a&b")],
    "a node": [user("system:node:raft")],
    "a service account gets its groups": [user(ROBOT)],
    "a service account with other groups": [user(ROBOT), group("sailors")],
}
REFUSED: dict[str, Headers] = {
    "another user": [user("root")],
    "one of Kubernetes' own": [user("system:admin")],
    "another user of the server": [user("mooring:admin")],
    "whom alice may act as": [user("nested")],
    "oneself": [user("mooring:pilot")],
    "system:masters": [user("alice"), group("system:masters")],
    "one group of several": [user("alice"), group("sailors"), group("officers"), group("others")],
    "another uid": [user("alice"), uid("8")],
    "another value of an extra": [user("alice"), extra("scopes", "read"), extra("scopes", "write")],
    "another extra": [user("alice"), extra("rank", "captain")],
    "another service account": [user("system:serviceaccount:crew:default")],
    "the account in another namespace": [user("system:serviceaccount:bobs:robot")],
    "what is no account": [user("system:serviceaccount:crew:Robot")],
    "a name with signs": [user("<x>&\\y")],
}
PARTIAL: dict[str, Headers] = {
    "a group without a user": [group("sailors")],
    "a uid without a user": [uid("7")],
    "an extra without a user": [extra("scopes", "read")],
}


def test_who_the_api_server_takes_one_for_is_the_same(ways: Ways) -> None:
    for name, headers in ALLOWED.items():
        straight, through = ways.direct.whoami(headers), ways.through.whoami(headers)
        assert straight[0] == 201, (name, straight)
        if not headers:  # oneself: the certificate has a uid of its own, or none
            straight[1].pop("uid", None)
            through[1].pop("uid", None)
            straight[1]["extra"].pop("authentication.kubernetes.io/credential-id", None)
        assert through == straight, name


def test_refusals_are_the_same_to_the_letter(ways: Ways) -> None:
    for name, headers in REFUSED.items():
        straight, through = ways.direct.whoami(headers), ways.through.whoami(headers)
        assert straight[0] == 403, (name, straight)
        assert through == straight, name


def test_half_an_identity_is_a_bad_request_on_both_ways(ways: Ways) -> None:
    for name, headers in PARTIAL.items():
        straight, through = ways.direct.whoami(headers), ways.through.whoami(headers)
        assert straight[0] == through[0] == 400, (name, straight, through)
        assert straight[1]["reason"] == through[1]["reason"] == "BadRequest"
        assert "without impersonating a user" in straight[1]["message"]
        assert "without impersonating a user" in through[1]["message"]


def test_kubectl_says_the_same(road: Road, ways: Ways) -> None:
    sailor = ["--as=alice", "--as-group=sailors", "--as-uid=7", "--as-user-extra=scopes=read", "-n", "crew"]
    for words in (
        [*sailor, "get", "configmap", "chart", "-o", "name"],
        ["--as=alice", "-n", "crew", "get", "configmap", "chart"],  # alice without her group may not
        [f"--as={ROBOT}", "auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups}"],
        ["--as=alice", "--as-group=system:masters", "get", "nodes"],
        ["--as-group=sailors", "get", "nodes"],  # kubectl's own refusal
    ):
        straight = ways.direct.kubectl.run(*words, check=False)
        through = ways.through.kubectl.run(*words, check=False)
        said = through.stderr.replace(f"mooring-{CLUSTER}", road.cluster.name)  # what the kubeconfig calls the user
        assert (through.returncode, through.stdout) == (straight.returncode, straight.stdout), words
        assert said == straight.stderr, words


def test_system_masters_needs_a_right_like_any_other_group(road: Road, ways: Ways) -> None:
    words = ("--as=nobody", "--as-group=system:masters", "auth", "can-i", "*", "*")
    assert road.direct(*words) == road.admin(*words) == "yes\n"


def test_a_watch_and_an_exec_run_as_the_other(road: Road, ways: Ways, pod: str) -> None:
    rights = ("-n", "bobs", "create", "rolebinding", "sailors-here", "--clusterrole=edit", "--group=sailors")
    road.direct(*rights)
    as_sailor = ("--as=alice", "--as-group=sailors")
    kubectl = ways.through.kubectl
    until(
        "sailors may here",
        lambda: kubectl("auth", "can-i", "create", "pods/exec", "-n", "bobs", *as_sailor, check=False) == "yes\n",
    )
    assert kubectl("-n", "bobs", "exec", "-i", pod, "-c", "main", *as_sailor, "--", "cat", stdin="ahoy") == "ahoy"
    said = kubectl.refused("-n", "bobs", "exec", pod, "-c", "main", "--as=root", "--", "true")
    assert 'User "mooring:pilot" cannot impersonate resource "users"' in said
    watch = kubectl.start("-n", "crew", "get", "configmaps", "--watch", "-o", "name", *as_sailor)
    try:
        assert watch.stdout is not None
        assert watch.stdout.readline().startswith("configmap/")
    finally:
        watch.terminate()
        watch.communicate(timeout=30)
    event = road.cluster.wait_for_audit(
        lambda e: (
            e.get("objectRef", {}).get("subresource") == "exec"
            and e.get("impersonatedUser", {}).get("username") == "alice"
        ),
        30,
    )
    assert event["impersonatedUser"]["extra"]["mooring.fleet/original-user"] == ["mooring:pilot"]


def test_both_audit_logs_name_the_real_user(road: Road, ways: Ways) -> None:
    path = "/api/v1/namespaces/crew/configmaps/chart?audited=1"
    headers = [user("alice"), group("sailors"), uid("7"), extra("scopes", "read")]
    assert ways.through.call("GET", path, headers)[0] == 200
    event = road.cluster.wait_for_audit(lambda e: e["requestURI"] == path, 30)
    assert event["user"]["username"] == "system:serviceaccount:mooring-system:mooring-impersonator"
    acting = event["impersonatedUser"]
    assert (acting["username"], acting["uid"]) == ("alice", "7")
    assert acting["groups"] == ["sailors", "system:authenticated"]
    me = road.server.call("GET", "/api/v1/whoami", token=ways.through.token).json()
    assert acting["extra"].pop("scopes") == ["read"]
    request_id = acting["extra"].pop("mooring.fleet/request-id")[0]
    assert acting["extra"] == {
        "mooring.fleet/original-user": ["mooring:pilot"],
        "mooring.fleet/original-uid": [me["uid"]],
        "mooring.fleet/token-id": [ways.through.token.split("_")[1]],
    }
    line = until(
        "the line of our audit log",
        lambda: next((line for line in road.server.audit() if line["request_id"] == request_id), None),
    )
    assert (line["user"], line["uid"], line["code"]) == ("pilot", me["uid"], 200)
    asked = {"username": "alice", "uid": "7", "groups": ["sailors"], "extra": {"scopes": ["read"]}}
    assert line["impersonatedUser"] == asked
    review = road.cluster.wait_for_audit(
        lambda e: (
            e["requestURI"].endswith("/selfsubjectaccessreviews")
            and e.get("impersonatedUser", {}).get("username") == "mooring:pilot"
        ),
        30,
    )
    assert review["responseStatus"]["code"] == 201, "the cluster is asked in the real user's name"


def test_a_right_that_is_taken_away_or_given_counts_a_few_seconds_later(road: Road, ways: Ways) -> None:
    """No clock is read here: that it is 5 s at most is shown in tests/unit/service/agent/test_review.py."""
    wanted = [user(ROBOT)]
    assert ways.through.whoami(wanted)[0] == 201
    binding = road.direct("-n", "crew", "get", "rolebinding", "pilot-robots", "-o", "json")
    road.direct("-n", "crew", "delete", "rolebinding", "pilot-robots")
    until("the right is gone", lambda: ways.through.whoami(wanted)[0] == 403)
    given = json.loads(binding)
    given["metadata"] = {"name": "pilot-robots", "namespace": "crew"}
    road.direct("create", "-f", "-", stdin=json.dumps(given))
    until("the right is back", lambda: ways.through.whoami(wanted)[0] == 201)


def test_a_client_cannot_forge_who_it_really_is(road: Road, ways: Ways) -> None:
    """Not even one that may impersonate everybody."""
    admin = Way(ways.through.url, ways.through.tls, road.server.admin_token, road.admin)
    for key in ("mooring.fleet%2Foriginal-user", "mooring%2efleet%2ftoken-id", "%4dooring.fleet%2frequest-id"):
        status, answer = admin.whoami([user("alice"), extra(key, "mooring:bob")])
        assert status == 403, (key, answer)
        assert "set by the server only" in answer["message"]
    status, answer = admin.call(
        "POST",
        SELF,
        [user("alice"), ("X-Mooring-As-User", "root")],
        {"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"},
    )
    assert (status, answer["status"]["userInfo"]["username"]) == (201, "alice")
