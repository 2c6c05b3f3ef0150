# SPDX-License-Identifier: Apache-2.0
"""A request that acts as another, through the whole agent: nothing before the yes, and then as the wanted identity."""

from __future__ import annotations

import asyncio
import json

import pytest
from mooring.agent.acting import forbidden
from mooring.agent.main import Agent
from mooring.agent.review import PATH, Question, Verdict
from mooring.tunnel.stream import Code
from mooring.wire.actas import TARGET, ActAs, to_wire
from mooring.wire.headers import Headers, get, get_all, parse_response_head

from .conftest import Running
from .fakes import Call, Client, FakeKube, FakeServer, until

REAL: Headers = [
    (b"Impersonate-Uid", b"uid-bob"),
    (b"Impersonate-Group", b"mooring:devs"),
    (b"Impersonate-Group", b"system:authenticated"),
    (b"Impersonate-Extra-mooring.fleet%2ftoken-id", b"t-1"),
    (b"Impersonate-Extra-mooring.fleet%2frequest-id", b"r1"),
]


class Rights:
    """The API server's answers: reviews by name, everything else as `FakeKube.whoami` once the body is read."""

    def __init__(self, kube: FakeKube) -> None:
        self.kube = kube
        self.allowed: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.review_status = 201
        self.reviews: list[dict[str, str]] = []
        self.requests: list[Call] = []
        kube.handler = self.handle

    async def handle(self, call: Call) -> None:
        length = get(call.head.headers, b"content-length")
        if length:
            call.body = await call.reader.readexactly(int(length))
        if call.head.target != PATH:
            self.requests.append(call)
            await self.kube.whoami(call)
            return
        attributes = json.loads(call.body)["spec"]["resourceAttributes"]
        self.reviews.append(attributes)
        await self.gate.wait()
        await call.answer(self.review_status, {"status": {"allowed": attributes["name"] in self.allowed}})


@pytest.fixture
def rights(kube: FakeKube) -> Rights:
    return Rights(kube)


def ask(server: FakeServer, wanted: ActAs, more: Headers | None = None, **how: object) -> Client:
    headers = [*REAL, *to_wire(wanted), *(more or [])]
    return Client.ask(server.live[0], headers=headers, where=TARGET, **how)  # type: ignore[arg-type]


async def test_the_server_hears_that_the_agent_can(agent: Agent, server: FakeServer) -> None:
    peer = server.live[0].peer
    assert peer is not None
    assert peer.features == ["act-as"]


async def test_what_is_allowed_runs_as_the_wanted_identity_and_names_the_real_user(
    agent: Agent, server: FakeServer, rights: Rights
) -> None:
    rights.allowed = {"alice", "7", "g", "read"}
    client = await ask(server, ActAs("alice", "7", ("g",), (("example.com/Scopes", "read"),))).done()
    assert json.loads(client.body)["user"] == "alice"
    (call,) = rights.requests
    sent = [(name.lower(), value) for name, value in call.head.headers if b"mpersonate" in name or b"mooring" in name]
    assert sorted(sent) == sorted(
        [
            (b"impersonate-user", b"alice"),
            (b"impersonate-uid", b"7"),
            (b"impersonate-group", b"g"),
            (b"impersonate-extra-example.com%2f%53copes", b"read"),
            (b"impersonate-extra-mooring.fleet%2ftoken-id", b"t-1"),
            (b"impersonate-extra-mooring.fleet%2frequest-id", b"r1"),
            (b"impersonate-extra-mooring.fleet%2foriginal-user", b"mooring:bob"),
            (b"impersonate-extra-mooring.fleet%2foriginal-uid", b"uid-bob"),
        ]
    )
    assert get_all(call.head.headers, b"authorization") == [b"Bearer impersonator-token-1"]


async def test_what_is_refused_never_reaches_the_api_server(agent: Agent, server: FakeServer, rights: Rights) -> None:
    rights.allowed = {"alice"}
    client = await ask(server, ActAs("alice", groups=("system:masters",))).done()
    assert client.status == 403
    status = json.loads(client.body)
    assert (status["kind"], status["reason"], status["code"]) == ("Status", "Forbidden", 403)
    assert status["message"] == (
        'groups "system:masters" is forbidden: User "mooring:bob" cannot impersonate resource "groups" in API group "" '
        "at the cluster scope"
    )
    assert status["details"] == {"name": "system:masters", "kind": "groups"}
    assert rights.requests == []
    await until(lambda: agent._dispatcher.open == 0)


async def test_a_refused_head_request_has_no_body(agent: Agent, server: FakeServer, rights: Rights) -> None:
    client = await ask(server, ActAs("alice"), method=b"HEAD").done()
    assert (client.status, bytes(client.body)) == (403, b"")
    assert int(get(parse_response_head(client.head).headers, b"content-length") or b"0") > 100


