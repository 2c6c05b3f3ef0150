# SPDX-License-Identifier: Apache-2.0
"""Attack class 14: server-side request forgery. Somebody makes the server, the agent or a client dial what they choose.

A cluster answers with redirects: client-go sends its token wherever one leads, so none that leaves the cluster is
passed on, and the agent follows none. A server that was taken over asks the agent for other targets: the agent dials
its API server and nothing else. `nodes/proxy` and `services/proxy` to metadata addresses are the API server's to
refuse. Guards: `proxy/forward.py` (`_safe_location`), `agent/dispatch.py` (targets, `check_head`),
`agent/apiserver.py` (one address).
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from mooring.agent.apiserver import ApiServer
from mooring.agent.credential import Credential
from mooring.agent.dispatch import Dispatcher
from mooring.kube.access import ApiServerConfig
from mooring.lib import pki
from mooring.lib.clock import SystemClock
from mooring.lib.secrets import Secret
from mooring.net.tls import client_context
from mooring.tunnel.stream import Code, Stream, pack_open
from support.glass import Glass
from support.rawhttp import RawClient, bearer

from .conftest import Person, Road

CREDENTIAL = "the-impersonators-token"
METADATA = "169.254.169.254"


class Trap:
    """A listener that nobody may dial; keeps what came."""

    def __init__(self) -> None:
        self.caught: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _unused = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(1)
                try:
                    self.caught.append(connection.recv(65536))
                except OSError:
                    self.caught.append(b"")

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def trap() -> Iterator[Trap]:
    it = Trap()
    yield it
    it.close()


def locations(port: int) -> list[bytes]:
    here = b"127.0.0.1:%d" % port
    return [
        b"http://%b/latest/meta-data/" % METADATA.encode(),
        b"https://" + here + b"/",
        b"http://" + here + b"/x",
        b"//" + here + b"/x",
        b"///" + here + b"/",
        b"/\\" + here + b"/",
        b"\\\\" + here,
        b"/\t/" + here + b"/",
        b"HTTP://" + here,
        b"ftp://" + here,
        b"//user@" + here + b"/",
        b"file:///etc/passwd",
        b"gopher://" + here,
        b"data:text/html,x",
        b"javascript:alert(1)",
        b"x/../../..",
        b"/../bow/api",
        b"/a/%2e%2e/%2E./../bow/api",
        b"/.\t./.\t./bow/api",
        b"/a/..#",
        b"?next=//" + here,
        b"",
        b".",
        b"..",
    ]


def test_no_redirect_of_a_cluster_leads_a_client_away(road: Road, client: RawClient, glass: Glass, trap: Trap) -> None:
    usual = glass.answer
    try:
        for status in (301, 302, 303, 307, 308, 300):
            for location in locations(trap.port):
                answer = b"HTTP/1.1 %d R\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % (status, location)
                glass.answer = lambda call, answer=answer: (answer, b"")  # type: ignore[misc]
                got = client.request("GET", glass.path("/api"), bearer(road.server.admin_token))
                assert got.status == 502, (status, location, str(got))
                assert got.get(b"location") is None, (status, location)
        several = b"HTTP/1.1 302 R\r\nLocation: /api/\r\nlocation: http://%b/\r\nContent-Length: 0\r\n\r\n"
        glass.answer = lambda call: (several % METADATA.encode(), b"")
        got = client.request("GET", glass.path("/api"), bearer(road.server.admin_token))
        assert (got.status, got.get(b"location")) == (502, None)
        glass.answer = lambda call: (b"HTTP/1.1 302 R\r\nLocation: /api/?a=//b\r\nContent-Length: 0\r\n\r\n", b"")
        got = client.request("GET", glass.path("/api"), bearer(road.server.admin_token))
        assert (got.status, got.get(b"location")) == (302, b"/k8s/clusters/glass/api/?a=//b")
    finally:
        glass.answer = usual
    assert trap.caught == []


def test_the_cluster_is_not_made_to_dial_its_metadata_address(
    road: Road, client: RawClient, bob: Person, trap: Trap
) -> None:
    """A user with rights on Node objects names any address; `nodes/proxy` and `services/proxy` must not get there."""
    admin = bearer(road.server.admin_token, (b"Content-Type", b"application/json"))

    def put(path: str, body: dict[str, Any], method: str = "POST", kind: bytes = b"application/json") -> None:
        headers = bearer(road.server.admin_token, (b"Content-Type", kind))
        answer = client.request(method, road.a.path(path), headers, json.dumps(body).encode())
        assert answer.status in (200, 201), str(answer)

    ask = []
    for name, address in (("metadata", METADATA), ("loopback", "127.0.0.1")):
        put("/api/v1/nodes", {"metadata": {"name": name}})
        status = {
            "addresses": [{"type": "InternalIP", "address": address}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": trap.port}},
        }
        put(f"/api/v1/nodes/{name}/status", {"status": status}, "PATCH", b"application/strategic-merge-patch+json")
        ask += [
            f"/api/v1/nodes/{name}/proxy/",
            f"/api/v1/nodes/{name}:{trap.port}/proxy/",
            f"/api/v1/nodes/http:{name}:{trap.port}/proxy/latest/meta-data/",
        ]
    for path in ask:
        assert client.request("GET", road.a.path(path), bearer(bob.token)).status == 403, path
        answer = client.request("GET", road.a.path(path), admin)
        assert answer.status >= 400, (path, str(answer))
    assert trap.caught == []
    for name in ("metadata", "loopback"):
        client.request("DELETE", road.a.path(f"/api/v1/nodes/{name}"), admin)


# -- the agent, and a server that was taken over


class Tunnel:
    """The agent's end of one stream; the test is the server."""

    def __init__(self) -> None:
        self.refused: tuple[Code, str] | None = None
        self.head = b""
        self.over = asyncio.Event()
        self.closed = False

    def refuse(self, code: Code, message: str = "") -> None:
        self.refused = (code, message)
        self.over.set()

    def reset(self, code: Code, message: str = "") -> None:
        self.refuse(code, message)

    def opened(self, head: bytes, fin: bool = False) -> None:
        self.head = head
        if fin:
            self.over.set()

    def respond(self, head: bytes, body: bytes) -> None:
        self.opened(head, True)

    def write(self, data: bytes, fin: bool = False) -> bool:
        return True

    def end(self) -> None:
        self.over.set()

    def consumed(self, size: int) -> None:
        """Not counted."""


