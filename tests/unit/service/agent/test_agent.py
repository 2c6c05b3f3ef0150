# SPDX-License-Identifier: Apache-2.0
"""The whole agent between a scripted API server and a server: joining, serving, reporting, stopping."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from mooring.agent import dialer
from mooring.agent.main import Agent
from mooring.authn.agents import AgentVerifier
from mooring.tunnel.carrier import ConnectFailed
from mooring.tunnel.stream import Code
from mooring.wire.headers import get, get_all, parse_response_head
from testbed.pki import Authority

from .conftest import Running
from .fakes import Call, Client, FakeKube, FakeServer, join_secret, pair, until


async def test_a_request_runs_as_the_impersonated_user_with_the_impersonators_token(
    agent: Agent, server: FakeServer, kube: FakeKube
) -> None:
    client = await Client.ask(server.live[0], target=b"/api/v1/pods?limit=1").done()
    assert client.failure is None
    assert json.loads(client.body) == {"user": "mooring:bob", "path": "/api/v1/pods"}
    (call,) = kube.impersonated
    assert get_all(call.head.headers, b"authorization") == [b"Bearer impersonator-token-1"]
    assert get_all(call.head.headers, b"host") == [f"127.0.0.1:{kube.port}".encode()]


async def test_the_key_is_in_the_cluster_before_the_server_hears_of_it(
    kube: FakeKube, server: FakeServer, running: Running
) -> None:
    seen: list[dict[str, str]] = []

    def register(body: dict[str, object]) -> tuple[int, dict[str, object]]:
        seen.append(dict(kube.secrets["mooring-agent-identity"]))
        return server.accept(body)

    server.on_register = register
    kube.secrets["mooring-join"] = join_secret(server, kube.authority.crt)
    running.start()
    await until(lambda: server.live)
    assert seen[0]["private_key"].startswith("-----BEGIN PRIVATE KEY-----")
    assert seen[0]["cluster_id"] == ""
    (registration,) = server.registrations
    assert registration["cluster_uid"] == "uid-of-kube-system"
    assert registration["kubernetes_version"] == "v1.36.3"
    assert kube.secrets["mooring-agent-identity"]["cluster_id"] == "c-aaaaaaaaaaaa"


async def test_an_agent_that_died_before_the_answer_registers_the_same_key_again(
    kube: FakeKube, server: FakeServer, running: Running
) -> None:
    kube.secrets["mooring-join"] = join_secret(server, kube.authority.crt)
    server.on_register = lambda _unused: (503, {"detail": "not now"})
    running.start()
    await until(lambda: server.registrations)
    await running.stop()
    server.on_register = server.accept
    running.start()
    await until(lambda: server.live)
    assert len({body["public_key"] for body in server.registrations}) == 1


async def test_after_a_restart_no_token_is_needed(kube: FakeKube, server: FakeServer, running: Running) -> None:
    kube.secrets["mooring-join"] = join_secret(server, kube.authority.crt)
    running.start()
    await until(lambda: server.live)
    await running.stop()
    del kube.secrets["mooring-join"]
    running.start()
    await until(lambda: server.live)
    assert len(server.registrations) == 1


async def test_two_replicas_use_one_key(kube: FakeKube, server: FakeServer, running: Running) -> None:
    kube.secrets["mooring-join"] = join_secret(server, kube.authority.crt)
    running.start()
    running.start()
    await until(lambda: len(server.live) == 2)
    assert len({body["public_key"] for body in server.registrations}) == 1


async def test_each_handshake_has_a_jwt_of_its_own_that_the_server_accepts_once(
    agent: Agent, server: FakeServer, kube: FakeKube
) -> None:
    import base64
    import time

    server.live[0].close(Code.SHUTDOWN, "restart")
    await until(lambda: len(server.jwts) == 2)
    raw = server.registrations[0]["public_key"]
    key = base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4))
    verifier = AgentVerifier(lambda cluster: key if cluster == "c-aaaaaaaaaaaa" else None, "mooring-test")
    for jwt in server.jwts:
        assert verifier.verify(jwt, time.time()).cluster_id == "c-aaaaaaaaaaaa"


async def test_a_lost_session_comes_back_by_itself(agent: Agent, server: FakeServer) -> None:
    server.live[0].close(Code.SHUTDOWN, "restart")
    await until(lambda: len(server.sessions) == 2 and server.live)
    assert (await Client.ask(server.live[0]).done()).status == 200


async def test_a_refused_key_without_a_new_join_token_is_told_and_tried_again(agent: Agent, server: FakeServer) -> None:
    server.refuse = (401, "the cluster was deleted")
    server.live[0].close(Code.SHUTDOWN, "restart")
    await until(lambda: len(server.jwts) >= 3)
    assert "the cluster was deleted" in "".join(agent.problems())
    assert len(server.registrations) == 1


async def test_a_refused_key_is_registered_anew_when_there_is_a_new_join_token(
    agent: Agent, server: FakeServer, kube: FakeKube
) -> None:
    kube.secrets["mooring-join"] = join_secret(server, kube.authority.crt, "mrj_two_secretsecretsecret")

    def register(body: dict[str, object]) -> tuple[int, dict[str, object]]:
        server.refuse = None
        status, answer = server.accept(body)
        return status, {**answer, "cluster_id": "c-bbbbbbbbbbbb"}

    server.on_register = register
    server.refuse = (401, "unknown cluster")
    server.live[0].close(Code.SHUTDOWN, "restart")
    await until(lambda: server.live)
    assert server.registrations[1]["join_token"] == "mrj_two_secretsecretsecret"
    assert kube.secrets["mooring-agent-identity"]["cluster_id"] == "c-bbbbbbbbbbbb"


@pytest.mark.parametrize("ahead", [600.0, -600.0])
async def test_an_agent_whose_clock_is_off_dates_its_jwt_by_the_server(
    agent: Agent, server: FakeServer, kube: FakeKube, ahead: float
) -> None:
    """A node without NTP, ten minutes off: the cluster was locked out, and a new join token would have been used up."""
    kube.secrets["mooring-join"] = join_secret(server, kube.authority.crt, "mrj_two_secretsecretsecret")
    server.ahead = ahead
    server.live[0].close(Code.SHUTDOWN, "restart")
    await until(lambda: server.live)
    assert len(server.registrations) == 1, "it took the wrong clock for a refused key"


async def test_a_clock_that_is_off_by_more_than_an_hour_is_named_and_not_followed(
    agent: Agent, server: FakeServer
) -> None:
    server.ahead = 2 * 3600.0
    server.live[0].close(Code.SHUTDOWN, "restart")
    await until(lambda: len(server.jwts) >= 4)
    assert "more than an hour; set it by NTP" in "".join(agent.problems())
    assert not server.live
    assert len(server.registrations) == 1


async def test_a_server_with_a_certificate_of_another_ca_is_never_spoken_to(
    kube: FakeKube, running: Running, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    impostor = FakeServer(pair(other, "impostor"), "i-evil")
    await impostor.start()
    kube.secrets["mooring-join"] = join_secret(impostor, kube.authority.crt)
    agent = running.start()
    await until(lambda: "certificate is not accepted" in "".join(agent.problems()))
    assert impostor.registrations == []
    impostor.stop()


async def test_a_certificate_for_another_name_is_refused(kube: FakeKube, running: Running, tmp_path: Path) -> None:
    impostor = FakeServer(pair(kube.authority, "elsewhere", "elsewhere.example"), "i-evil")
    await impostor.start()
    kube.secrets["mooring-join"] = join_secret(impostor, kube.authority.crt)
    agent = running.start()
    await until(lambda: "certificate is not accepted" in "".join(agent.problems()))
    assert impostor.registrations == []
    impostor.stop()


async def test_a_session_to_each_instance_that_a_server_names(
    agent: Agent, server: FakeServer, authority: Authority
) -> None:
    second = FakeServer(pair(authority, "second"), "i-two")
    await second.start()
    server.peers = [second.tunnel_url]
    server.live[0].close(Code.SHUTDOWN, "restart")
    await until(lambda: server.live and second.live)
    assert (await Client.ask(second.live[0]).done()).status == 200
    second.stop()


def names(server: FakeServer) -> list[str]:
    return sorted(session.mux.hello.instance for session in server.live)


async def test_a_session_to_each_process_behind_one_address_and_no_dial_ends_in_a_second_one(
    agent: Agent, server: FakeServer
) -> None:
    server.instances = ["i-a", "i-b", "i-c"]
    server.live[0].close(Code.SHUTDOWN, "restart")
    await until(lambda: names(server) == ["i-a", "i-b", "i-c"])
    assert server.turned_away >= 1
    # A process is replaced: the server says so, and the agent looks for the new one.
    server.instances = ["i-a", "i-b", "i-d"]
    for session in server.live:
        session.message({"kind": "instances", "instances": server.instances})
    await until(lambda: "i-d" in names(server))
    # One dies: it is looked for again.
    next(session for session in server.live if session.mux.hello.instance == "i-b").close(Code.INTERNAL, "killed")
    await until(lambda: {"i-a", "i-b", "i-d"} <= set(names(server)))
    assert len(names(server)) == len(set(names(server)))


async def test_an_instance_that_never_answers_is_not_sought_for_ever_in_a_hurry(
    agent: Agent, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialer, "SEEK_MOST", 0.03)
    server.instances = ["i-a"]
    server.live[0].close(Code.SHUTDOWN, "restart")
    await until(lambda: names(server) == ["i-a"])
    before = len(server.jwts)
    server.live[0].message({"kind": "instances", "instances": ["i-a", "i-ghost"]})
    await until(lambda: server.turned_away >= 2 * dialer.SEEK_TRIES)
    link = next(iter(agent._dialer._links.values()))  # type: ignore[union-attr]
    await until(lambda: link._met >= 2 * dialer.SEEK_TRIES)
    assert len(server.jwts) - before == 2 * dialer.SEEK_TRIES


async def test_an_instance_whose_session_ends_while_a_dial_meets_it_is_dialled_again_soon(
    agent: Agent, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-open link: the answer "you have a session already" is true when it is sent, and not when it arrives."""
    server.instances = ["i-a"]
    server.live[0].close(Code.SHUTDOWN, "restart")
    await until(lambda: names(server) == ["i-a"])
    link = next(iter(agent._dialer._links.values()))  # type: ignore[union-attr]
    connect, late = dialer.connect_client, []

    async def slow(*arguments: Any, **options: Any) -> None:
        try:
            await connect(*arguments, **options)
        except ConnectFailed as error:
            if error.status == dialer.CONFLICT:
                late.append(error)
                for session in list(link.sessions.values()):
                    session.close(Code.TIMEOUT, "nothing was heard")
            raise

    monkeypatch.setattr(dialer, "connect_client", slow)
    old = server.live[0]
    old.message({"kind": "instances", "instances": ["i-a", "i-ghost"]})
    await until(lambda: bool(late))
    await until(lambda: any(session is not old for session in server.live))


