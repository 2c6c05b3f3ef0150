# SPDX-License-Identifier: Apache-2.0
"""The endpoint that a cluster serves itself: the server's chain, with the cluster's copy of who may."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from pathlib import Path

import pytest
from mooring.agent.review import PATH as REVIEW
from mooring.endpoint.settings import DEFAULTS, limits
from mooring.lib.config import LimitsSection
from mooring.lib.errors import MooringError
from mooring.wire.endpoint import Settings
from mooring.wire.headers import get, get_all
from testbed.pki import Authority

from ..agent.fakes import Call, FakeKube, until
from . import scene as scenes
from .scene import CLUSTER, Scene, bearer, user

PODS = "/api/v1/namespaces/d/pods"
BOB = bearer("b")


async def test_a_call_runs_as_the_user_and_is_recorded(scene: Scene, kube: FakeKube) -> None:
    scene.deliver(user("bob", "b"))
    got = await scene.ask(PODS + "?limit=1", BOB, User_Agent="kubectl/v1")
    assert (got.status, json.loads(got.body)) == (200, {"user": "mooring:bob", "path": PODS})
    (call,) = kube.impersonated
    headers = call.head.headers
    assert call.head.target == PODS.encode() + b"?limit=1"
    assert get(headers, b"impersonate-uid") == b"x-bob"
    assert get_all(headers, b"impersonate-group") == [b"mooring:devs", b"system:authenticated"]
    assert get(headers, b"impersonate-extra-mooring.fleet%2ftoken-id") == f"e-{'a' * 11}b".encode()
    assert get_all(headers, b"authorization") == [f"Bearer {kube.token()}".encode()]
    (record,) = await scene.records(1)
    assert (record["user"], record["uid"], record["groups"]) == ("bob", "x-bob", ["devs"])
    assert (record["cluster"], record["cluster_id"], record["via"]) == ("prod", CLUSTER, "endpoint")
    assert (record["verb"], record["resource"], record["code"]) == ("list", "pods", 200)
    assert (record["source"], record["user_agent"]) == ("127.0.0.1", "kubectl/v1")
    assert record["request_id"] == got.headers["x-request-id"]


async def test_before_any_tokens_are_known_nobody_is_let_in(scene: Scene, kube: FakeKube) -> None:
    got = await scene.ask(PODS, BOB)
    assert (got.status, got.headers["retry-after"]) == (503, "5")
    assert kube.impersonated == []


@pytest.mark.parametrize(
    "token",
    [None, "", "x", bearer("c"), BOB[:-1] + "c", "mrg_t-aaaaaaaaaaaa_" + "b" * 52, "mrg_e-aaaaaaaaaaab_" + "b" * 52],
)
async def test_who_has_no_token_of_this_cluster_learns_nothing(scene: Scene, kube: FakeKube, token: str | None) -> None:
    scene.deliver(user("bob", "b"))
    for target in (PODS, "/metrics", "/healthz", "/readyz", "/version", "/livez", "/openapi/v2", "/",
                   "/.well-known/openid-configuration", "/openid/v1/jwks", "/tunnel/connect", "/schema",
                   "/api/v1/agents/register", "/k8s/clusters/prod/api", "/latest/meta-data/"):  # fmt: skip
        got = await scene.ask(target, token)
        assert got.status == 401, target
        assert got.headers["www-authenticate"] == 'Bearer realm="mooring"'
    assert kube.impersonated == []


async def test_a_token_whose_hash_is_of_another_cluster_is_good_for_nothing(scene: Scene, kube: FakeKube) -> None:
    """The Secret of cluster A, copied into cluster B by hand and signed by the same server."""
    scene.deliver(user("bob", "b", cluster="c-bbbbbbbbbbbb"))
    assert (await scene.ask(PODS, BOB)).status == 401
    assert kube.impersonated == []


async def test_paths_of_the_server_are_paths_of_the_cluster_here(scene: Scene, kube: FakeKube) -> None:
    scene.deliver(user("bob", "b"))
    for target in ("/metrics", "/healthz", "/tunnel/connect", "/api/v1/agents/register", "/k8s/clusters/prod/api"):
        assert json.loads((await scene.ask(target, BOB)).body) == {"user": "mooring:bob", "path": target}


@pytest.mark.parametrize("target", ["/api/../metrics", "/api/%2e%2e/x", "/./api", "//evil.example/api"])
async def test_paths_that_two_could_read_in_two_ways_are_refused(scene: Scene, kube: FakeKube, target: str) -> None:
    scene.deliver(user("bob", "b"))
    assert (await scene.ask(target, BOB)).status == 400
    assert kube.impersonated == []


@pytest.mark.parametrize(
    "name",
    ["X-Remote-User", "X-Remote-Group", "X-Remote-Extra-Scopes", "X-Forwarded-For", "X-Real-IP", "Cookie",
     "X-Mooring-Source", "Proxy-Authorization"],
)  # fmt: skip
async def test_identity_headers_of_a_client_do_not_travel(scene: Scene, kube: FakeKube, name: str) -> None:
    scene.deliver(user("bob", "b"))
    assert (await scene.ask(PODS, BOB, **{name.replace("-", "_"): "admin"})).status == 200
    (call,) = kube.impersonated
    assert get(call.head.headers, name.lower().encode()) is None
    assert get_all(call.head.headers, b"impersonate-user") == [b"mooring:bob"]


@pytest.mark.parametrize("name", ["Impersonate_Group", "Impersonate_Uid", "Impersonate_Extra_scopes"])
async def test_an_impersonation_without_a_user_is_refused(scene: Scene, kube: FakeKube, name: str) -> None:
    scene.deliver(user("bob", "b"))
    assert (await scene.ask(PODS, BOB, **{name: "system:masters"})).status in (400, 403)
    assert kube.impersonated == []


@pytest.mark.parametrize(("allowed", "status"), [(True, 200), (False, 403), (None, 503)])
async def test_acting_as_another_is_for_the_cluster_to_decide(
    scene: Scene, kube: FakeKube, allowed: bool | None, status: int
) -> None:
    asked: list[str] = []

    async def cluster(call: Call) -> None:
        if call.path.encode() != REVIEW:
            await kube.whoami(call)
            return
        await call.reader.readexactly(int(get(call.head.headers, b"content-length") or b"0"))
        asked.append((get(call.head.headers, b"impersonate-user") or b"").decode())
        await call.answer(500 if allowed is None else 201, {"status": {"allowed": allowed}})

    kube.handler = cluster
    scene.deliver(user("bob", "b"))
    got = await scene.ask(PODS, BOB, Impersonate_User="alice")
    assert asked == ["mooring:bob"]
    assert got.status == status
    calls = [call for call in kube.impersonated if call.path.encode() != REVIEW]
    assert [get(call.head.headers, b"impersonate-user") for call in calls] == ([b"alice"] if allowed else [])
    (record,) = await scene.records(1)
    assert (record["user"], record["impersonatedUser"]["username"]) == ("bob", "alice")


async def test_plain_http_gets_nothing(scene: Scene, kube: FakeKube) -> None:
    scene.deliver(user("bob", "b"))
    reader, writer = await asyncio.open_connection("127.0.0.1", scene.endpoint.port)
    writer.write(f"GET {PODS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {BOB}\r\n\r\n".encode())
    async with asyncio.timeout(15):
        assert b"HTTP/1.1 200" not in await reader.read(-1)
    writer.close()
    assert kube.impersonated == []


async def test_only_modern_tls_is_spoken(scene: Scene) -> None:
    context = ssl.create_default_context(cadata=scene.authority.crt.read_text())
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", scene.endpoint.port, ssl=context)


async def watch(scene: Scene, kube: FakeKube, token: str = BOB) -> asyncio.StreamReader:
    """An open watch that has got its first event."""

    async def stream(call: Call) -> None:
        await call.stream_head()
        await call.chunk(b"event\n")
        await call.gone()
        raise ConnectionResetError

    kube.handler = stream
    reader, writer = await scene.open()
    scene.writers.append(writer)
    writer.write(f"GET {PODS}?watch=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert await reader.readuntil(b"event\n")
    return reader


async def cut(reader: asyncio.StreamReader, kube: FakeKube, seconds: float = 2.0) -> None:
    began = time.monotonic()
    async with asyncio.timeout(10):
        try:
            assert b"0\r\n\r\n" not in await reader.read(-1), "it looks complete"
        except (ConnectionError, ssl.SSLError):
            pass
    assert time.monotonic() - began < seconds
    await until(lambda: kube.connections <= 3)  # no watch is left behind at the API server


@pytest.mark.parametrize("how", ["token", "user", "group", "disabled", "prefix", "shard is broken"])
async def test_a_right_that_is_taken_away_ends_what_is_open(scene: Scene, kube: FakeKube, how: str) -> None:
    scene.deliver(user("bob", "b", "c"), user("eve", "e"))
    reader = await watch(scene, kube)
    others = await watch(scene, kube, bearer("e"))
    match how:
        case "token":
            scene.deliver(user("bob", "c"), user("eve", "e"))
        case "user":
            scene.deliver(user("eve", "e"))
        case "group":
            scene.deliver(user("bob", "b", "c", groups=()), user("eve", "e"))
        case "disabled":
            scene.deliver(user("bob", "b", "c", enabled=False), user("eve", "e"))
        case "prefix":
            scene.deliver(user("bob", "b", "c"), user("eve", "e"), settings=Settings(prefix="other:"))
        case _:
            for number in range(16):
                if number != scenes.shard_of("u-eveaaaaaaaaa"):
                    scene.endpoint.feed.shard(number, ())
    await cut(reader, kube, 1.0)
    if how != "prefix":
        assert not others.at_eof()
    if how not in ("group", "prefix"):
        assert (await scene.ask(PODS, BOB)).status == 401
    records = await scene.records(3)
    assert [r["stage"] for r in records if r["user"] == "bob"][:2] == ["start", "end"]
    assert next(r for r in records if r["stage"] == "end")["outcome"].startswith("cut: ")


async def test_a_token_that_ends_cuts_what_is_open(scene: Scene, kube: FakeKube) -> None:
    scene.deliver(user("bob", "b", end=time.time() + 1.5))
    await cut(await watch(scene, kube), kube, 4.0)
    assert (await scene.ask(PODS, BOB)).status == 401


async def test_the_grace_holds_while_the_server_is_away_and_ends_with_it(scene: Scene, kube: FakeKube) -> None:
    grace = Settings(prefix="mooring:", grace=600)
    scene.deliver(user("bob", "b", end=time.time() - 10), settings=grace)
    assert (await scene.ask(PODS, BOB)).status == 401
    scene.endpoint.copy.link(False)
    assert (await scene.ask(PODS, BOB)).status == 200
    reader = await watch(scene, kube)
    scene.endpoint.copy.link(True)
    await cut(reader, kube)
    assert (await scene.ask(PODS, BOB)).status == 401


async def test_a_clock_that_is_set_back_brings_nothing_back(scene: Scene, kube: FakeKube) -> None:
    """The server's documents say how late it is at least, whatever this machine's clock says."""
    scene.deliver(user("bob", "b", end=time.time() + 3600))
    assert (await scene.ask(PODS, BOB)).status == 200
    scene.endpoint.copy.time.at_least(time.time() + 3600)
    assert (await scene.ask(PODS, BOB)).status == 401


async def test_an_older_index_is_not_taken(scene: Scene) -> None:
    scene.deliver(user("bob", "b"), revision=7)
    scene.deliver(user("eve", "e"), revision=8)
    with pytest.raises(Exception, match="revision"):
        scene.deliver(user("bob", "b"), revision=7)
    assert (await scene.ask(PODS, BOB)).status == 401


async def test_an_exec_is_raw_both_ways_and_is_cut_too(scene: Scene, kube: FakeKube) -> None:
    async def shell(call: Call) -> None:
        call.writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n$ ")
        while data := await call.reader.read(1000):
            call.writer.write(data.upper())
        raise ConnectionResetError

    kube.handler = shell
    scene.deliver(user("bob", "b"))
    reader, writer = await scene.open()
    writer.write(
        f"POST {PODS}/p/exec?command=sh HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {BOB}\r\n"
        "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n".encode()
    )
    async with asyncio.timeout(10):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
        assert await reader.readexactly(2) == b"$ "
        for _unused in range(3):
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"HELLO"
    scene.deliver()
    await cut(reader, kube)
    writer.close()


async def test_large_bodies_pass_whole_and_a_slow_reader_holds_little(scene: Scene, kube: FakeKube) -> None:
    size = 24 * 1024 * 1024
    wrote = 0

    async def large(call: Call) -> None:
        nonlocal wrote
        length = int(get(call.head.headers, b"content-length") or b"0")
        assert len(await call.reader.readexactly(length)) == length
        call.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _unused in range(size // 65536):
            call.writer.write(bytes(65536))
            await call.writer.drain()
            wrote += 65536

    kube.handler = large
    scene.deliver(user("bob", "b"))
    reader, writer = await scene.open()
    body = bytes(3_000_000)
    writer.write(
        f"POST {PODS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {BOB}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
    )
    writer.write(body)
    async with asyncio.timeout(30):
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(1.0)
        assert wrote < 16 * 1024 * 1024, "nobody reads, and the cluster was read all the same"
        assert len(await reader.readexactly(size)) == size
    writer.close()


async def test_a_client_that_goes_away_leaves_no_watch_behind(scene: Scene, kube: FakeKube) -> None:
    scene.deliver(user("bob", "b"))
    before = kube.connections
    await watch(scene, kube)
    assert kube.connections > before
    scene.endpoint.registry.cut_all("stop", "test")
    await until(lambda: kube.connections <= before)


async def test_nothing_is_carried_out_that_cannot_be_recorded(scene: Scene, kube: FakeKube) -> None:
    scene.deliver(user("bob", "b"))
    scene.journal.limit = 1
    assert (await scene.ask(PODS, BOB)).status == 200
    await scene.records(1)
    scene.journal.tidy()
    got = await scene.ask(PODS, BOB)
    assert (got.status, len(kube.impersonated)) == (503, 1)
    assert "wait for the server" in got.message


async def test_bounds_are_the_servers(kube: FakeKube, authority: Authority, tmp_path: Path) -> None:
    scene = await scenes.make(kube, authority, tmp_path, "max_streams_per_user=1", "head_bytes=4096")
    try:
        scene.deliver(user("bob", "b"), user("eve", "e"))
        open_ = await watch(scene, kube)
        assert (await scene.ask(PODS, BOB)).status == 429
        kube.handler = kube.whoami
        assert (await scene.ask(PODS, bearer("e"))).status == 200
        assert (await scene.ask(PODS, bearer("e"), X_Long="x" * 5000)).status == 431
        assert not open_.at_eof()
    finally:
        await scenes.end(scene)


def test_limits_are_given_by_the_servers_names() -> None:
    assert set(DEFAULTS) <= set(LimitsSection.__struct_fields__)
    assert limits().max_connections == 1_000
    assert limits(["max_connections=7", "idle_timeout_seconds=1.5"]).max_connections == 7
    for wrong in ("nonsense=1", "max_connections", "max_connections=x", "max_connections=0", "max_api_requests=1"):
        with pytest.raises(MooringError):
            limits([wrong])