class Fixed:
    """A credential that is always there."""

    problem = ""

    def current(self) -> Secret:
        return Secret(CREDENTIAL)

    def rejected(self, token: Secret) -> None:
        """It stays."""


@contextmanager
def upstream(folder: Path, answer: bytes) -> Iterator[tuple[ApiServerConfig, list[bytes]]]:
    """In the place of the agent's API server: answers every request with the same bytes."""
    ca_pem, ca_key = pki.make_ca("upstream", 1_700_000_000.0)
    certificate, key = pki.make_server_certificate(ca_pem, ca_key, ["127.0.0.1"], __import__("time").time())
    (folder / "crt").write_text(certificate)
    (folder / "key").write_text(key.reveal())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "crt", folder / "key")
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                plain, _unused = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(plain, server_side=True) as connection:
                    connection.settimeout(20)
                    head = b""
                    while b"\r\n\r\n" not in head:
                        data = connection.recv(65536)
                        if not data:
                            break
                        head += data
                    if head:
                        seen.append(head)
                        connection.sendall(answer)
            except OSError:
                continue

    threading.Thread(target=serve, daemon=True).start()
    trust = client_context(ca_pem)
    config = ApiServerConfig(
        host="127.0.0.1", port=listener.getsockname()[1], own_tls=trust, stream_tls=trust, server_name="127.0.0.1"
    )
    try:
        yield config, seen
    finally:
        listener.close()