async def test_another_address_of_an_instance_is_used_as_soon_as_its_session_ends(
    agent: Agent, server: FakeServer, authority: Authority
) -> None:
    alias = FakeServer(pair(authority, "alias"), server.instance)
    await alias.start()
    server.peers = [alias.tunnel_url]
    server.live[0].close(Code.SHUTDOWN, "restart")
    await until(lambda: alias.sessions and alias.sessions[0].closed)
    alias_link = agent._dialer._links[alias.tunnel_url]  # type: ignore[union-attr]
    server.stop()
    await until(lambda: bool(alias.live))
    assert alias_link.sessions
    alias.stop()


async def test_a_session_of_another_address_that_ends_while_this_one_is_dialled_is_not_missed(
    agent: Agent, server: FakeServer, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    alias = FakeServer(pair(authority, "alias"), server.instance)
    server.instances = alias.instances = [server.instance]
    await alias.start()
    server.peers = [alias.tunnel_url]
    connect = dialer.connect_client

    async def slow(url: str, *arguments: Any, **options: Any) -> None:
        try:
            await connect(url, *arguments, **options)
        except ConnectFailed as error:
            if error.status == dialer.CONFLICT and url == alias.tunnel_url:
                server.stop()
                await until(lambda: not agent._dialer.held)  # type: ignore[union-attr]
            raise

    monkeypatch.setattr(dialer, "connect_client", slow)
    server.live[0].close(Code.SHUTDOWN, "restart")
    await until(lambda: bool(alias.live))
    assert alias.turned_away == 1
    alias.stop()


async def test_two_addresses_of_one_instance_carry_one_session(
    agent: Agent, server: FakeServer, authority: Authority
) -> None:
    alias = FakeServer(pair(authority, "alias"), server.instance)
    await alias.start()
    server.peers = [alias.tunnel_url]
    server.live[0].close(Code.SHUTDOWN, "restart")
    await until(lambda: alias.sessions and alias.sessions[0].closed)
    assert len(server.live) == 1
    assert not alias.live
    alias.stop()


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ([(b"Authorization", b"Bearer x")], "authorization"),
        ([(b"Proxy-Authorization", b"Basic x")], "proxy-authorization"),
        ([(b"X-Remote-User", b"admin")], "x-remote-user"),
        ([(b"X-Remote-Group", b"system:masters")], "x-remote-group"),
        ([(b"Cookie", b"a=b")], "cookie"),
        ([(b"Impersonate-User", b"mooring:eve")], "exactly one user"),
        ([(b"Impersonate-Group", b"system:masters")], "Kubernetes' own"),
        ([(b"Connection", b"Impersonate-User")], "Connection names other headers"),
    ],
)
async def test_what_a_server_must_not_send_is_refused_before_anything_is_sent(
    agent: Agent, server: FakeServer, kube: FakeKube, headers: list[tuple[bytes, bytes]], why: str
) -> None:
    client = await Client.ask(server.live[0], headers=headers).done()
    assert client.failure is not None
    assert client.failure[:2] == ("refused", Code.BAD_REQUEST)
    assert why in client.failure[2]
    assert kube.impersonated == []
    assert (await Client.ask(server.live[0]).done()).status == 200  # the session goes on


