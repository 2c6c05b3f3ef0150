# SPDX-License-Identifier: Apache-2.0
"""Attack class 20: exhaustion without authentication. Somebody uses the server up, so that nobody else is served.

Slow heads, slow bodies, many connections, half-open TLS, heads and bodies over their bounds, compressed bombs; and an
agent gone bad, with oversized frames, windows that overflow and floods. Each ends by its bound, while somebody else,
from another address, is answered. The server is one of its own with short deadlines. Guards: `edge/listener.py`,
`edge/connection.py`, `edge/rest.py`, `authn/throttle.py`, `wire/frames.py`, `wire/mux.py`, `tunnel/carrier.py`,
`tunnel/session.py`.
"""

from __future__ import annotations

import gzip
import json
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from mooring.agent.identity import Identity, new_key
from mooring.wire import frames
from mooring.wire.hello import Hello
from support import agentjwt
from support.glass import register
from support.rawhttp import RawClient, bearer
from support.road import Server, until

from .conftest import new_source

LIMITS = {
    "max_connections_per_address": 12,
    "max_handshakes_per_address": 8,
    "handshake_timeout_seconds": 1.5,
    "head_timeout_seconds": 1.5,
    "head_bytes": 8192,
    "headers": 20,
    "idle_timeout_seconds": 3.0,
    "body_timeout_seconds": 1.5,
    "linger_timeout_seconds": 1.0,
    "close_timeout_seconds": 2.0,
    "api_body_bytes": 20_000,
    "hello_timeout_seconds": 2.0,
    "login_free_per_user": 2,
}
GROWTH = 64 * 1024 * 1024  # bytes that an attack may cost the server's memory for a while


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    it = Server(tmp_path_factory.mktemp("small"))
    it.init()
    for name, value in LIMITS.items():
        it.set(name, str(value))
    it.set("workers", "1")  # processes share the bounds out, and this is about their sum
    it.start()
    yield it
    it.stop()


def dial(server: Server, source: str) -> RawClient:
    return RawClient(server.address, server.port, server.ca, source)


def memory(server: Server) -> int:
    """Resident memory of the server's processes together, in bytes."""
    assert server.process is not None
    total, waiting = 0, [server.process.pid]
    while waiting:
        pid = waiting.pop()
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            waiting += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except FileNotFoundError:
            continue
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        total += int(match[1]) * 1024 if match else 0
    return total


def others_are_served(server: Server, what: str) -> None:
    with dial(server, new_source()) as somebody:
        assert somebody.request("GET", "/version").status == 200, what
        answer = somebody.request("GET", "/api/v1/whoami", bearer(server.admin_token))
        assert answer.status == 200, (what, str(answer))


def rest(client: RawClient) -> bytes:
    """All that comes until the server closes."""
    client.socket.settimeout(60)
    got = b""
    try:
        while data := client.socket.recv(65536):
            got += data
    except ConnectionError:
        pass
    client.close()
    return got


def test_slow_heads_and_bodies_end_by_their_deadlines(small: Server) -> None:
    token = small.admin_token.encode()
    post = b"POST /api/v1/login HTTP/1.1\r\nHost: m\r\nContent-Type: application/json\r\n"
    slow = {
        "nothing at all": b"",
        "a byte": b"G",
        "half a head": b"GET /version HTTP/1.1\r\nHost: m\r\nX: ",
        "a head without its end": b"GET /version HTTP/1.1\r\nHost: m\r\n",
        "no body": post + b"Content-Length: 1000\r\n\r\n",
        "a byte of a body": post + b"Content-Length: 1000\r\n\r\n{",
        "half a chunk": post + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhe",
        "a body behind a refusal": b"POST /nothing HTTP/1.1\r\nHost: m\r\nContent-Length: 100000\r\n\r\n",
        "a body of a refused call": b"POST /k8s/clusters/x/api HTTP/1.1\r\nHost: m\r\nAuthorization: Bearer "
        + token
        + b"\r\nContent-Length: 10000\r\n\r\n",
    }
    source = new_source()
    clients = {name: dial(small, source) for name in slow}
    for name, client in clients.items():
        client.send(slow[name] or b"")
        _unused = client.socket  # the connection is there, also when nothing is sent
    others_are_served(small, "while nine are slow")
    for name, client in clients.items():
        got = rest(client)
        if slow[name]:
            status = got.split(b" ", 2)[1] if got else b""
            assert status in (b"408", b"404"), (name, got[:200])
        else:
            assert got == b"", name
    # A body that drips keeps nothing open either: under the rate it may have, it ends.
    with dial(small, source) as client:
        client.send(post + b"Content-Length: 1000\r\n\r\n")
        client.socket.settimeout(0.2)
        got = b""
        for _unused2 in range(300):
            try:
                client.send(b"{")
                got += client.socket.recv(65536)
                break
            except TimeoutError:
                continue
            except OSError:
                got += b"closed"
                break
        assert got.startswith((b"HTTP/1.1 408", b"closed")), got


