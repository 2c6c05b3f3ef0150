# SPDX-License-Identifier: Apache-2.0
"""Which TLS sessions are kept for the next handshake, and what keeping them costs.

The incident: an agent grew by 6 KB for each exec. Python before 3.12.8 and 3.13.1 loses a copy of the session each time
that `session` of a connection is read (python/cpython#116810), and it was read at the end of every connection.
"""

from __future__ import annotations

import ctypes
import gc
import ssl
from types import SimpleNamespace
from typing import cast

import pytest
from mooring.net.tls import client_context
from mooring.net.tlstransport import Resumption
from testbed.pki import Authority, Pair

CONNECTIONS = 300
EACH = 1024
"""Bytes of the C heap that a connection may leave behind; a session has six times as much."""


class _Heap(ctypes.Structure):
    """What mallinfo2(3) gives."""

    _fields_ = [(f"n{number}", ctypes.c_size_t) for number in range(7)] + [
        ("used", ctypes.c_size_t),  # uordblks
        ("free", ctypes.c_size_t),
        ("top", ctypes.c_size_t),
    ]


def heap_in_use() -> int:
    """Bytes of the C heap that somebody holds. Skips the test where the C library does not say."""
    gc.collect()
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        pytest.skip("this C library has no mallinfo2")
    mallinfo.restype = _Heap
    return int(mallinfo().used)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The CA that we trust."""
    return Authority(tmp_path_factory.mktemp("pki"), "ca")


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    """The server's certificate."""
    return authority.issue("server", "server", names=["127.0.0.1"], server=True)


class Handshakes:
    """Connections without sockets, one after the other, of one client with its `Resumption`."""

    def __init__(self, authority: Authority, server: ssl.SSLContext) -> None:
        self.resumption = Resumption()
        self.client = client_context(authority.crt.read_text())
        self.server = server
        self.now = 1000.0
        self.resumed = 0

    def one(self) -> None:
        """A handshake, a word of the server's, which brings its tickets, and the end."""
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = self.resumption.offer(self.now)
        client = self.client.wrap_bio(down, up, server_hostname="127.0.0.1", session=session)
        server = self.server.wrap_bio(up, down, server_side=True)
        for step in (client, server, client, server):
            try:
                step.do_handshake()
            except ssl.SSLWantReadError:
                pass
        server.write(b"word")
        assert client.read() == b"word"
        self.resumed += bool(client.session_reused)
        self.resumption.keep(client, self.now)
        self.now += 0.01


def context(pair: Pair) -> ssl.SSLContext:
    """A server's."""
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.load_cert_chain(pair.crt, pair.key)
    return found


@pytest.mark.parametrize("tickets", [2, 0], ids=["the server resumes", "the server gives no tickets"])
def test_an_agent_does_not_grow_with_each_connection_that_ends(authority: Authority, pair: Pair, tickets: int) -> None:
    server = context(pair)
    server.num_tickets = tickets
    handshakes = Handshakes(authority, server)
    for _unused in range(50):
        handshakes.one()
    before = heap_in_use()
    for _unused in range(CONNECTIONS):
        handshakes.one()
    assert heap_in_use() - before < CONNECTIONS * EACH
    assert handshakes.resumed == (CONNECTIONS + 49 if tickets else 0)


class Tls:
    """Stands for the TLS of a connection that has ended; counts who asks for its session."""

    def __init__(self, name: str, *, reused: bool = False, ticket: bool = True) -> None:
        self.name = name
        self.session_reused = reused
        self.ticket = ticket
        self.looked = 0

    @property
    def session(self) -> object:
        """As SSLObject's."""
        self.looked += 1
        return SimpleNamespace(has_ticket=self.ticket, name=self.name)


def keep(resumption: Resumption, tls: Tls, shaken: float) -> None:
    """The end of a connection."""
    resumption.keep(cast(ssl.SSLObject, tls), shaken)


def offered(resumption: Resumption, now: float) -> str | None:
    """The name of the connection whose session is offered."""
    return getattr(resumption.offer(now), "name", None)


def test_a_session_is_read_once_in_a_while_only() -> None:
    resumption = Resumption()
    ended = [Tls(str(number)) for number in range(1000)]
    for number, tls in enumerate(ended):
        keep(resumption, tls, 50.0 + number)
    assert sum(tls.looked for tls in ended) == 1000 // Resumption.PAUSE + 1
    assert offered(resumption, 1050.0) == "900"


def test_of_a_resumed_connection_no_session_is_read() -> None:
    resumption = Resumption()
    resumed = Tls("resumed", reused=True)
    keep(resumption, resumed, 5000.0)
    assert resumed.looked == 0
    assert offered(resumption, 5000.0) is None


def test_an_old_session_gives_way_to_a_new_one_and_to_none() -> None:
    resumption = Resumption()
    keep(resumption, Tls("first"), 100.0)
    assert offered(resumption, 100.0 + Resumption.LIFE - 1) == "first"
    assert offered(resumption, 100.0 + Resumption.LIFE) is None
    keep(resumption, Tls("long connection"), 50.0)  # it ends late, and its certificate was checked earlier
    assert offered(resumption, 101.0) == "first"
    keep(resumption, Tls("no ticket came", ticket=False), 100.0 + Resumption.PAUSE)
    assert offered(resumption, 101.0 + Resumption.PAUSE) == "first"
    keep(resumption, Tls("second"), 100.0 + Resumption.PAUSE * 2)
    assert offered(resumption, 100.0 + Resumption.PAUSE * 2) == "second"
