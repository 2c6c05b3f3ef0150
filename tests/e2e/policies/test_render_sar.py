# SPDX-License-Identifier: Apache-2.0
"""What is rendered, asked of the API server's own authoriser: it allows what the model gives, and nothing else.

Policies at random follow one another in one cluster, each by the steps that an agent takes, so that what is left over
from the one before would be seen as well.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from mooring.kube.transition import steps
from mooring.policy.render import ClusterFacts, render
from mooring.store.policies import Policy
from support import rbac
from support.road import until
from testbed import ControlPlane, Run

POLICIES = 10
QUESTIONS = 40
CLUSTER = ClusterFacts(rbac.HOME, "home", "uid-1", rbac.LABELS[rbac.HOME])
RBAC = "rbac.authorization.k8s.io/v1"
PATHS = {
    "ClusterRole": f"/apis/{RBAC}/clusterroles",
    "ClusterRoleBinding": f"/apis/{RBAC}/clusterrolebindings",
    "RoleBinding": f"/apis/{RBAC}/namespaces/%s/rolebindings",
    "ResourceQuota": "/api/v1/namespaces/%s/resourcequotas",
    "LimitRange": "/api/v1/namespaces/%s/limitranges",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/%s/networkpolicies",
}


class Api:
    """The API server as its administrator, over one connection."""

    def __init__(self, plane: ControlPlane) -> None:
        where = urlsplit(plane.server)
        self._connection = http.client.HTTPSConnection(
            where.hostname or "", where.port, timeout=30, context=plane.ssl_context()
        )
        self.have: list[dict[str, Any]] = []
        self.allowed = 0  # how often the answer was yes
        self._count = itertools.count()

    def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        self._connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": kind})
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status in (200, 201), (method, path, body, text)
        return json.loads(text)

    def apply(self, item: dict[str, Any]) -> None:
        self.ask("PATCH", f"{path_of(item)}?fieldManager=test&force=true", item, "application/apply-patch+yaml")

    def become(self, want: list[dict[str, Any]]) -> None:
        """Go to these objects by the steps of an agent, and wait until the authoriser has seen the last of them."""
        for action, item in steps(self.have, want):
            if action == "apply":
                self.apply(item)
            else:
                self.ask("DELETE", path_of(item))
        self.have = want
        mark = f"mark-{next(self._count)}"
        rule = {"apiGroups": ["marks"], "resources": ["marks"], "verbs": ["get"]}
        self.apply({"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": mark}, "rules": [rule]})
        for kind, meta in (("ClusterRoleBinding", {}), ("RoleBinding", {"namespace": rbac.SPACES[0]})):
            self.apply(
                {
                    "apiVersion": RBAC,
                    "kind": kind,
                    "metadata": {"name": mark, **meta},
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": mark},
                    "subjects": [{"kind": "User", "name": f"{mark}-{kind}"}],
                }
            )
            asked = rbac.Question("get", "marks", "marks", namespace=rbac.SPACES[0])
            until("the mark is seen", partial(self.review, f"{mark}-{kind}", (), asked), 15)

    def review(self, user: str, groups: tuple[str, ...], asked: rbac.Question) -> bool:
        spec: dict[str, Any] = {"user": user, "groups": list(groups)}
        if asked.path:
            spec["nonResourceAttributes"] = {"verb": asked.verb, "path": asked.path}
        else:
            fields = ("verb", "group", "resource", "subresource", "name", "namespace")
            spec["resourceAttributes"] = {name: getattr(asked, name) for name in fields if getattr(asked, name)}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        return bool(self.ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)["status"]["allowed"])

    def allows(self, who: rbac.Asker, asked: rbac.Question) -> bool:
        if who.kind == "serviceaccount":
            return self.review(f"system:serviceaccount:{who.namespace}:{who.name}", (), asked)
        return self.review(rbac.PREFIX + who.name, tuple(rbac.PREFIX + group for group in who.groups), asked)


def path_of(item: dict[str, Any]) -> str:
    path = PATHS[item["kind"]]
    if "%s" in path:
        path %= item["metadata"]["namespace"]
    return f"{path}/{item['metadata']['name']}"


@pytest.fixture(scope="module")
def api(testbed_run: Run) -> Iterator[Api]:
    with ControlPlane("sar", run=testbed_run) as plane:
        it = Api(plane)
        for name in rbac.SPACES:
            it.ask("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for name, rules in rbac.EXTERNAL.items():
            body = {"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": name}}
            it.apply({**body, "rules": [{k: list(v) for k, v in rbac.spelled(rule).items() if v} for rule in rules]})
        yield it


# One run of random policies, not a search: what fails is asked again by the unit tests, where it can be shrunk.
@settings(
    max_examples=POLICIES,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(rbac.policies())
def test_the_authoriser_allows_what_the_model_gives(api: Api, policy: Policy) -> None:
    api.become(list(render(policy, CLUSTER, prefix=rbac.PREFIX, now=rbac.NOW).objects))
    pairs = list(itertools.product(rbac.all_askers(), rbac.all_questions()))
    given_ = [pair for pair in pairs if rbac.model_allows(policy, CLUSTER.id, *pair)]
    denied = [pair for pair in pairs if pair not in given_]
    chance = random.Random(len(given_))
    for some in (given_, denied):
        for who, asked in chance.sample(some, min(len(some), QUESTIONS // 2)):
            assert api.allows(who, asked) == (some is given_), (who, asked)
            api.allowed += some is given_


def test_it_was_asked_for_rights_that_are_there(api: Api) -> None:
    assert api.allowed >= 50  # else the policies above give too little to say anything
