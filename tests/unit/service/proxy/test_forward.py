# SPDX-License-Identifier: Apache-2.0
"""Exchanges, told as sequences: what the agent does on one side, what the client gets on the other."""

from __future__ import annotations

import json

import pytest
from mooring.proxy.forward import response_headers
from mooring.proxy.ports import Handler
from mooring.wire.frames import Code
from support.proxyfakes import ALPHA, FakeClient, FakeSession, FakeStream, World, request

PODS = "/k8s/clusters/alpha/api/v1/namespaces/d/pods"


class Exchange:
    """A request of Bob's that went through: both ends in hand."""

    def __init__(self, world: World, target: str = PODS, method: str = "GET", **kwargs: object) -> None:
        self.world = world
        self.client = FakeClient(method.encode())
        handler = world.chain.handle(
            self.client,
            request(target, world.bearer("bob"), method=method, **kwargs),  # type: ignore[arg-type]
        )
        assert handler is not None
        self.handler: Handler = handler
        self.stream: FakeStream = world.stream

    @property
    def outcome(self) -> str:
        return self.world.audit.records[-1].outcome

    def status(self) -> dict[str, object]:
        body: dict[str, object] = json.loads(self.client.sent.split(b"\r\n\r\n", 1)[1])
        return body


def test_get(world: World) -> None:
    it = Exchange(world)
    it.stream.answer(200, [("Content-Length", "4"), ("Content-Encoding", "gzip"), ("Warning", '299 - "x"')])
    it.stream.data(b"ab")
    it.stream.data(b"cd")
    it.stream.done()
    assert it.client.take() == [("head", 200), ("data", b"ab"), ("data", b"cd"), ("finish",)]
    assert it.stream.take() == [("consumed", 2), ("consumed", 2)]
    assert (it.client.header("content-encoding"), it.client.header("warning")) == ("gzip", '299 - "x"')
    assert len(world.registry) == 0
    (record,) = world.audit.records
    assert (record.stage, record.code, record.bytes_out, record.outcome) == ("complete", 200, 4, "")
    assert (record.verb, record.resource, record.namespace, record.source) == ("list", "pods", "d", "192.0.2.7")


def test_head_with_fin_is_the_whole_answer(world: World) -> None:
    it = Exchange(world)
    it.stream.answer(204, fin=True)
    assert it.client.take() == [("head", 204), ("finish",)]
    assert it.stream.take() == []


def test_post_with_a_body(world: World) -> None:
    it = Exchange(world, method="POST", body=6)
    it.handler.client_data(b"abc")
    it.handler.client_data(b"def")
    it.handler.client_end()
    assert it.stream.take() == [("write", b"abc"), ("write", b"def"), ("end",)]
    it.stream.answer(201, fin=True)
    assert it.client.take() == [("head", 201), ("finish",)]
    assert world.audit.records[-1].bytes_in == 6


def test_full_stream_pauses_the_client(world: World) -> None:
    it = Exchange(world, method="POST", chunked=True)
    it.stream.full = True
    it.handler.client_data(b"abc")
    assert it.client.take() == [("pause",)]
    it.stream.sink.on_writable()
    assert it.client.take() == [("resume",)]


def test_slow_client_holds_the_credit_until_it_has_drained(world: World) -> None:
    it = Exchange(world)
    it.stream.answer(200)
    it.client.slow = True
    it.stream.data(b"abc")
    it.stream.data(b"de")
    assert it.stream.take() == []
    it.client.slow = False
    it.handler.client_drained()
    assert it.stream.take() == [("consumed", 5)]


def test_answer_before_the_request_is_complete_resets_the_rest(world: World) -> None:
    it = Exchange(world, method="POST", body=1000)
    it.handler.client_data(b"abc")
    it.stream.answer(413, fin=True)
    assert it.client.take() == [("head", 413), ("finish",)]
    assert it.stream.take()[-1] == ("reset", "CANCEL")
    it.handler.client_data(b"late")
    it.handler.client_end()
    assert it.stream.take() == []


