# SPDX-License-Identifier: Apache-2.0
"""How soon a right that is taken away is gone on the direct road.

With the server: at most 2 s from the click, for a token in constant use too, since kube-api-auth is asked about each
request and not only when the API server's caches of tokens have run out. Without the guard those caches count: 10 s.
Without the server: when the token ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from support.directbed import Direct, issue, refused_after
from support.road import until

from .conftest import CLUSTER, Harbour

BOUND = 2.0  # seconds from the click to the first refused call
ALLOWANCE = 1.0  # what a machine that runs other tests beside may add
CACHE = 10.0  # seconds for which an API server keeps a token that was good, whatever its flags say
SHORT = 60  # seconds: the shortest life that a token may have


def end_of(harbour: Harbour, caller: Direct, click: Callable[[], object], bound: float = BOUND) -> float:
    """The seconds from the click to the last call that was let in, with calls all the time before and after."""
    end = time.monotonic() + 1
    while time.monotonic() < end:
        assert caller.status() == 200
    begun = time.monotonic()
    click()
    took = refused_after(caller, begun, 30)
    print(f"last call let in {took:.2f} s after the click")
    assert took <= bound + ALLOWANCE
    return took


@pytest.fixture
def sailor(whole: Harbour, request: pytest.FixtureRequest) -> Iterator[str]:
    """A user who may read config maps everywhere; gone afterwards."""
    name = f"sailor{time.monotonic_ns() % 10**9}"
    whole.user(name, ("crew",))
    whole.bind("cluster", name, "cluster-viewer", name, cluster=CLUSTER)
    whole.settled()
    yield name
    whole.server.call("DELETE", f"/api/v1/users/{name}", token=whole.server.admin_token)


@pytest.mark.nodes
@pytest.mark.timeout(300)
def test_a_revoked_token_in_constant_use_is_refused_within_two_seconds(whole: Harbour, sailor: str) -> None:
    took = []
    other = whole.issue(sailor)
    for _unused in range(3):
        caller = whole.issue(sailor)
        took.append(end_of(whole, caller, lambda: whole.server.api("DELETE", f"/tokens/{caller.id}")))  # noqa: B023
    print("revoked:", [round(seconds, 2) for seconds in took])
    assert other.status() == 200, "a token of the same user that nobody revoked"


@pytest.mark.nodes
@pytest.mark.timeout(300)
def test_a_disabled_user_and_one_who_may_not_enter_any_more_are_refused_within_two_seconds(
    whole: Harbour, sailor: str
) -> None:
    caller = whole.issue(sailor)
    end_of(whole, caller, lambda: whole.server.api("DELETE", f"/cluster-bindings/{sailor}"))
    whole.bind("cluster", sailor, "cluster-viewer", sailor, cluster=CLUSTER)
    whole.settled()
    caller = whole.issue(sailor)
    end_of(whole, caller, lambda: whole.server.api("PATCH", f"/users/{sailor}", {"enabled": False}))


@pytest.mark.nodes
@pytest.mark.timeout(300)
def test_a_group_that_somebody_leaves_gives_nothing_any_more(whole: Harbour, sailor: str) -> None:
    whole.admin("create", "clusterrolebinding", f"{sailor}-crew", "--clusterrole=cluster-admin", "--group=mooring:crew")
    try:
        caller = whole.issue(sailor)
        secrets = "/api/v1/namespaces/default/secrets"
        until("the group counts", lambda: caller.status(secrets) == 200, 15)
        whole.server.api("PATCH", "/groups/crew", {"remove_members": [sailor]})
        begun = time.monotonic()
        took = refused_after(caller, begun, 30, secrets)
        print(f"group gone after {took:.2f} s")
        assert took <= BOUND + ALLOWANCE
        # The API server's cache of tokens has the groups of then: until it forgets them, the token opens nothing.
        until("what is the user's own is there again", lambda: caller.status() == 200, CACHE + BOUND + ALLOWANCE)
    finally:
        whole.admin("delete", "clusterrolebinding", f"{sailor}-crew")


@pytest.mark.nodes
@pytest.mark.timeout(300)
def test_without_the_server_a_token_ends_when_it_says(whole: Harbour, sailor: str) -> None:
    begun = time.time()
    short, long = whole.issue(sailor, ttl=SHORT), whole.issue(sailor)
    whole.cut()
    until("it is refused", lambda: short.status() == 401, SHORT + 15)
    took = time.time() - begun
    print(f"a token of {SHORT} s was refused after {took:.1f} s")
    assert SHORT - 1 <= took <= SHORT + BOUND + ALLOWANCE
    assert long.status() == 200
    # What was revoked meanwhile is known when the server is back.
    whole.whole()
    end_of(whole, long, lambda: whole.server.api("DELETE", f"/tokens/{long.id}"))


@pytest.mark.nodes
@pytest.mark.timeout(300)
def test_without_the_guard_the_api_servers_cache_is_the_bound(whole: Harbour, sailor: str) -> None:
    args = whole.plane.api_args
    guard = [argument for argument in args if argument.startswith("--authorization-config=")]
    whole.plane.kill_api()
    whole.plane.api_args = [argument for argument in args if argument not in guard]
    whole.plane.start_api()
    try:
        until("the cluster is connected", whole.connected, 30)
        caller = whole.issue(sailor)
        end_of(whole, caller, lambda: whole.server.api("DELETE", f"/tokens/{caller.id}"), CACHE + BOUND)
    finally:
        whole.plane.kill_api()
        whole.plane.api_args = args
        whole.plane.start_api()


@pytest.mark.nodes
@pytest.mark.timeout(300)
def test_a_token_is_of_one_cluster_and_only_for_who_may_enter_it(whole: Harbour) -> None:
    body = {"endpoint": True, "cluster": CLUSTER}
    for user in ("g-user", "g-clusters-create"):
        answer = whole.server.call("POST", "/api/v1/tokens", body, token=whole.tokens[user])
        assert answer.status in (403, 404, 409, 422), (user, answer.status, answer.body)
    whole.server.api("POST", "/clusters", {"name": "elsewhere"})
    try:
        whole.server.api("PUT", "/clusters/elsewhere/endpoint", {"mode": "webhook"})
        body = {"endpoint": True, "cluster": "elsewhere", "wait_seconds": 0}
        token = whole.server.api("POST", "/tokens", body)["token"]
        assert whole.caller(token).status() == 401
        assert whole.caller(issue(whole.server, CLUSTER)).status() == 200
    finally:
        whole.server.api("DELETE", "/clusters/elsewhere")
