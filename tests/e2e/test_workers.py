# SPDX-License-Identifier: Apache-2.0
"""A server of several processes: each serves the cluster, each may die, all are exchanged while people work."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.road import Server, User, until

from .conftest import CLUSTER, Road

CONFIGMAPS = f"/k8s/clusters/{CLUSTER}/api/v1/namespaces/bobs/configmaps"
MANY = 16  # connections: that all of them meet the same one of two workers happens once in 30,000 times


class Caller:
    """A client with a connection that it keeps, as client-go does: a kept connection that was closed before anything
    came back is not a failure, the request goes on a new one."""

    def __init__(self, server: Server, token: str) -> None:
        parts = urlsplit(server.url)
        self._where = (str(parts.hostname), parts.port)
        self._tls = ssl.create_default_context(cafile=str(server.ca))
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._kept: http.client.HTTPSConnection | None = None

    def connection(self) -> http.client.HTTPSConnection:
        host, port = self._where
        return http.client.HTTPSConnection(host, port, context=self._tls, timeout=60)

    def call(self, method: str, path: str, body: Any = None) -> int:
        data = None if body is None else json.dumps(body)
        kept, self._kept = self._kept, None
        if kept is not None:
            try:
                return self._on(kept, method, path, data)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
                kept.close()
        return self._on(self.connection(), method, path, data)

    def fresh(self, path: str) -> int:
        """A call on a connection of its own."""
        self.close()
        status = self.call("GET", path)
        self.close()
        return status

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _on(self, connection: http.client.HTTPSConnection, method: str, path: str, data: str | None) -> int:
        connection.request(method, path, data, self._headers)
        answer = connection.getresponse()
        answer.read()
        if answer.will_close:
            connection.close()
        else:
            self._kept = connection
        return answer.status


class Watch:
    """A watch on a connection of its own, and what came on it."""

    def __init__(self, caller: Caller) -> None:
        self._connection = caller.connection()
        self._connection.request("GET", f"{CONFIGMAPS}?watch=1&timeoutSeconds=600", headers=caller._headers)
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200, self._answer.read()
        self.text = b""
        self.ended = threading.Event()
        sock = self._connection.sock
        assert sock is not None
        self.port = int(sock.getsockname()[1])
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while piece := self._answer.read1(65536):
                self.text += piece
        except (OSError, http.client.HTTPException):
            pass
        self.ended.set()

    def worker(self, server: Server) -> int:
        """The process at the other end."""
        inode = inode_of(server.port, self.port)
        return next(pid for pid in server.worker_pids() if inode in sockets_of(pid))

    def close(self) -> None:
        sock = self._connection.sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the server was quicker


def inode_of(local: int, remote: int) -> str:
    """The server's socket of a connection, by its two ports (proc(5), /proc/net/tcp)."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if int(words[1].split(":")[1], 16) == local and int(words[2].split(":")[1], 16) == remote:
            return words[9]
    raise AssertionError("no such connection")


def sockets_of(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry))
        except FileNotFoundError:
            continue
        if match:
            found.add(match[1])
    return found


def settled(server: Server) -> bool:
    """All processes are there, and each worker has the sessions that the others have."""
    try:
        if not all(Path(f"/proc/{pid}").exists() for pid in server.pids()):
            return False
        text = server.call("GET", "/metrics", token=server.admin_token).body.decode()
    except OSError:
        return False
    there = re.findall(r'^process_open_fds\{process="(worker-\d+)"\}', text, re.M)
    match = re.search(r"^mooring_tunnel_sessions (\d+)", text, re.M)
    workers = len(server.worker_pids())
    return match is not None and len(there) == workers and int(match[1]) >= workers and int(match[1]) % workers == 0


def state_of_cluster(server: Server) -> str:
    answer = server.call("GET", f"/api/v1/clusters/{CLUSTER}", token=server.admin_token)
    return str(answer.json()["state"]) if answer.status == 200 else f"status {answer.status}"


@pytest.fixture
def whole(road: Road) -> Iterator[Server]:
    """The road's server, whole before and after each test."""
    until("the server is whole", lambda: settled(road.server), 60)
    yield road.server
    until("the server is whole again", lambda: settled(road.server), 60)


@pytest.fixture
def admin(whole: Server) -> Iterator[Caller]:
    caller = Caller(whole, whole.admin_token)
    yield caller
    caller.close()


@pytest.fixture
def watches(whole: Server, road: Road) -> Iterator[list[Watch]]:
    """Watches of a user of the test's own, on every worker; the user is `.owner` of the first."""
    name = f"watcher{time.monotonic_ns() % 10**9}"
    user = whole.user(name, clusters=[CLUSTER], groups=["developers"])
    caller = Caller(whole, user.token)
    made = [Watch(caller) for _unused in range(MANY)]
    made[0].owner = user  # type: ignore[attr-defined]
    yield made
    for watch in made:
        watch.close()


