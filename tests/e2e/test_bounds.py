# SPDX-License-Identifier: Apache-2.0
"""At a bound one is told so and nobody else is slowed; what does not read is not remembered.

One server, agent and API server for all of it, with bounds so low that a test meets them. Whoever meets one does so
from an address or as a user of the test's own; then another one does the same and gets through. With several server
processes each has its part of a bound, so tests go on until they are refused, and not a number of times.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import select
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.rawhttp import RawAnswer, RawClient, bearer
from support.road import Kubectl, Server, agent_process, stop_process, until
from testbed.controlplane import ControlPlane

NAME = "narrow"
PODS = f"/k8s/clusters/{NAME}/api/v1/namespaces/default/pods"
BIG = f"/k8s/clusters/{NAME}/api/v1/namespaces/default/configmaps?labelSelector=big"
OBJECTS, OBJECT_BYTES = 24, 900_000
READERS = 10
KIB, MIB = 1024, 1024 * 1024
KEY = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"  # of RFC 8032, section 7.1, test 1
SETTINGS = {
    "max_connections_per_address": 40,
    "max_handshakes_per_address": 20,
    "handshake_timeout_seconds": 5.0,
    "body_timeout_seconds": 3.0,
    "client_buffer_bytes": 64 * KIB,
    "max_streams_per_user_and_cluster": 12,
    "window_bytes": 64 * KIB,
    "window_max_bytes": 256 * KIB,
    "agent_handshakes_per_address": 30,
}
LONG = 60.0  # seconds; only a machine that stands still takes so long


@dataclass
class Narrow:
    """The road, its people, and the connections that a test leaves open, which are closed after it."""

    server: Server
    plane: ControlPlane
    agent: subprocess.Popen[bytes]
    tokens: dict[str, str]
    open: list[RawClient] = field(default_factory=list)

    def dial(self, source: str) -> RawClient:
        client = RawClient(self.server.address, self.server.port, self.server.ca, source)
        self.open.append(client)
        return client

    def works(self, source: str, who: str = "bob") -> None:
        """Somebody's call to the cluster is answered."""
        client = self.dial(source)
        answer = client.request("GET", PODS, bearer(self.tokens[who]))
        assert answer.status == 200, answer
        client.close()

    def met(self, bound: str) -> float:
        """How often a bound was met, says one server process."""
        text = self.server.call("GET", "/metrics", token=self.server.admin_token).body.decode()
        found = re.search(rf'^mooring_bound_refused_total{{bound="{bound}"}} (\S+)$', text, re.MULTILINE)
        assert found, f"{bound} is not in the metrics"
        return float(found[1])

    def counted(self, bound: str) -> None:
        until(f"{bound} is counted", lambda: self.met(bound) > 0)


@pytest.fixture(scope="module")
def narrow_road(control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Narrow]:
    folder = tmp_path_factory.mktemp("narrow")
    server = Server(folder / "server")
    server.init()
    text = server.config.read_text()
    for name, value in SETTINGS.items():
        text, count = re.subn(rf"^# {name} = .*$", f"{name} = {value}", text, count=1, flags=re.MULTILINE)
        assert count, f"{name} is no setting"
    server.config.write_text(text)
    agent: subprocess.Popen[bytes] | None = None
    try:
        server.start()
        direct = Kubectl(control_plane.bin / "kubectl", Path(control_plane.kubeconfig))
        server.api("POST", "/clusters", {"name": NAME})
        direct("apply", "-f", "-", stdin=server.mooring("cluster", "manifest", NAME, "--no-workload").stdout)
        agent = agent_process(direct, folder)
        # Kubernetes' own roles are empty without the controller manager, which puts them together.
        direct("create", "clusterrole", "narrow", "--verb=get,list,watch,create", "--resource=pods,configmaps")
        tokens = {"admin": server.admin_token}
        for name in ("bob", "greedy"):
            server.api("POST", "/users", {"name": name, "password": None})
            server.api("POST", "/memberships", {"cluster": NAME, "user": name})
            tokens[name] = server.api("POST", "/tokens", {"user": name, "ttl_seconds": 3600})["token"]
            direct("create", "clusterrolebinding", name, "--clusterrole=narrow", f"--user=mooring:{name}")

        def connected() -> bool:
            return server.call("GET", PODS, token=tokens["bob"]).status == 200

        until("the cluster is connected", connected, LONG)
        yield Narrow(server, control_plane, agent, tokens)
    finally:
        if agent is not None:
            stop_process(agent)
        server.stop()