def test_client_that_goes_away_resets_the_stream_at_once(world: World) -> None:
    it = Exchange(world, PODS + "?watch=1")
    it.stream.answer(200)
    it.handler.client_gone()
    assert it.stream.take() == [("reset", "CANCEL")]
    assert (it.outcome, len(world.registry)) == ("client gone", 0)
    it.stream.data(b"late")
    it.stream.done()
    assert it.client.take() == [("head", 200)]


def test_watch_has_a_start_and_an_end_in_the_audit_log(world: World) -> None:
    it = Exchange(world, PODS + "?watch=1")
    assert world.audit.records == []
    it.stream.answer(200)
    it.stream.data(b"event")
    world.clock.advance(90)
    it.stream.done()
    start, end = world.audit.records
    assert (start.stage, start.verb, start.code, start.bytes_out) == ("start", "watch", 200, 0)
    assert (end.stage, end.bytes_out, end.duration_ms) == ("end", 5, 90_000.0)
    assert start.request_id == end.request_id


def test_refused_watch_has_one_record(world: World) -> None:
    it = Exchange(world, PODS + "?watch=1")
    it.stream.answer(403, fin=True)
    assert [record.stage for record in world.audit.records] == ["complete"]


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        (Code.UPSTREAM_UNREACHABLE, 503, "ServiceUnavailable"),
        (Code.UPSTREAM_TLS, 502, "InternalError"),
        (Code.BUSY, 429, "TooManyRequests"),
        (Code.CREDENTIAL, 503, "ServiceUnavailable"),
        (Code.TIMEOUT, 504, "Timeout"),
        (Code.REFUSED_TARGET, 502, "InternalError"),
        (Code.BAD_REQUEST, 400, "BadRequest"),
        (Code.SHUTDOWN, 503, "ServiceUnavailable"),
        (Code.INTERNAL, 502, "InternalError"),
    ],
)
def test_refusal_is_a_status_that_may_be_retried(world: World, code: Code, status: int, reason: str) -> None:
    it = Exchange(world)
    world.hub.sessions.clear()
    it.stream.sink.on_refused(code, "because")
    body = it.status()
    assert (it.client.status, body["reason"], "because" in str(body["message"])) == (status, reason, True)
    # client-go repeats any request when it sees Retry-After: right here, as nothing was sent.
    assert (it.client.header("retry-after") is not None) is (status in (429, 503))
    assert len(world.registry) == 0


@pytest.mark.parametrize("code", [Code.UPSTREAM_UNREACHABLE, Code.SHUTDOWN, Code.BUSY, Code.CREDENTIAL])
def test_reset_before_the_head_may_not_be_retried(world: World, code: Code) -> None:
    it = Exchange(world, method="POST")
    it.stream.sink.on_reset(code, "tunnel lost")
    assert it.client.status in (429, 503)
    assert it.client.header("retry-after") is None


def test_reset_after_the_head_cuts_the_client(world: World) -> None:
    it = Exchange(world)
    it.stream.answer(200)
    it.stream.data(b"half")
    it.stream.sink.on_reset(Code.UPSTREAM_UNREACHABLE, "tunnel lost")
    assert it.client.take() == [("head", 200), ("data", b"half"), ("abort",)]
    assert it.outcome == "upstream reset: UPSTREAM_UNREACHABLE tunnel lost"


def test_session_that_leaves_hands_an_unsent_request_to_the_next(world: World) -> None:
    it = Exchange(world)
    first = it.stream
    world.hub.sessions["c-alphaalphaal"] = FakeSession()
    first.sink.on_refused(Code.SHUTDOWN, "going away")
    assert it.client.take() == []
    assert world.stream is not first
    assert world.stream.head == first.head
    world.stream.answer(200, fin=True)
    assert it.client.take() == [("head", 200), ("finish",)]