def test_every_worker_has_a_session_and_serves_the_cluster(whole: Server, admin: Caller, watches: list[Watch]) -> None:
    assert len(whole.worker_pids()) >= 2
    assert {watch.worker(whole) for watch in watches} == set(whole.worker_pids())
    assert Counter(admin.fresh(CONFIGMAPS) for _unused in range(MANY)) == {200: MANY}


def test_a_revoked_token_is_refused_everywhere_and_what_it_holds_open_ends(whole: Server, watches: list[Watch]) -> None:
    user: User = watches[0].owner  # type: ignore[attr-defined]
    caller = Caller(whole, user.token)
    assert caller.fresh(CONFIGMAPS) == 200
    token_id = user.token.split("_")[1]
    whole.api("DELETE", f"/tokens/{token_id}")
    revoked = time.monotonic()
    refused = 0
    while refused < 20:
        began = time.monotonic()
        status = caller.fresh(CONFIGMAPS)
        assert status == 401 or began < revoked + 1, f"let in {began - revoked:.2f} s after the revocation"
        refused += status == 401
    for watch in watches:
        assert watch.ended.wait(30), "a watch goes on without a right"


def test_a_worker_that_is_killed_loses_its_own_streams_only_and_is_replaced(
    whole: Server, admin: Caller, watches: list[Watch]
) -> None:
    victim = watches[0].worker(whole)
    lost = [watch for watch in watches if watch.worker(whole) == victim]
    kept = [watch for watch in watches if watch not in lost]
    assert lost
    assert kept
    os.kill(victim, signal.SIGKILL)
    until("it is dead", lambda: not Path(f"/proc/{victim}").exists(), 30)
    # Nobody is refused meanwhile: what the kernel gives to the dead one's place waits for its replacement.
    assert Counter(admin.fresh(CONFIGMAPS) for _unused in range(MANY)) == {200: MANY}
    for watch in lost:
        assert watch.ended.wait(30)
    name = f"sign{time.monotonic_ns()}"
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
    assert admin.call("POST", CONFIGMAPS, body) == 201
    for watch in kept:
        until("the event arrives", lambda watch=watch: name.encode() in watch.text, 30)  # type: ignore[misc]
        assert not watch.ended.is_set()
    until("it is replaced", lambda: victim not in whole.worker_pids(), 30)
    assert state_of_cluster(whole) == "connected"


def test_control_that_is_killed_is_replaced_and_nobody_in_a_cluster_notices(whole: Server, admin: Caller) -> None:
    victim = whole.control_pid()
    os.kill(victim, signal.SIGKILL)
    while whole.control_pid() == victim:
        assert admin.fresh(CONFIGMAPS) == 200
    # Calls of the REST API are refused until the workers have found the new one.
    until("it knows the cluster", lambda: state_of_cluster(whole) == "connected", 60)


class Load(threading.Thread):
    """Lists and creates, one after the other, until it is told to end."""

    def __init__(self, server: Server, number: int) -> None:
        super().__init__(daemon=True)
        self._caller = Caller(server, server.admin_token)
        self._number = number
        self.answers: Counter[int] = Counter()
        self.created = 0
        self.error: BaseException | None = None
        self.over = threading.Event()

    def run(self) -> None:
        try:
            while not self.over.wait(0.02):  # a steady load, not all that the machine can do
                self.answers[self._caller.call("GET", f"{CONFIGMAPS}?limit=1")] += 1
                labels = {"load": str(self._number)}
                name = f"load-{self._number}-{self.created}"
                body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}}
                status = self._caller.call("POST", CONFIGMAPS, body)
                self.answers[status] += 1
                self.created += status == 201
        except BaseException as error:
            self.error = error
        self._caller.close()


def test_a_rolling_restart_under_load_gives_only_good_answers(whole: Server, road: Road) -> None:
    before = set(whole.pids())
    load = [Load(whole, number) for number in range(3)]
    for thread in load:
        thread.start()
    try:
        until("the load runs", lambda: all(thread.created for thread in load), 30)
        done = whole.mooring("server", "restart", "--config", whole.config)
        assert "are new" in done.stdout
        assert before & set(whole.pids()) == {whole.state()["pid"]}
        seen = [thread.created for thread in load]
        until("the load goes on", lambda: all(t.created > n for t, n in zip(load, seen, strict=True)), 30)
    finally:
        for thread in load:
            thread.over.set()
        for thread in load:
            thread.join(60)
    for thread in load:
        assert thread.error is None, repr(thread.error)
        assert set(thread.answers) == {200, 201}, thread.answers
    # No create was lost, and none was sent twice: a second one would have been answered with 409.
    made = road.direct("-n", "bobs", "get", "configmaps", "-l", "load", "-o", "name").splitlines()
    assert len(made) == sum(thread.created for thread in load)
    road.direct("-n", "bobs", "delete", "configmaps", "-l", "load", "--wait=false")
