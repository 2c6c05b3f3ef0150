# SPDX-License-Identifier: Apache-2.0
"""One port for several processes, and for nobody else."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from mooring.app import sockets
from mooring.lib import config
from mooring.lib.config import Config, ConfigError


def settings(listen: str) -> Config:
    data = {
        "server": {"data_dir": "/var/lib/mooring", "listen": listen, "url": "https://localhost"},
        "tls": {"cert": "a", "key": "b", "ca": "c"},
    }
    return config.parse(data, Path("/etc/mooring.toml"))


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def bound(listen: str, workers: int) -> Iterator[list[list[socket.socket]]]:
    made = sockets.bind(settings(listen), workers)
    try:
        yield made
    finally:
        for some in made:
            for sock in some:
                sock.close()


def test_connections_are_spread_over_all_workers_and_none_is_lost_with_its_process(port: int) -> None:
    with bound(f"127.0.0.1:{port}", 2) as made:
        with pytest.raises(ConnectionRefusedError):  # bound, and nobody serves yet
            socket.create_connection(("127.0.0.1", port), 5)
        listeners = [some[0] for some in made]
        for listener in listeners:
            listener.listen(64)
        dying = listeners[0].dup()  # what a worker has; it ends without having accepted anything
        clients = [socket.create_connection(("127.0.0.1", port), 5) for _unused in range(32)]
        dying.close()
        met = set()
        for _unused in clients:
            ready, _writable, _errors = select.select(listeners, [], [], 10)
            met.add(ready[0])
            ready[0].accept()[0].close()
        assert met == set(listeners)
        for client in clients:
            client.close()


def test_a_worker_that_cannot_be_started_does_not_keep_its_part_of_the_connections(port: int) -> None:
    with bound(f"127.0.0.1:{port}", 2) as made:
        for some in made:
            some[0].listen(64)
        made[0][0].close()
        clients = [socket.create_connection(("127.0.0.1", port), 5) for _unused in range(32)]
        for client in clients:
            made[1][0].accept()[0].close()
            client.close()
        made[0] = sockets.bind_again(settings(f"127.0.0.1:{port}"))
        made[0][0].listen(64)
        clients = [socket.create_connection(("127.0.0.1", port), 5) for _unused in range(32)]
        assert select.select([made[0][0]], [], [], 10)[0]
        for client in clients:
            client.close()


def test_a_port_is_not_shared_with_another_program_also_when_that_would_let_us(port: int) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(ConfigError, match="cannot listen on"):
            sockets.bind(settings(f"127.0.0.1:{port}"), 2)


def test_every_address_means_both_families(port: int) -> None:
    with bound(f":{port}", 1) as made:
        families = {sock.family for sock in made[0]}
    assert socket.AF_INET in families
    assert families <= {socket.AF_INET, socket.AF_INET6}


def test_a_unix_socket_is_for_its_user_only_and_takes_the_place_of_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    sockets.unix_listener(path).close()
    with sockets.unix_listener(path) as listener:
        assert path.stat().st_mode & 0o777 == 0o600
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            listener.accept()[0].close()
