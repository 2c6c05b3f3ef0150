# SPDX-License-Identifier: Apache-2.0
"""The chain: what each step refuses, and what is left of a request when it goes through."""

from __future__ import annotations

import json

import pytest
from mooring.lib import metrics
from mooring.proxy.chain import ChainSettings
from mooring.proxy.forward import Forward
from mooring.tunnel.hub import Lost
from mooring.tunnel.stream import SessionBusy, SessionClosed
from support.proxyfakes import ALPHA, FakeClient, World, make_world, request

PODS = "/k8s/clusters/alpha/api/v1/namespaces/d/pods"


def refused(world: World, *args: object, **kwargs: object) -> tuple[int, str, FakeClient]:
    """Status code and message of a request that the chain refuses."""
    client = FakeClient()
    assert world.chain.handle(client, request(*args, **kwargs)) is None  # type: ignore[arg-type]
    status = json.loads(client.sent.split(b"\r\n\r\n", 1)[1])
    assert (status["kind"], status["code"]) == ("Status", client.status)
    assert client.log[-1] == ("finish",)
    assert world.agent.streams == []
    assert len(world.registry) == 0
    return client.status, status["message"], client


def passed(world: World, *args: object, **kwargs: object) -> FakeClient:
    client = FakeClient()
    assert isinstance(world.chain.handle(client, request(*args, **kwargs)), Forward), client.sent  # type: ignore[arg-type]
    return client


# -- authenticate


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "Bearer ")],
        [("Authorization", "Basic cm9vdDpyb290")],
        [("Authorization", "Bearer nonsense")],
        [("Authorization", "Bearer a b")],
        [("Authorization", "Bearer " + "a" * 600)],
        [("Cookie", "token=TOKEN")],
        [("X-Authorization", "Bearer TOKEN")],
        [("Sec-WebSocket-Protocol", "base64url.bearer.authorization.k8s.io.TOKEN")],
    ],
)
def test_without_a_good_bearer_token_nothing_is_said_but_401(world: World, headers: list[tuple[str, str]]) -> None:
    headers = [(name, value.replace("TOKEN", world.bearer("bob"))) for name, value in headers]
    for path in (PODS, "/k8s/clusters/beta/api", "/k8s/clusters/nowhere/api"):
        code, _unused, client = refused(world, path, headers=headers)
        assert code == 401
        assert client.header("WWW-Authenticate") == 'Bearer realm="mooring"'
    assert world.audit.records == []


def test_two_tokens_are_none(world: World) -> None:
    code, _unused, _unused = refused(
        world, PODS, world.bearer("bob"), headers=[("Authorization", "Bearer " + world.bearer("bob"))]
    )
    assert code == 401


def test_token_in_the_query_is_not_looked_at(world: World) -> None:
    assert refused(world, PODS + "?access_token=" + world.bearer("bob"))[0] == 401


def test_expired_and_revoked_tokens_are_401(world: World) -> None:
    token = world.bearer("bob-brief")
    world.clock.advance(61)
    assert refused(world, PODS, token)[:2] == (401, "the token has expired (log in again or ask for a new token)")
    world.revoke("bob")
    assert refused(world, PODS, world.bearer("bob"))[0] == 401


def test_use_of_a_token_is_noted(world: World) -> None:
    passed(world, PODS, world.bearer("bob"))
    assert set(world.index.take_used()) == {world.tokens["bob"].id}


# -- route


@pytest.mark.parametrize("by", ["alpha", ALPHA])
@pytest.mark.parametrize(
    ("rest", "target"),
    [
        ("", "/"),
        ("/", "/"),
        ("?a=b", "/?a=b"),
        ("/version", "/version"),
        ("/api/v1/pods?limit=5&x=%2F..%2F", "/api/v1/pods?limit=5&x=%2F..%2F"),
        ("/api/v1/namespaces/a%2Fb//pods/", "/api/v1/namespaces/a%2Fb//pods/"),
        (
            "/api/v1/namespaces/d/services/https:s:443/proxy/x;y?z",
            "/api/v1/namespaces/d/services/https:s:443/proxy/x;y?z",
        ),
    ],
)
def test_path_after_the_cluster_arrives_unchanged(world: World, by: str, rest: str, target: str) -> None:
    passed(world, f"/k8s/clusters/{by}{rest}", world.bearer("bob"))
    assert world.stream.head.target == target.encode()
    assert world.stream.target == "apiserver"


@pytest.mark.parametrize(
    "ref",
    ["nowhere", "", "ALPHA", "alpha%2f", "%61lpha", "alpha%00", "..", "alpha..", "alpha%2e", "al_pha", "a" * 64, "-a"],
)
def test_cluster_that_is_none_is_404(world: World, ref: str) -> None:
    assert refused(world, f"/k8s/clusters/{ref}/api", world.bearer("bob"))[0] == 404