def test_request_with_a_body_is_not_handed_on(world: World) -> None:
    it = Exchange(world, method="POST", body=3)
    it.handler.client_data(b"abc")
    world.hub.sessions["c-alphaalphaal"] = FakeSession()
    it.stream.sink.on_refused(Code.SHUTDOWN, "going away")
    assert it.client.status == 503
    assert world.agent.streams == []


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nA: b\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"",
    ],
)
def test_head_that_breaks_the_rules_is_502(world: World, head: bytes) -> None:
    it = Exchange(world)
    it.stream.sink.on_head(head, False)
    assert it.client.status == 502
    assert it.stream.take()[-1][0] == "reset"
    assert len(world.registry) == 0


def test_body_longer_than_promised_cuts_the_client(world: World) -> None:
    it = Exchange(world)
    it.stream.answer(200, [("Content-Length", "2")])
    it.stream.data(b"abc")
    assert it.client.take()[-1] == ("abort",)
    assert it.stream.take() == [("reset", "CANCEL")]


def test_body_shorter_than_promised_cuts_the_client(world: World) -> None:
    it = Exchange(world)
    it.stream.answer(200, [("Content-Length", "2")])
    it.stream.data(b"a")
    it.stream.done()
    assert it.client.take()[-1] == ("abort",)


def test_data_or_end_without_a_head_is_502(world: World) -> None:
    data, end = Exchange(world), Exchange(world)
    data.stream.data(b"x")
    end.stream.done()
    assert (data.client.status, end.client.status) == (502, 502)


def test_second_head_cuts_the_client(world: World) -> None:
    it = Exchange(world)
    it.stream.answer(200)
    it.stream.answer(200)
    assert it.client.take() == [("head", 200), ("abort",)]


# -- what a cluster may not say


@pytest.mark.parametrize(
    "name",
    ["Set-Cookie", "Strict-Transport-Security", "Clear-Site-Data", "Access-Control-Allow-Origin", "Alt-Svc", "Refresh",
     "Connection", "Keep-Alive", "Transfer-Encoding", "X-Request-Id"],
)  # fmt: skip
def test_header_that_speaks_for_this_server_is_dropped(name: str) -> None:
    for spelled in (name, name.lower(), name.upper()):
        assert response_headers([(spelled.encode(), b"x"), (b"Audit-Id", b"1")]) == [(b"Audit-Id", b"1")]


def test_header_that_connection_names_is_dropped() -> None:
    headers = [(b"Connection", b"x-secret, content-length"), (b"X-Secret", b"1"), (b"Content-Length", b"2")]
    assert response_headers(headers) == [(b"Content-Length", b"2")]


def test_page_of_a_cluster_is_sandboxed() -> None:
    page = response_headers([(b"content-type", b"text/HTML; charset=utf-8")])
    assert (b"Content-Security-Policy", b"sandbox") in page
    assert response_headers([(b"Content-Type", b"application/json")]) == [(b"Content-Type", b"application/json")]


@pytest.mark.parametrize("location", ["https://evil.test/", "//evil.test/", "foo", "/a/../../beta/api", "/%2e%2e/x",
                                      "/\\evil.test", "javascript:x", "", "/.\t./.\t./b/api", "/a/..#"])  # fmt: skip
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_to_anywhere_else_is_not_passed_on(world: World, status: int, location: str) -> None:
    it = Exchange(world)
    it.stream.answer(status, [("Location", location)], fin=True)
    assert it.client.status == 502
    assert it.client.header("location") is None


def test_redirect_within_the_cluster_stays_within_the_cluster(world: World) -> None:
    it = Exchange(world)
    it.stream.answer(301, [("location", "/k8s/clusters/beta/api?x=../y")], fin=True)
    assert it.client.header("location") == "/k8s/clusters/alpha/k8s/clusters/beta/api?x=../y"


# -- upgrades


def upgraded(world: World) -> Exchange:
    it = Exchange(world, PODS + "/p/exec", method="POST", upgrade="SPDY/3.1")
    it.stream.answer(101, [("Upgrade", "spdy/3.1"), ("Connection", "upgrade"), ("X-Stream-Protocol-Version", "v4")])
    assert it.client.take() == [("switch", 101)]
    return it