@pytest.mark.parametrize("user", [b"system:admin", b"System:Masters", b""])
async def test_a_user_of_kubernetes_own_is_refused(
    agent: Agent, server: FakeServer, kube: FakeKube, user: bytes
) -> None:
    client = await Client.ask(server.live[0], user=user).done()
    assert client.failure is not None
    assert client.failure[:2] == ("refused", Code.BAD_REQUEST)


@pytest.mark.parametrize("target", [b"//evil/api", b"http://evil/api", b"*", b"/a#b"])
async def test_a_target_that_is_not_a_path_is_refused(agent: Agent, server: FakeServer, target: bytes) -> None:
    client = await Client.ask(server.live[0], target=target).done()
    assert client.failure is not None
    assert client.failure[1] == Code.BAD_REQUEST


@pytest.mark.parametrize("where", ["etcd", "127.0.0.1:22", "APISERVER", "apiserver "])
async def test_nothing_but_the_allow_list_is_dialled(agent: Agent, server: FakeServer, where: str) -> None:
    client = await Client.ask(server.live[0], where=where).done()
    assert client.failure is not None
    assert client.failure[:2] == ("refused", Code.REFUSED_TARGET)


async def test_connection_headers_do_not_travel(agent: Agent, server: FakeServer, kube: FakeKube) -> None:
    async def answer(call: Call) -> None:
        await call.answer(200, {}, extra="Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nWarning: 299 - old\r\n")

    kube.handler = answer
    headers = [(b"Host", b"evil"), (b"Expect", b"100-continue"), (b"TE", b"trailers"), (b"Accept", b"a/b")]
    client = await Client.ask(server.live[0], headers=headers).done()
    sent = {name.lower() for name, _unused in kube.impersonated[0].head.headers}
    assert sent == {b"host", b"authorization", b"impersonate-user", b"accept"}
    back = parse_response_head(client.head)
    assert get(back.headers, b"warning") == b"299 - old"
    assert get(back.headers, b"connection") is None
    assert get(back.headers, b"keep-alive") is None


