# SPDX-License-Identifier: Apache-2.0
"""The listening sockets. The supervisor binds them and never accepts: so they outlive the processes that do.

Each worker has a socket of its own on the one port (SO_REUSEPORT), and the kernel spreads connections over them. The
supervisor keeps them all open: what waits in the queue of a worker that died is taken up by the next one. Only when no
next one can be started are they closed, so that the kernel gives connections to the others.

It must not: share the port with a program that is not ours. SO_REUSEPORT would let it, so the port is tried without
that first.
"""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path

from mooring.lib.config import Config, ConfigError
from mooring.lib.errors import MooringError


def bind(config: Config, workers: int) -> list[list[socket.socket]]:
    """Bound sockets for each worker: one per address family. Raises ConfigError when the port cannot be had."""
    made: list[list[socket.socket]] = []
    try:
        for family, address in _addresses(config):
            _socket(family, address, shared=False).close()
        for _unused in range(workers):
            made.append(_bind_one(config))
    except OSError as error:
        for sock in itertools.chain(*made):
            sock.close()
        raise _refused(config, error) from None
    return made


def bind_again(config: Config) -> list[socket.socket]:
    """Bound sockets for one more worker on a port that is ours already. Raises ConfigError."""
    try:
        return _bind_one(config)
    except OSError as error:
        raise _refused(config, error) from None


def _refused(config: Config, error: OSError) -> ConfigError:
    return ConfigError(
        f"cannot listen on {config.server.listen}: {error.strerror or error}",
        "another program may have the port; correct server.listen, or stop that program",
    )


def _addresses(config: Config) -> list[tuple[int, tuple[object, ...]]]:
    host, port = config.address
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    every: list[tuple[int, tuple[object, ...]]] = [(family, address) for family, _type, _proto, _name, address in found]
    addresses = list(dict.fromkeys(every))
    return addresses if host else [each for each in addresses if _supported(each[0])]


def _bind_one(config: Config) -> list[socket.socket]:
    made: list[socket.socket] = []
    try:
        for family, address in _addresses(config):
            made.append(_socket(family, address, shared=True))
    except BaseException:
        for sock in made:
            sock.close()
        raise
    return made


def _supported(family: int) -> bool:
    try:
        socket.socket(family, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def _socket(family: int, address: tuple[object, ...], *, shared: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def unix_listener(path: Path) -> socket.socket:
    """A listening socket at `path` with mode 0600, in place of one that a dead server left. Raises MooringError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise MooringError(f"the socket {path} cannot be made: {error}", "correct server.run_dir") from None
    return listener