def test_upgrade_is_raw_and_halves_close_by_themselves_client_first(world: World) -> None:
    it = upgraded(world)
    assert (it.client.header("upgrade"), it.client.header("connection")) == ("spdy/3.1", "Upgrade")
    assert it.client.header("x-stream-protocol-version") == "v4"
    it.handler.client_data(b"ping")
    it.stream.data(b"pong")
    it.handler.client_end()
    assert it.stream.take() == [("write", b"ping"), ("consumed", 4), ("end",)]
    it.stream.data(b"last")
    it.stream.done()
    assert it.client.take() == [("data", b"pong"), ("data", b"last"), ("finish",)]
    assert it.stream.take() == [("consumed", 4)]
    assert [(r.stage, r.code, r.upgrade) for r in world.audit.records] == [
        ("start", 101, "SPDY/3.1"),
        ("end", 101, "SPDY/3.1"),
    ]
    assert (world.audit.records[-1].bytes_in, world.audit.records[-1].bytes_out) == (4, 8)


def test_upgrade_halves_close_by_themselves_upstream_first(world: World) -> None:
    it = upgraded(world)
    it.stream.done()
    assert it.client.take() == [("finish",)]
    it.handler.client_data(b"rest")
    it.handler.client_end()
    assert it.stream.take() == [("write", b"rest"), ("end",)]
    assert len(world.registry) == 0


@pytest.mark.parametrize("headers", [[], [("Upgrade", "websocket")], [("Upgrade", "SPDY/3.1"), ("Upgrade", "h2c")]])
def test_switch_to_something_else_is_502(world: World, headers: list[tuple[str, str]]) -> None:
    it = Exchange(world, PODS + "/p/exec", method="POST", upgrade="SPDY/3.1")
    it.stream.answer(101, headers)
    assert it.client.status == 502
    assert it.stream.take()[-1][0] == "reset"


# -- rights and time


def test_no_head_in_time_is_504(world: World) -> None:
    it = Exchange(world)
    world.clock.advance(299)
    world.registry.sweep()
    assert it.client.take() == []
    world.clock.advance(2)
    world.registry.sweep()
    assert it.client.status == 504
    assert it.stream.take() == [("reset", "TIMEOUT")]


def test_long_upload_is_not_late_and_its_answer_is_due_after_it(world: World) -> None:
    it = Exchange(world, method="POST", body=6)
    it.handler.client_data(b"abc")
    world.clock.advance(1_000)
    world.registry.sweep()
    assert it.client.take() == []
    it.handler.client_data(b"def")
    it.handler.client_end()
    world.clock.advance(299)
    world.registry.sweep()
    assert it.client.take() == []
    world.clock.advance(2)
    world.registry.sweep()
    assert it.client.status == 504


def test_answered_watch_is_never_late(world: World) -> None:
    it = Exchange(world, PODS + "?watch=1")
    it.stream.answer(200)
    world.clock.advance(100_000)
    world.registry.sweep()
    assert it.client.take() == [("head", 200)]


def test_right_lost_before_the_head_is_403(world: World) -> None:
    it = Exchange(world)
    world.revoke("bob")
    assert it.client.status == 403
    assert it.stream.take() == [("reset", "CANCEL")]
    assert it.outcome == "cut: token"


# -- no session here, but one is on its way ---------------------------------------------------------------------------


def awaited(world: World, method: str = "POST", **kwargs: object) -> tuple[FakeClient, Handler, FakeSession]:
    """A request to alpha whose agent is connected to another worker only."""
    session = world.hub.sessions.pop(ALPHA)
    world.hub.coming.add(ALPHA)
    client = FakeClient(method.encode())
    handler = world.chain.handle(client, request(PODS, world.bearer("bob"), method=method, **kwargs))  # type: ignore[arg-type]
    assert handler is not None
    return client, handler, session


def test_a_request_waits_for_an_agent_that_another_worker_has_and_keeps_its_body(world: World) -> None:
    client, handler, session = awaited(world, chunked=True)
    handler.client_data(b"one ")
    handler.client_data(b"two")
    assert client.take() == [("pause",)]
    world.hub.arrive(ALPHA, session)
    handler.client_data(b" three")
    handler.client_end()
    assert world.stream.take() == [("write", b"one "), ("write", b"two"), ("write", b" three"), ("end",)]
    assert client.take() == [("resume",)]
    world.stream.answer(201, fin=True)
    assert client.status == 201
    assert len(world.registry) == 0