async def test_a_client_that_leaves_ends_the_watch_upstream(agent: Agent, server: FakeServer, kube: FakeKube) -> None:
    gone = asyncio.Event()

    async def watch(call: Call) -> None:
        await call.stream_head()
        await call.chunk(b'{"type":"ADDED"}\n')
        assert await call.gone()
        gone.set()

    kube.handler = watch
    client = Client.ask(server.live[0], target=b"/api/v1/pods?watch=1")
    await until(lambda: client.body == b'{"type":"ADDED"}\n')
    assert client.stream is not None
    client.stream.reset(Code.CANCEL, "")
    async with asyncio.timeout(10):
        await gone.wait()


async def test_a_lost_tunnel_ends_the_watches_upstream(agent: Agent, server: FakeServer, kube: FakeKube) -> None:
    gone = asyncio.Event()

    async def watch(call: Call) -> None:
        await call.stream_head()
        await call.chunk(b"x")
        assert await call.gone()
        gone.set()

    kube.handler = watch
    client = Client.ask(server.live[0], target=b"/api/v1/pods?watch=1")
    await until(lambda: client.body)
    server.live[0].close(Code.SHUTDOWN, "")
    async with asyncio.timeout(10):
        await gone.wait()


@pytest.mark.parametrize("how", [(b"Content-Length", b"%d" % (10 << 20)), (b"Transfer-Encoding", b"chunked")])
async def test_ten_megabytes_arrive_upstream_while_it_reads_slowly(
    agent: Agent, server: FakeServer, kube: FakeKube, how: tuple[bytes, bytes]
) -> None:
    got = bytearray()

    async def slow(call: Call) -> None:
        assert [pair for pair in call.head.headers if pair[0] == how[0]] == [how]
        if how[0] == b"Content-Length":
            while len(got) < 10 << 20:
                got.extend(await call.reader.read(65536))
                await asyncio.sleep(0)
        else:
            while size := int(await call.reader.readline(), 16):
                got.extend(await call.reader.readexactly(size))
                assert await call.reader.readexactly(2) == b"\r\n"
            assert await call.reader.readexactly(2) == b"\r\n"
        await call.answer(201, {"size": len(got)})

    kube.handler = slow
    client = Client.ask(server.live[0], b"POST", b"/api/v1/x", headers=[how], fin=False)
    assert client.stream is not None
    data = bytes(range(256)) * 4096
    for _unused in range(10):
        if not client.stream.write(data[: len(data)]):
            seen = client.writable
            await until(lambda seen=seen: client.writable > seen or client.failure)
    client.stream.end()
    await client.done()
    assert json.loads(client.body) == {"size": 10 << 20}
    assert bytes(got) == data * 10