@pytest.fixture
def narrow(narrow_road: Narrow) -> Iterator[Narrow]:
    yield narrow_road
    while narrow_road.open:
        narrow_road.open.pop().close()


def is_status(answer: RawAnswer, code: int) -> str:
    """It is a Kubernetes Status that says when to come back. Returns its message."""
    assert answer.status == code, answer
    document = answer.json()
    assert (document["kind"], document["status"], document["code"]) == ("Status", "Failure", code)
    assert int(answer.get(b"retry-after") or 0) >= 1, answer.head
    return str(document["message"])


def is_problem(answer: RawAnswer, code: int) -> int:
    """It is a problem document (RFC 9457) that says when to come back. Returns when, in seconds."""
    assert answer.status == code, answer
    assert answer.get(b"content-type") == b"application/problem+json"
    assert answer.json()["status"] == code
    return int(answer.get(b"retry-after") or 0)


def until_refused(what: str, attempt: Callable[[], RawAnswer | None], code: int, most: int) -> RawAnswer:
    """Repeat an attempt until it is answered with `code`, `most` times at most."""
    for _unused in range(most):
        answer = attempt()
        if answer is not None and answer.status == code:
            return answer
    raise AssertionError(f"{what}: no {code} in {most} attempts")


# -- memory ------------------------------------------------------------------------------------------------------------