# -- authorise


def test_stranger_gets_403_with_a_sentence(world: World) -> None:
    code, message, _unused = refused(world, PODS, world.bearer("mallory"))
    assert code == 403
    assert message.startswith('cluster "alpha" is forbidden to user "mallory": you have no membership')
    (record,) = world.audit.records
    assert (record.user, record.code, record.outcome, record.resource) == ("mallory", 403, "refused", "pods")


def test_administrator_needs_no_membership(world: World) -> None:
    passed(world, PODS, world.bearer("root"))
    assert "mooring:admins" in world.stream.headers("impersonate-group")


def test_group_membership_lets_in(world: World) -> None:
    assert refused(world, "/k8s/clusters/beta/api", world.bearer("bob"))[0] == 503
    assert refused(world, "/k8s/clusters/beta/api", world.bearer("mallory"))[0] == 403


@pytest.mark.parametrize("who", ["bob-beta", "root-beta"])
def test_token_for_another_cluster_is_403_also_for_administrators(world: World, who: str) -> None:
    assert refused(world, PODS, world.bearer(who))[0] == 403


def test_unauthenticated_impersonation_is_just_401(world: World) -> None:
    assert refused(world, PODS, headers=[("Impersonate-User", "root")])[0] == 401


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.test",
        "null",
        "http://mooring.test",
        "https://mooring.test.evil.test",
        "https://mooring.test@evil.test",
        "https://evil.test/https://mooring.test",
        "https://mooring\t.test",  # urlsplit drops tabs
        "https:/\t/mooring.test",
        "https://mooring.test/",
        "https://mooring.test, https://evil.test",
    ],
)
def test_web_page_of_another_site_may_not_upgrade(world: World, origin: str) -> None:
    code, _unused, _unused = refused(
        world, PODS + "/p/exec", world.bearer("bob"), upgrade="websocket", headers=[("Origin", origin)]
    )
    assert code == 403


def test_own_origin_may_upgrade(world: World) -> None:
    passed(
        world,
        PODS + "/p/exec",
        world.bearer("bob"),
        upgrade="websocket",
        headers=[("Origin", "https://mooring.test:443")],
    )


def test_nothing_is_forwarded_that_cannot_be_recorded(world: World) -> None:
    world.audit.fault = "disk full"
    code, message, client = refused(world, PODS, world.bearer("bob"))
    assert (code, client.header("Retry-After")) == (503, "5")
    assert "disk full" in message
    world.audit.required = False
    passed(world, PODS, world.bearer("bob"))


def test_bounds_are_429_with_retry_after() -> None:
    world = make_world(ChainSettings(max_per_user=2, max_per_cluster=3))
    for _unused in range(2):
        passed(world, PODS, world.bearer("bob"))
    client = FakeClient()
    assert world.chain.handle(client, request(PODS, world.bearer("bob"))) is None
    assert (client.status, client.header("Retry-After")) == (429, "1")
    passed(world, PODS, world.bearer("root"))
    client = FakeClient()
    assert world.chain.handle(client, request(PODS, world.bearer("root"))) is None
    assert client.status == 429
    for stream in world.agent.streams:
        stream.answer(204, fin=True)
    assert len(world.registry) == 0
    passed(world, PODS, world.bearer("bob"))


# -- impersonate and forward


