# SPDX-License-Identifier: Apache-2.0
"""Rules are compared as the API server compares them: it is asked the same question.

Users hold rules made at random and try to write ClusterRoles made at random (as a dry run). Kubernetes refuses a role
that gives what its author does not hold; `mooring.policy.rules.uncovered` has to say the same of each.
"""

from __future__ import annotations

import http.client
import json
import random
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
from mooring.policy import rules
from mooring.store.policies import Rule
from support.road import until
from testbed import ControlPlane, Run

AUTHORS = 60
ROLES = 8
RBAC = "rbac.authorization.k8s.io"
PATH = f"/apis/{RBAC}/v1"
WRITER = Rule(verbs=("create",), api_groups=(RBAC,), resources=("clusterroles",))

VERBS = ("get", "list", "*")
GROUPS = ("one.test", "two.test", "*")
RESOURCES = ("a", "b", "a/x", "b/x", "a/y", "*/x", "*")
NAMES = ("n", "m", "o")
URLS = ("/t", "/t/u", "/t/*", "/t*", "/t/u/*", "*")


class Api:
    """The API server, as its administrator or as somebody else."""

    def __init__(self, plane: ControlPlane) -> None:
        where = urlsplit(plane.server)
        self._connection = http.client.HTTPSConnection(
            where.hostname or "", where.port, timeout=30, context=plane.ssl_context()
        )

    def ask(self, method: str, path: str, body: Any, user: str = "") -> tuple[int, Any]:
        headers = {"Content-Type": "application/json"} | ({"Impersonate-User": user} if user else {})
        self._connection.request(method, path, json.dumps(body), headers)
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def hold(self, user: str, held: tuple[Rule, ...]) -> None:
        ref = {"apiGroup": RBAC, "kind": "ClusterRole", "name": user}
        bound = {"roleRef": ref, "subjects": [{"kind": "User", "apiGroup": RBAC, "name": user}]}
        for kind, body in (
            ("ClusterRole", {"rules": [spelled(rule) for rule in (*held, WRITER)]}),
            ("ClusterRoleBinding", bound),
        ):
            item = {"apiVersion": f"{RBAC}/v1", "kind": kind, "metadata": {"name": user}, **body}
            status, answer = self.ask("POST", f"{PATH}/{kind.lower()}s", item)
            assert status == 201, answer

    def accepts(self, user: str, wanted: tuple[Rule, ...]) -> bool:
        body = {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "wanted"},
            "rules": [spelled(rule) for rule in wanted],
        }
        status, answer = self.ask("POST", f"{PATH}/clusterroles?dryRun=All", body, user)
        assert status in (201, 403), answer
        return status == 201


def spelled(rule: Rule) -> dict[str, list[str]]:
    parts = {
        "verbs": rule.verbs,
        "apiGroups": rule.api_groups,
        "resources": rule.resources,
        "resourceNames": rule.resource_names,
        "nonResourceURLs": rule.non_resource_urls,
    }
    return {name: list(values) for name, values in parts.items() if values}


def some_rule(chance: random.Random) -> Rule:
    def some(values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(chance.sample(values, chance.choice((1, 1, 2))))

    if chance.random() < 0.25:
        return Rule(verbs=some(VERBS), non_resource_urls=some(URLS))
    names = some(NAMES) if chance.random() < 0.3 else ()
    return Rule(verbs=some(VERBS), api_groups=some(GROUPS), resources=some(RESOURCES), resource_names=names)


def some_rules(chance: random.Random, most: int) -> tuple[Rule, ...]:
    return tuple(some_rule(chance) for _number in range(chance.randint(1, most)))


def narrowed(chance: random.Random, held: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """Rules near to what is held, so that many of them are."""
    rule = chance.choice(held)
    one = Rule(
        verbs=(chance.choice((*rule.verbs, "get")),),
        api_groups=tuple(rule.api_groups[:1]),
        resources=tuple(
            chance.choice((entry, "a/x" if entry in ("*", "*/x") else entry)) for entry in rule.resources[:1]
        ),
        resource_names=rule.resource_names or (chance.choice(((), ("n",))) if rule.resources else ()),
        non_resource_urls=tuple(chance.choice((url, url.replace("*", "u"))) for url in rule.non_resource_urls[:1]),
    )
    if one.non_resource_urls and not one.non_resource_urls[0].startswith(("/", "*")):
        return held
    return (one,)


@pytest.fixture(scope="module")
def api(testbed_run: Run) -> Iterator[Api]:
    with ControlPlane("covers", run=testbed_run) as plane:
        yield Api(plane)


def test_the_api_server_refuses_the_roles_that_we_refuse_and_no_other(api: Api) -> None:
    chance = random.Random(36)
    authors = {f"author-{number}": some_rules(chance, 4) for number in range(AUTHORS)}
    for user, held in authors.items():
        api.hold(user, held)
    # Objects are seen in the order in which they were written: when the last author may write, all may.
    last = Rule(verbs=("get",), api_groups=("marks.test",), resources=("marks",))
    api.hold("last", (last,))
    until("the last author is known", partial(api.accepts, "last", (last,)), 15)

    seen = {True: 0, False: 0}
    for user, held in authors.items():
        for number in range(ROLES):
            wanted = narrowed(chance, held) if number % 2 else some_rules(chance, 2)
            lacking = rules.uncovered((*held, WRITER), wanted)
            assert api.accepts(user, wanted) is (lacking is None), (held, wanted, lacking)
            seen[lacking is None] += 1
    assert min(seen.values()) >= 50, seen  # else it says too little