async def test_a_download_that_nobody_reads_is_not_read_from_the_api_server_either(
    agent: Agent, server: FakeServer, kube: FakeKube
) -> None:
    total = 64 << 20
    sent = 0

    async def flood(call: Call) -> None:
        nonlocal sent
        call.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while sent < total:
            call.writer.write(b"z" * 262144)
            await call.writer.drain()
            sent += 262144

    kube.handler = flood
    client = Client.ask(server.live[0], consume=False)
    await until(lambda: client.body)
    before = -1
    while before != sent:
        before = sent
        await asyncio.sleep(0.1)
    assert sent < total // 4
    client.consume = True
    assert client.stream is not None
    client.stream.consumed(len(client.body))
    await client.done()
    assert len(client.body) == total


async def test_an_upgrade_is_a_raw_pipe_both_ways(agent: Agent, server: FakeServer, kube: FakeKube) -> None:
    async def exec_(call: Call) -> None:
        assert get(call.head.headers, b"upgrade") == b"SPDY/3.1"
        assert get(call.head.headers, b"connection") == b"Upgrade"
        call.writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\nhello ")
        while data := await call.reader.read(1000):
            call.writer.write(data.upper())

    kube.handler = exec_
    headers = [(b"Connection", b"Upgrade"), (b"Upgrade", b"SPDY/3.1")]
    client = Client.ask(server.live[0], b"POST", b"/api/v1/namespaces/a/pods/b/exec", headers, fin=False)
    await until(lambda: client.body == b"hello ")
    head = parse_response_head(client.head)
    assert (head.status, get(head.headers, b"upgrade")) == (101, b"SPDY/3.1")
    assert client.stream is not None
    client.stream.write(b"\x00abc")
    await until(lambda: client.body == b"hello \x00ABC")
    client.stream.end()
    await client.done()
    assert client.failure is None