@pytest.mark.parametrize("late", [False, True])
async def test_a_body_waits_for_the_decision_and_arrives_whole(
    agent: Agent, server: FakeServer, rights: Rights, late: bool
) -> None:
    rights.allowed = {"alice"}
    rights.gate.clear()
    body = b"0123456789" * 5000
    length = [(b"Content-Length", b"%d" % len(body))]
    client = ask(server, ActAs("alice"), length, method=b"POST", fin=False)
    assert client.stream is not None
    client.stream.write(body[:20000])
    await until(lambda: rights.reviews)
    if not late:
        client.stream.write(body[20000:], fin=True)
    assert rights.requests == []
    rights.gate.set()
    if late:
        client.stream.write(body[20000:], fin=True)
    await client.done()
    (call,) = rights.requests
    assert (client.status, call.body) == (200, body)


async def test_a_body_of_a_refused_request_is_taken_and_dropped(
    agent: Agent, server: FakeServer, rights: Rights
) -> None:
    """Larger than the stream's window: whoever still writes must not be held up, nor the agent hold it."""
    client = ask(server, ActAs("alice"), [(b"Transfer-Encoding", b"chunked")], method=b"POST", fin=False)
    assert client.stream is not None
    client.stream.write(b"x" * 60_000)
    await client.done()
    assert client.status == 403
    for _unused in range(4):
        client.stream.write(b"x" * 60_000)
    client.stream.end()
    await until(lambda: client.stream is not None and client.stream.closed)
    assert rights.requests == []


async def test_a_client_that_leaves_before_the_decision_sends_nothing(
    agent: Agent, server: FakeServer, rights: Rights
) -> None:
    rights.allowed = {"alice"}
    rights.gate.clear()
    client = ask(server, ActAs("alice"))
    assert client.stream is not None
    await until(lambda: rights.reviews)
    client.stream.reset(Code.CANCEL)
    await until(lambda: agent._dispatcher.open == 0)
    rights.gate.set()
    assert (await ask(server, ActAs("alice")).done()).status == 200
    assert len(rights.requests) == 1


async def test_an_agent_that_stops_gives_waiting_requests_back(
    agent: Agent, server: FakeServer, rights: Rights, running: Running
) -> None:
    rights.gate.clear()
    client = ask(server, ActAs("alice"))
    await until(lambda: rights.reviews)
    await running.stop()
    await client.done()
    assert client.failure is not None
    assert rights.requests == []
    rights.gate.set()


async def test_a_question_without_an_answer_fails_closed(agent: Agent, server: FakeServer, rights: Rights) -> None:
    rights.review_status = 500
    client = await ask(server, ActAs("alice")).done()
    assert client.failure is not None
    assert client.failure[:2] == ("refused", Code.UPSTREAM_UNREACHABLE)
    assert "cannot be checked" in client.failure[2]
    assert rights.requests == []


@pytest.mark.parametrize(
    ("headers", "where"),
    [
        ([], TARGET),
        ([(b"X-Mooring-As-Group", b"g")], TARGET),
        ([(b"X-Mooring-As-User", b"a"), (b"X_Mooring_As_User", b"b")], TARGET),
        ([(b"X-Mooring-As-User", b"a"), (b"Impersonate-User", b"b")], TARGET),
        ([(b"X-Mooring-As-User", b"a"), (b"Impersonate-Group", b"system:masters")], TARGET),
        ([(b"X-Mooring-As-User", b"a"), (b"Impersonate-Extra-mooring.fleet%2Foriginal-user", b"b")], TARGET),
        ([(b"X-Mooring-As-User", b"a"), (b"X-Mooring-As-Extra-mooring.fleet%2ftoken-id", b"b")], TARGET),
        ([(b"X-Mooring-As-User", b"a"), (b"Authorization", b"Bearer x")], TARGET),
        ([(b"X-Mooring-As-User", b"a")], "apiserver"),
    ],
)
async def test_what_a_server_must_not_say_of_identities_is_refused(
    agent: Agent, server: FakeServer, kube: FakeKube, rights: Rights, headers: Headers, where: str
) -> None:
    client = await Client.ask(server.live[0], headers=headers, where=where).done()
    assert client.failure is not None
    assert client.failure[:2] == ("refused", Code.BAD_REQUEST)
    assert kube.impersonated == []


def test_the_words_are_those_of_the_api_server() -> None:
    def said(question: Question, reason: str = "") -> str:
        return str(json.loads(forbidden('b"<ob', question, Verdict(False, reason)))["message"])

    assert said(Question("serviceaccounts", "robot", namespace="ns"), "RBAC: broken") == (
        'serviceaccounts "robot" is forbidden: User "b\\"&lt;ob" cannot impersonate resource "serviceaccounts" '
        'in API group "" in the namespace "ns": RBAC: broken'
    )
    assert said(Question("userextras", "read", "authentication.k8s.io", "scopes")) == (
        'userextras.authentication.k8s.io "read" is forbidden: User "b\\"&lt;ob" cannot impersonate resource '
        '"userextras/scopes" in API group "authentication.k8s.io" at the cluster scope'
    )