def fill(plane: ControlPlane) -> None:
    """Big objects, put there past the server."""
    context = ssl.create_default_context(cafile=str(plane.ca))
    context.load_cert_chain(plane.admin.crt, plane.admin.key)
    for number in range(OBJECTS):
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"big-{number}", "labels": {"big": ""}},
            "data": {"noise": base64.b64encode(os.urandom(OBJECT_BYTES * 3 // 4)).decode()},
        }
        request = urllib.request.Request(
            f"{plane.server}/api/v1/namespaces/default/configmaps",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, context=context, timeout=LONG) as answer:
            assert answer.status == 201


def memory(process: int) -> int:
    """Bytes that a process and all below it have in memory."""
    total = 0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
        total += int(found[1]) * KIB if found else 0
        for task in Path(f"/proc/{process}/task").iterdir():
            total += sum(memory(int(child)) for child in (task / "children").read_text().split())
    return total


def settled(*processes: int) -> list[int]:
    """Their memory, once it has not changed by much for a while."""
    history: list[list[int]] = []

    def same() -> bool:
        history.append([memory(process) for process in processes])
        recent = history[-20:]
        return len(recent) == 20 and all(max(values) - min(values) < MIB // 2 for values in zip(*recent, strict=True))

    until("memory stays the same", same, LONG)
    return history[-1]


def test_clients_that_read_nothing_hold_a_window_each_and_slow_nobody(narrow: Narrow) -> None:
    fill(narrow.plane)
    assert narrow.server.process is not None
    processes = (narrow.server.process.pid, narrow.agent.pid)
    warm = narrow.dial("127.0.5.1").request("GET", BIG + "&limit=1", bearer(narrow.tokens["bob"]))
    assert warm.status == 200
    before = settled(*processes)

    readers = []
    for _unused in range(READERS):
        client = narrow.dial("127.0.5.2")
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * KIB)
        client.send(f"GET {BIG} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {narrow.tokens['bob']}\r\n\r\n".encode())
        readers.append(client)
    for client in readers:
        until("the answer has begun", lambda client=client: select.select([client.socket], [], [], 0)[0], LONG)
    after = settled(*processes)

    grown = [now - then for now, then in zip(after, before, strict=True)]
    body = OBJECTS * OBJECT_BYTES
    print(f"\n{READERS} clients that read nothing of {body / MIB:.0f} MiB each: "
          f"server +{grown[0] / MIB:.1f} MiB, agent +{grown[1] / MIB:.1f} MiB")  # fmt: skip
    # Each may hold a window, what waits for the client, and the buffers of TLS; the agent a send buffer of 256 KiB.
    each = int(SETTINGS["window_max_bytes"] + SETTINGS["client_buffer_bytes"] + 512 * KIB)
    assert grown[0] < READERS * each + 8 * MIB
    assert grown[1] < READERS * each + 8 * MIB

    narrow.works("127.0.5.3")
    whole = readers[0].answer()
    assert whole.status == 200
    assert len(whole.json()["items"]) == OBJECTS
    assert len(whole.body) > body


# -- counts ------------------------------------------------------------------------------------------------------------


def test_greedy_user_gets_429_and_another_ones_calls_are_answered(narrow: Narrow) -> None:
    def watch() -> RawAnswer | None:
        client = narrow.dial("127.0.6.1")
        answer = None
        client.send(
            f"GET {PODS}?watch=1&allowWatchBookmarks=true HTTP/1.1\r\nHost: h\r\n"
            f"Authorization: Bearer {narrow.tokens['greedy']}\r\n\r\n".encode()
        )
        first = b""
        while b"\r\n\r\n" not in first:
            first += client.socket.recv(1)
        if b" 200 " not in first.split(b"\r\n")[0]:
            client._buffer = first
            answer = client.answer()
        return answer

    refused = until_refused("watches", watch, 429, 200)
    assert "too many open requests in cluster" in is_status(refused, 429)
    narrow.works("127.0.6.1", "bob")
    narrow.counted("streams_per_user_and_cluster")
    while narrow.open:
        narrow.open.pop().close()

    def again() -> bool:
        return narrow.dial("127.0.6.1").request("GET", PODS, bearer(narrow.tokens["greedy"])).status == 200

    until("the user gets in again", again)


def test_flooding_address_gets_503_and_others_get_in(narrow: Narrow) -> None:
    def connect() -> RawAnswer | None:
        return narrow.dial("127.0.7.1").request("GET", "/healthz")

    refused = until_refused("connections", connect, 503, 500)
    assert "too many connections from your address" in is_status(refused, 503)
    narrow.works("127.0.7.2")
    narrow.counted("connections_per_address")
    while narrow.open:
        narrow.open.pop().close()
    until("the address gets in again", lambda: narrow.dial("127.0.7.1").request("GET", "/healthz").status == 200)


def test_half_open_handshakes_are_bounded_and_end_by_themselves(narrow: Narrow) -> None:
    def ended(connection: socket.socket) -> bool:
        if not select.select([connection], [], [], 0)[0]:
            return False
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b"", "nobody has begun a handshake"
        return True

    half_open: list[socket.socket] = []
    server = (narrow.server.address, narrow.server.port)
    try:
        turned_away = False
        for _unused in range(500):
            try:
                half_open.append(socket.create_connection(server, LONG, ("127.0.8.1", 0)))
            except ConnectionError:
                turned_away = True
            if turned_away or any(map(ended, half_open)):
                break
        else:
            raise AssertionError("500 half-open handshakes from one address")
        narrow.works("127.0.8.2")
        narrow.counted("handshakes_per_address")
        until("all have ended", lambda: all(map(ended, half_open)), LONG)
        narrow.counted("handshake_timeout")
        narrow.works("127.0.8.1")
    finally:
        for connection in half_open:
            connection.close()


# -- sizes and times ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "bound"),
    [([(b"X-N", b"1")] * 300, "headers"), ([(b"X-Long", b"x" * 70_000)], "head_bytes")],
    ids=["headers", "bytes"],
)
def test_head_over_a_bound_gets_431(narrow: Narrow, headers: list[tuple[bytes, bytes]], bound: str) -> None:
    is_status(narrow.dial("127.0.9.1").request("GET", PODS, bearer(narrow.tokens["bob"], *headers)), 431)
    narrow.counted(bound)


def test_body_that_trickles_gets_408(narrow: Narrow) -> None:
    client = narrow.dial("127.0.9.2")
    client.send(
        f"POST {PODS} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {narrow.tokens['bob']}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n".encode()
    )

    def trickle() -> bool:
        with contextlib.suppress(OSError):
            client.send(b" ")
        return bool(select.select([client.socket], [], [], 0)[0])

    until("the server has had enough", trickle, LONG)
    answer = client.answer()
    assert answer.status == 408, answer
    assert answer.json()["kind"] == "Status"
    narrow.counted("body_timeout")


# -- attempts ----------------------------------------------------------------------------------------------------------


def test_wrong_passwords_wait_longer_each_time_and_only_from_there(narrow: Narrow) -> None:
    password = (narrow.server.folder / "admin.password").read_text()

    def login(source: str, text: str) -> RawAnswer:
        body = json.dumps({"username": "admin", "password": text}).encode()
        return clients[source].request("POST", "/api/v1/login", [(b"Content-Type", b"application/json")], body)

    clients = {source: narrow.dial(source) for source in ("127.0.10.1", "127.0.10.2")}
    waits: list[int] = []
    # A wait counts from the try, and checking a password takes a while itself: on a busy machine, some rounds more.
    while not waits or waits[-1] < max(4, 2 * waits[0]):
        assert len(waits) < 8, f"it does not grow: {waits}"
        if waits:
            until("the next try is looked at", lambda: login("127.0.10.1", "wrong").status == 401, LONG)
        refused = until_refused("logins", lambda: login("127.0.10.1", "wrong"), 429, 20)
        waits.append(is_problem(refused, 429))
    assert is_problem(login("127.0.10.1", password), 429) > 0, "the right password does not jump the queue"
    assert login("127.0.10.2", password).status == 201
    narrow.counted("login_attempts")


def test_failed_registrations_are_delayed(narrow: Narrow) -> None:
    def register() -> RawAnswer:
        body = {"join_token": f"mrj_{'a' * 12}_{'b' * 43}", "public_key": KEY, "cluster_uid": "u"}
        kind = [(b"Content-Type", b"application/json")]
        return client.request("POST", "/api/v1/agents/register", kind, json.dumps(body).encode())

    client = narrow.dial("127.0.10.3")
    assert register().status == 401
    assert is_problem(until_refused("registrations", register, 429, 100), 429) >= 1
    narrow.counted("join_attempts")


def test_agents_handshakes_from_one_address_have_a_rate(narrow: Narrow) -> None:
    upgrade = [
        (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="), (b"Sec-WebSocket-Protocol", b"mooring-tunnel.1"),
    ]  # fmt: skip

    def knock() -> RawAnswer:
        client = narrow.dial("127.0.10.4")
        try:
            return client.request("GET", "/tunnel/connect", bearer("a.b.c", *upgrade))
        finally:
            client.close()

    assert knock().status == 401
    assert "too many agents" in is_status(until_refused("handshakes", knock, 429, 500), 429)
    narrow.counted("agent_handshakes")
    narrow.works("127.0.10.5")


def test_the_road_is_as_it_was(narrow: Narrow) -> None:
    """After all of the above: no exchange, handshake or connection is left that nobody holds."""

    def left() -> dict[str, float]:
        text = narrow.server.call("GET", "/metrics", token=narrow.server.admin_token).body.decode()
        names = ("mooring_proxy_exchanges_open", "mooring_tunnel_streams", "mooring_edge_handshakes")
        return {name: float(re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)[0]) for name in names}

    deadline = time.monotonic() + LONG
    while any(left().values()):
        assert time.monotonic() < deadline, left()
    narrow.works("127.0.11.1")
    assert "Traceback" not in (narrow.server.folder / "server.log").read_text()