@pytest.mark.parametrize("total", [100_000, 700_000, 5_000_000, 99_999_999])
async def test_the_last_bytes_of_an_exec_arrive_although_the_api_server_closes_at_once(
    agent: Agent, server: FakeServer, kube: FakeKube, total: int
) -> None:
    async def burst(call: Call) -> None:
        call.writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
        call.writer.write(b"e" * total)
        await call.writer.drain()
        raise ConnectionResetError  # ends the connection

    kube.handler = burst
    headers = [(b"Connection", b"Upgrade"), (b"Upgrade", b"SPDY/3.1")]
    path = b"/api/v1/namespaces/a/pods/b/exec"
    client = Client.ask(server.live[0], b"POST", path, headers, fin=False, consume=False)
    await until(lambda: client.body)
    assert client.stream is not None
    client.consume = True
    client.stream.consumed(len(client.body))
    await client.done()
    assert (len(client.body), client.failure) == (total, None)


async def test_a_refused_token_is_renewed_and_the_request_repeated_unseen(
    agent: Agent, server: FakeServer, kube: FakeKube
) -> None:
    kube.tokens += 1  # the API server now knows another token than the one it gave out
    client = await Client.ask(server.live[0]).done()
    assert (client.status, client.failure) == (200, None)
    assert [call.bearer for call in kube.impersonated] == ["impersonator-token-1", "impersonator-token-3"]


async def test_what_a_client_of_an_upgrade_says_while_the_token_is_renewed_is_not_lost(
    agent: Agent, server: FakeServer, kube: FakeKube
) -> None:
    async def echo(call: Call) -> None:
        call.writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
        while data := await call.reader.read(1000):
            call.writer.write(data.upper())

    def asked() -> int:
        return sum(call.path.endswith("/token") for call in kube.calls)

    kube.handler = echo
    before = asked()
    kube.tokens += 1  # the token that the agent has is refused
    kube.token_status = 503  # and there is no new one yet
    headers = [(b"Connection", b"Upgrade"), (b"Upgrade", b"SPDY/3.1")]
    client = Client.ask(server.live[0], b"POST", b"/api/v1/namespaces/a/pods/b/exec", headers, fin=False)
    await until(lambda: asked() > before)
    assert client.stream is not None
    client.stream.write(b"early ")
    client.stream.write(b"words")
    kube.token_status = 201
    await until(lambda: client.body == b"EARLY WORDS" or client.failure)
    assert client.failure is None


async def test_a_401_never_reaches_the_client(agent: Agent, server: FakeServer, kube: FakeKube) -> None:
    async def no(call: Call) -> None:
        await call.answer(401, {"kind": "Status", "code": 401})

    kube.handler = no
    client = await Client.ask(server.live[0], b"POST", headers=[(b"Content-Length", b"2")], fin=False).done()
    assert client.failure is not None
    assert client.failure[1] == Code.CREDENTIAL
    assert client.head == b""