def test_many_connections_of_one_address_leave_the_others_theirs(small: Server) -> None:
    source = new_source()
    kept: list[RawClient] = []
    refused = 0
    for _unused in range(40):
        client = dial(small, source)
        try:
            client.send(b"GET /version HTTP/1.1\r\n")
            kept.append(client)
        except OSError:
            refused += 1
    others_are_served(small, "while one address holds all of its connections")
    answered = []
    for client in kept:
        try:
            answered.append(client.exchange(b"Host: m\r\n\r\n", b"GET").status)
        except OSError:
            answered.append(0)
    assert answered.count(200) <= LIMITS["max_connections_per_address"], answered
    assert answered.count(200) >= 1
    assert set(answered) <= {200, 503, 408, 0}, answered
    assert refused + len([status for status in answered if status != 200]) >= 40 - int(
        LIMITS["max_connections_per_address"]
    )
    for client in kept:
        client.close()
    with dial(small, source) as client:
        until("the address may connect again", lambda: client.request("GET", "/version").status == 200, 30)


def test_half_open_handshakes_are_few_and_short(small: Server) -> None:
    source = new_source()
    half: list[socket.socket] = []
    for number in range(60):
        try:
            plain = socket.create_connection((small.address, small.port), 30, (source, 0))
            plain.settimeout(60)
            half.append(plain)
            if number % 2:
                plain.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # the beginning of a ClientHello
        except ConnectionError:
            continue  # over the bound: reset already
    others_are_served(small, "while sixty handshakes are half open")
    for plain in half:
        try:
            got = plain.recv(100)
        except ConnectionError:
            got = b""
        assert got == b"" or got[0] == 0x15, "closed, perhaps with a TLS alert"
        plain.close()
    text = small.call("GET", "/metrics", token=small.admin_token).body.decode()
    counted = re.findall(
        r'mooring_bound_refused_total\{bound="(handshakes_per_address|handshake_timeout)"\} ([0-9.]+)', text
    )
    assert len(half) >= int(LIMITS["max_handshakes_per_address"])
    assert {name for name, value in counted if float(value) > 0} == {"handshakes_per_address", "handshake_timeout"}


def test_what_is_too_large_is_refused_before_it_is_held(small: Server) -> None:
    before = memory(small)
    source = new_source()
    json_type = (b"Content-Type", b"application/json")
    bomb = gzip.compress(b"0" * 50_000_000)[:19_000]
    huge = b"POST /api/v1/login HTTP/1.1\r\nHost: m\r\nContent-Type: application/json\r\n"
    with dial(small, source) as client:
        attacks = {
            "a long head": (431, lambda: client.request("GET", "/version", [(b"X", b"a" * 9000)])),
            "a long target": (431, lambda: client.request("GET", "/version?" + "a" * 9000)),
            "many headers": (431, lambda: client.request("GET", "/version", [(b"X", b"a")] * 30)),
            "a head without end": (431, lambda: client.exchange(b"GET /version HTTP/1.1\r\nX: " + b"a" * 200_000)),
            "a long body": (413, lambda: client.exchange(huge + b"Content-Length: 1000000000\r\n\r\n")),
            "a body in many chunks": (
                413,
                lambda: client.exchange(
                    huge
                    + b"Transfer-Encoding: chunked\r\n\r\n"
                    + b"1000\r\n"
                    + b"a" * 4096
                    + b"\r\n"
                    + (b"1000\r\n" + b"a" * 4096 + b"\r\n") * 8
                ),
            ),
            "a compressed bomb": (
                415,
                lambda: client.request("POST", "/api/v1/login", [json_type, (b"Content-Encoding", b"gzip")], bomb),
            ),
            "a deep body": (400, lambda: client.request("POST", "/api/v1/login", [json_type], b"[" * 19_000)),
            "a long number": (
                400,
                lambda: client.request("POST", "/api/v1/login", [json_type], b'{"username":' + b"9" * 19_000 + b"}"),
            ),
        }
        for name, (status, attack) in attacks.items():
            answer = attack()
            wanted = (400, 415, 422) if status in (400, 415) else (status,)
            assert answer.status in wanted, (name, str(answer))
        client.close()
    others_are_served(small, "after all of that")
    assert memory(small) - before < GROWTH