async def exchange(config: ApiServerConfig, payloads: list[bytes]) -> list[Tunnel]:
    """Open these streams at an agent whose API server is `config`; returns them when they are over."""
    apiserver = ApiServer(config, 4)
    dispatcher = Dispatcher(apiserver, cast(Credential, Fixed()), SystemClock())
    tunnels = []
    try:
        for payload in payloads:
            tunnel = Tunnel()
            dispatcher(cast(Stream, tunnel), payload, True)
            await asyncio.wait_for(tunnel.over.wait(), 60)
            tunnels.append(tunnel)
    finally:
        await dispatcher.aclose()
        await apiserver.aclose()
    return tunnels


USER = b"Impersonate-User: mooring:bob\r\n"


async def test_the_agent_dials_its_api_server_whatever_it_is_asked(tmp_path: Path, trap: Trap) -> None:
    here = b"127.0.0.1:%d" % trap.port
    targets = [
        "kubelet",
        "metadata",
        METADATA,
        here.decode(),
        "apiserver:443",
        "APISERVER",
        "apiserver ",
        "localhost",
        "etcd",
    ]
    heads = [
        b"GET http://" + here + b"/ HTTP/1.1\r\nHost: a\r\n" + USER,
        b"GET //" + here + b"/x HTTP/1.1\r\nHost: a\r\n" + USER,
        b"CONNECT " + here + b" HTTP/1.1\r\nHost: a\r\n" + USER,
        b"CONNECT / HTTP/1.1\r\nHost: a\r\n" + USER,
        b"GET @" + here + b"/ HTTP/1.1\r\nHost: a\r\n" + USER,
        b"GET * HTTP/1.1\r\nHost: a\r\n" + USER,
        b"TRACE / HTTP/1.1\r\nHost: a\r\n" + USER,
        b"GET /a#@" + here + b" HTTP/1.1\r\nHost: a\r\n" + USER,
    ]
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with upstream(tmp_path, ok) as (config, seen):
        hostile = [pack_open(target, b"GET / HTTP/1.1\r\nHost: a\r\n" + USER + b"\r\n") for target in targets]
        hostile += [pack_open("apiserver", head + b"\r\n") for head in heads]
        for tunnel, payload in zip(await exchange(config, hostile), hostile, strict=True):
            assert tunnel.refused is not None, payload
            assert tunnel.refused[0] in (Code.REFUSED_TARGET, Code.BAD_REQUEST), payload
        assert seen == []
        # A Host of the server's choice does not travel on: the API server, or a proxy before it, could route by it.
        [tunnel] = await exchange(
            config, [pack_open("apiserver", b"GET /x HTTP/1.1\r\nHost: " + here + b"\r\n" + USER + b"\r\n")]
        )
        assert tunnel.head.startswith(b"HTTP/1.1 200")
        assert here not in seen[0]
        assert b"Host: " + config.authority in seen[0]
    assert trap.caught == []


async def test_no_credential_leaves_by_a_redirect_of_the_api_server(tmp_path: Path, trap: Trap) -> None:
    for number, location in enumerate(locations(trap.port)[:12]):
        answer = b"HTTP/1.1 307 R\r\nLocation: %b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % location
        folder = tmp_path / str(number)
        folder.mkdir()
        with upstream(folder, answer) as (config, seen):
            [tunnel] = await exchange(
                config, [pack_open("apiserver", b"GET /x HTTP/1.1\r\nHost: a\r\n" + USER + b"\r\n")]
            )
            assert tunnel.head.startswith(b"HTTP/1.1 307"), (
                "the redirect is the server's to judge, not the agent's to follow"
            )
            assert len(seen) == 1, location
            assert CREDENTIAL.encode() in seen[0]
            assert CREDENTIAL.encode() not in tunnel.head
    assert trap.caught == []