async def test_a_401_of_a_proxied_program_is_its_own_business(agent: Agent, server: FakeServer, kube: FakeKube) -> None:
    async def no(call: Call) -> None:
        await call.answer(401, {"login": "please"})

    kube.handler = no
    client = await Client.ask(server.live[0], target=b"/api/v1/namespaces/a/services/b/proxy/").done()
    assert client.status == 401
    assert kube.tokens == 1


async def test_without_a_token_every_stream_is_refused(kube: FakeKube, server: FakeServer, running: Running) -> None:
    kube.token_status = 403
    kube.secrets["mooring-join"] = join_secret(server, kube.authority.crt)
    agent = running.start()
    await until(lambda: server.live)
    client = await Client.ask(server.live[0]).done()
    assert client.failure is not None
    assert client.failure[:2] == ("refused", Code.CREDENTIAL)
    assert kube.impersonated == []
    assert agent.problems()


async def test_an_api_server_that_is_down_is_a_refusal_and_comes_back(
    agent: Agent, server: FakeServer, kube: FakeKube
) -> None:
    kube.stop()
    for call in kube.calls:
        call.writer.transport.abort()
    await until(lambda: kube.connections == 0)
    client = await Client.ask(server.live[0]).done()
    assert client.failure is not None
    assert client.failure[:2] == ("refused", Code.UPSTREAM_UNREACHABLE)
    assert "connection refused" in client.failure[2].lower()
    await kube.start()
    assert (await Client.ask(server.live[0]).done()).status == 200


async def test_the_status_says_what_there_is_and_what_changes(agent: Agent, server: FakeServer, kube: FakeKube) -> None:
    def last() -> dict[str, object]:
        return server.messages[-1] if server.messages else {}

    await until(lambda: last().get("node_count") == 2 and last().get("kubernetes_version") and agent.problems() == [])
    assert last() == {
        "kind": "status",
        "kubernetes_version": "v1.36.3",
        "node_count": 2,
        "nodes_ready": 1,
        "api_server_healthy": True,
        "api_server_message": "",
        "agent_version": "0.1.0",
        "conditions": [{"type": "CredentialReady", "status": "True", "reason": "TokenIssued", "message": ""}],
    }
    await until(lambda: kube.watchers)
    kube.node_event("MODIFIED", "n2", "Ready,SchedulingDisabled")
    await until(lambda: last()["nodes_ready"] == 2)
    kube.node_event("ADDED", "n3", "Ready")
    await until(lambda: last()["node_count"] == 3)
    kube.node_event("DELETED", "n1", "Ready")
    await until(lambda: last()["node_count"] == 2)
    kube.ready = (500, b"[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n")
    await until(lambda: last()["api_server_healthy"] is False)
    assert last()["api_server_message"] == "[-]etcd failed: reason withheld"
    kube.version = "v1.37.0"
    kube.ready = (200, b"ok")
    await until(lambda: last()["kubernetes_version"] == "v1.37.0")


async def test_a_new_session_hears_the_status_at_once(agent: Agent, server: FakeServer) -> None:
    await until(lambda: server.messages)
    server.messages.clear()
    server.live[0].close(Code.SHUTDOWN, "restart")
    await until(lambda: len(server.sessions) == 2 and server.messages)


async def test_stopping_says_goaway_and_leaves_no_connection(
    agent: Agent, server: FakeServer, kube: FakeKube, running: Running
) -> None:
    session = server.live[0]
    await Client.ask(session).done()
    await running.stop()
    await until(lambda: session.closed and kube.connections == 0)
    assert not session.usable


@pytest.mark.usefixtures("agent")
async def test_a_policy_that_the_server_announces_is_looked_at(server: FakeServer, kube: FakeKube) -> None:
    server.live[0].message({"kind": "policy", "revision": 1, "digest": "0" * 64, "key": ""})

    def reviewed() -> bool:
        return any(call.path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" for call in kube.calls)

    await until(reviewed)