def test_wrong_passwords_and_join_tokens_get_slower(small: Server) -> None:
    source = new_source()
    body = json.dumps({"username": "admin", "password": "wrong"}).encode()
    content = [(b"Content-Type", b"application/json")]
    with dial(small, source) as client:
        answers = [client.request("POST", "/api/v1/login", content, body) for _unused in range(6)]
        assert [answer.status for answer in answers[:2]] == [401, 401]
        late = [answer for answer in answers if answer.status == 429]
        assert late
        assert all(int(answer.get(b"retry-after") or 0) >= 1 for answer in late)
    password = (small.folder / "admin.password").read_text()
    right = json.dumps({"username": "admin", "password": password}).encode()
    with dial(small, new_source()) as other:
        assert other.request("POST", "/api/v1/login", content, right).status == 201, (
            "nobody locks the administrator out"
        )


# -- an agent gone bad: it has a credential, and its session is all that it can end


def message(payload: bytes, first: int = 0x82, length: int | None = None) -> bytes:
    """One WebSocket frame of a client (RFC 6455 section 5.2), with a mask of zeros."""
    size = len(payload) if length is None else length
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    return head + bytes(4) + payload


HELLO = message(frames.pack_hello(Hello(instance="bad", version="0")))


def hostile() -> dict[str, bytes]:
    frame = frames.frame
    more = message(frame(frames.MESSAGE, 0, b"a" * 32_000, frames.MORE))
    return {
        "no HELLO": b"",
        "a first frame that is not HELLO": message(frame(frames.PING, 0, bytes(8))),
        "a HELLO that is none": message(frame(frames.HELLO, 0, b'{"protocol":"x"}')),
        "a deep HELLO": message(frame(frames.HELLO, 0, b"[" * 30_000)),
        "a message of 2^62 bytes": HELLO + message(b"", length=2**62),
        "a message over the bound": HELLO + message(bytes(200_000)),
        "a fragmented message without end": HELLO
        + message(bytes(30_000), first=0x02)
        + message(bytes(30_000), first=0x00) * 40,
        "a compressed message": HELLO + message(frame(frames.PING, 0, bytes(8)), first=0xC2),
        "a text": HELLO + message(b"hello", first=0x81),
        "an unmasked frame": HELLO + b"\x82\x0e" + frame(frames.PING, 0, bytes(8)),
        "a second HELLO": HELLO + HELLO,
        "an OPEN": HELLO + message(frame(frames.OPEN, 1, b"\x09apiserver")),
        "DATA of no stream": HELLO + message(frame(frames.DATA, 7, b"x")),
        "OPENED of no stream": HELLO + message(frame(frames.OPENED, 99, b"x")),
        "an empty window": HELLO + message(frame(frames.WINDOW, 1, bytes(4))),
        "a window of no stream": HELLO + message(frame(frames.WINDOW, 2**31 - 1, b"\x7f\xff\xff\xff")),
        "a stream id over the bound": HELLO + message(frame(frames.RESET, 2**31, b"\0\0")),
        "pieces without end": HELLO + more * 8,
        "an unknown critical frame": HELLO + message(frame(0xF0, 0, b"")),
        "a message that is no JSON": HELLO + message(frame(frames.MESSAGE, 0, b"{" * 20_000)),
    }


def test_a_bad_agent_ends_its_own_session_and_nothing_else(small: Server) -> None:
    before = memory(small)
    small.api("POST", "/clusters", {"name": "bad"})
    identity = register(small, "bad", Identity(key=new_key()), "uid-of-bad")
    attacks = list(hostile().items())
    for batch in (attacks[:10], attacks[10:]):  # a cluster has so many sessions at most
        clients = []
        for name, data in batch:
            client = dial(small, new_source())
            clients.append(client)
            answer = agentjwt.handshake(client, agentjwt.good(identity))
            assert answer.status == 101, (name, str(answer))
            assert b"sec-websocket-extensions" not in dict(answer.headers), "nothing is ever decompressed"
            try:
                client.send(data)
            except OSError:
                pass  # it was cut off before it had said everything
        others_are_served(small, "beside bad agents")
        for (name, _unused), client in zip(batch, clients, strict=True):
            try:
                rest(client)
            except TimeoutError:
                raise AssertionError(f"{name}: the session is still there after a minute") from None
    assert memory(small) - before < GROWTH


def test_an_agent_that_floods_and_does_not_read_costs_no_memory(small: Server) -> None:
    before = memory(small)
    small.api("POST", "/clusters", {"name": "flood"})
    identity = register(small, "flood", Identity(key=new_key()), "uid-of-flood")
    ping = message(frames.frame(frames.PING, 0, bytes(8))) * 2000
    ignored = message(frames.frame(40, 0, bytes(30_000))) * 10
    with dial(small, new_source()) as client:
        assert agentjwt.handshake(client, agentjwt.good(identity)).status == 101
        client.send(HELLO)
        client.socket.settimeout(30)
        try:
            for _unused in range(20):
                client.send(ping + ignored)
        except OSError:
            pass  # cut off, or not read any more: both bound it
        others_are_served(small, "while an agent floods")
        assert memory(small) - before < GROWTH