def test_request_is_rebuilt_with_nothing_of_the_client_in_its_identity(world: World) -> None:
    passed(
        world,
        PODS + "?fieldManager=kubectl",
        world.bearer("bob"),
        method="PATCH",
        body=12,
        headers=[
            ("Accept", "application/json"),
            ("Accept-Encoding", "gzip"),
            ("Content-Type", "application/apply-patch+yaml"),
            ("User-Agent", "kubectl/v1.36.3"),
            ("Cookie", "a=b"),
            ("Connection", "keep-alive, X-Custom"),
            ("X-Custom", "1"),
            ("X-Remote-User", "root"),
            ("X-Remote-Group", "system:masters"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("X-Mooring-Source", "10.0.0.1"),
            ("X-Request-Id", "mine"),
            ("TE", "trailers"),
        ],
    )
    stream = world.stream
    assert (stream.head.method, stream.fin) == (b"PATCH", False)
    assert stream.head.headers == [
        (b"Host", b"apiserver"),
        (b"Accept", b"application/json"),
        (b"Accept-Encoding", b"gzip"),
        (b"Content-Type", b"application/apply-patch+yaml"),
        (b"User-Agent", b"kubectl/v1.36.3"),
        (b"Content-Length", b"12"),
        (b"Impersonate-User", b"mooring:bob"),
        (b"Impersonate-Uid", b"uid-bob"),
        (b"Impersonate-Group", b"mooring:devs"),
        (b"Impersonate-Group", b"system:authenticated"),
        (b"Impersonate-Extra-mooring.fleet%2ftoken-id", world.tokens["bob"].id.encode()),
        (b"Impersonate-Extra-mooring.fleet%2frequest-id", b"0" * 32),
    ]


def test_body_framing_is_declared_anew(world: World) -> None:
    passed(world, PODS, world.bearer("bob"), method="POST", chunked=True)
    assert (world.stream.header("transfer-encoding"), world.stream.header("content-length")) == ("chunked", None)
    passed(world, PODS, world.bearer("bob"), method="POST")
    assert (world.stream.header("content-length"), world.stream.fin) == ("0", True)
    passed(world, PODS, world.bearer("bob"))
    assert (world.stream.header("content-length"), world.stream.fin) == (None, True)


def test_upgrade_is_asked_for_again_and_tokens_in_subprotocols_are_not(world: World) -> None:
    passed(
        world,
        PODS + "/p/exec?command=sh",
        world.bearer("bob"),
        upgrade="websocket",
        headers=[
            ("Sec-WebSocket-Key", "a2V5"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Protocol", "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.c2VjcmV0"),
        ],
    )
    stream = world.stream
    assert not stream.fin
    assert (stream.header("connection"), stream.header("upgrade")) == ("Upgrade", "websocket")
    assert stream.header("sec-websocket-protocol") == "v5.channel.k8s.io"
    assert stream.header("sec-websocket-key") == "a2V5"


@pytest.mark.parametrize(
    ("cluster", "sentence"),
    [
        ("beta", "has never connected; apply the output of 'mooring cluster manifest beta'"),
        ("gamma", "was lost at 2023-11-14T22:13:20.000Z: keep-alive ran out; check the deployment mooring-agent"),
        ("delta", "its agent was refused: clock differs by 600 s"),
    ],
)
def test_cluster_without_an_agent_is_503_with_the_reason(world: World, cluster: str, sentence: str) -> None:
    code, message, client = refused(world, f"/k8s/clusters/{cluster}/api", world.bearer("bob"))
    assert (code, client.header("Retry-After")) == (503, "1")
    assert sentence in message


def test_fresh_loss_is_told_before_the_store_knows(world: World) -> None:
    del world.hub.sessions[ALPHA]
    world.hub.lost[ALPHA] = Lost(world.clock.now(), "the peer closed the connection")
    client = FakeClient()
    assert world.chain.handle(client, request(PODS, world.bearer("bob"))) is None
    assert b"the peer closed the connection" in client.sent


def test_one_user_cannot_fill_a_cluster() -> None:
    world = make_world(ChainSettings(max_per_user_and_cluster=2, max_per_cluster=3))
    for _unused in range(2):
        passed(world, PODS, world.bearer("bob"))
    client = FakeClient()
    assert world.chain.handle(client, request(PODS, world.bearer("bob"))) is None
    assert (client.status, client.header("Retry-After")) == (429, "1")
    assert b'in cluster \\"alpha\\"' in client.sent
    passed(world, PODS, world.bearer("root"))


def test_connection_of_a_user_with_too_many_is_429(world: World) -> None:
    client = FakeClient()
    client.crowded = True
    assert world.chain.handle(client, request(PODS, world.bearer("bob"))) is None
    assert (client.status, client.header("Retry-After")) == (429, "1")
    assert world.audit.records[-1].outcome == "refused"


def test_watches_are_counted(world: World) -> None:
    passed(world, PODS, world.bearer("bob"))
    assert metrics.PROXY_ENDLESS.collect()[0].samples[0].value == 0
    passed(world, PODS + "?watch=1", world.bearer("bob"))
    assert metrics.PROXY_ENDLESS.collect()[0].samples[0].value == 1


def test_session_that_takes_no_more_is_429_or_503(world: World) -> None:
    world.agent.error = SessionBusy("1024 streams are open")
    assert refused(world, PODS, world.bearer("bob"))[0] == 429
    world.agent.error = SessionClosed("going away")
    assert refused(world, PODS, world.bearer("bob"))[0] == 503


def test_name_that_cannot_be_a_header_fails_closed(world: World) -> None:
    world.chain._impersonator._prefix = "moor\r\nImpersonate-User: root\r\nX: "
    assert refused(world, PODS, world.bearer("bob"))[0] == 500