def test_a_body_that_ended_while_it_waited_ends_the_stream(world: World) -> None:
    _unused, handler, session = awaited(world, chunked=True)
    handler.client_data(b"all")
    handler.client_end()
    world.hub.arrive(ALPHA, session)
    assert world.stream.take() == [("write", b"all"), ("end",)]


def test_an_agent_that_does_not_come_is_said_to_be_away_and_nothing_was_sent(world: World) -> None:
    client, _handler, _session = awaited(world, "GET")
    world.hub.arrive(ALPHA, None)
    assert (client.status, client.header("retry-after")) == (503, "1")
    assert world.audit.records[-1].code == 503
    assert len(world.registry) == 0


def test_a_right_that_ends_while_a_request_waits_ends_the_request(world: World) -> None:
    client, _handler, session = awaited(world, "GET")
    world.revoke("bob")
    assert client.status == 403
    assert world.hub.waiting == []
    world.hub.arrive(ALPHA, session)
    assert session.streams == []


def test_a_client_that_leaves_while_its_request_waits_is_forgotten(world: World) -> None:
    _client, handler, _session = awaited(world, "GET")
    handler.client_gone()
    assert world.hub.waiting == []
    assert len(world.registry) == 0


def test_a_body_that_cannot_be_held_is_refused(world: World) -> None:
    client, handler, _session = awaited(world, chunked=True)
    for _unused in range(5):
        if client.head is None:
            handler.client_data(bytes(256 * 1024))
    assert client.status == 503


def test_a_get_whose_tunnel_was_lost_goes_to_another_session_once(world: World) -> None:
    it = Exchange(world)
    world.hub.sessions[ALPHA] = FakeSession()
    it.stream.sink.on_reset(Code.UPSTREAM_UNREACHABLE, "tunnel lost")
    again = world.stream
    assert (again is not it.stream, again.head.target, again.fin) == (True, it.stream.head.target, True)
    world.hub.sessions[ALPHA] = FakeSession()
    again.sink.on_reset(Code.UPSTREAM_UNREACHABLE, "tunnel lost")
    assert it.client.status == 503


@pytest.mark.parametrize(("held", "patience"), [(0, [10]), (4, [10]), (9, [6]), (15, []), (60, [])])
def test_a_get_waits_15_s_in_all_for_agents_that_are_gone(world: World, held: float, patience: list[float]) -> None:
    """A half-open link kept a GET for 15 s; then it waited for another worker's session, which was as dead: 21 s."""
    it = Exchange(world)
    del world.hub.sessions[ALPHA]
    world.hub.coming.add(ALPHA)
    world.clock.advance(held)
    it.stream.sink.on_reset(Code.UPSTREAM_UNREACHABLE, "tunnel lost: nothing was received for 15 s")
    assert world.hub.patience == patience
    assert (it.client.head is None) == bool(patience)
    assert patience or it.client.status == 503


def test_a_delete_whose_tunnel_was_lost_is_not_sent_again(world: World) -> None:
    it = Exchange(world, method="DELETE")
    world.hub.sessions[ALPHA] = FakeSession()
    it.stream.sink.on_reset(Code.UPSTREAM_UNREACHABLE, "tunnel lost")
    assert (it.client.status, it.client.header("retry-after")) == (503, None)
    assert world.agent.streams == []


def test_a_delete_that_was_not_sent_waits_for_the_next_session(world: World) -> None:
    it = Exchange(world, method="DELETE")
    del world.hub.sessions[ALPHA]
    world.hub.coming.add(ALPHA)
    it.stream.sink.on_refused(Code.SHUTDOWN, "going away")
    world.hub.arrive(ALPHA, FakeSession())
    assert world.stream.head.method == b"DELETE"
    world.stream.answer(200, fin=True)
    assert it.client.status == 200
