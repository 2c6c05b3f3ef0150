# SPDX-License-Identifier: Apache-2.0
"""Two ends of a tunnel on the loopback: a server that hands the connection over after the request head, as the edge
does, and a client; on uvloop, over TCP and TLS."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from mooring.tunnel.carrier import ServerCarrier, connect_client
from mooring.tunnel.session import Session
from mooring.tunnel.stream import Stream, StreamSink
from mooring.wire.flow import Limits
from mooring.wire.hello import Hello
from support.tunnel_ends import EdgeLike, Ends


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for the loopback and the contexts that use it."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    stranger: ssl.SSLContext  # a client that trusts nobody


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tunnel test")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    folder: Path = tmp_path_factory.mktemp("tls")
    pem = folder / "server.pem"
    pem.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + cert.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    client = ssl.create_default_context(cafile=str(pem))
    return Certificate(server, client, ssl.create_default_context())


Connect = Callable[..., Any]


@pytest.fixture(params=["tcp", "tls"])
async def connect(request: pytest.FixtureRequest, certificate: Certificate) -> AsyncIterator[Connect]:
    """`await connect(on_open, limits=..., server_hello=..., agent_hello=...)` gives `Ends` whose HELLOs are done."""
    tls = request.param == "tls"
    servers: list[asyncio.Server] = []
    pairs: list[Ends] = []

    async def make(
        on_open: Callable[[Stream, bytes, bool], StreamSink | None] | None = None,
        *,
        limits: Limits | None = None,
        **hello: Any,
    ) -> Ends:
        loop = asyncio.get_running_loop()
        server = Session("server", Hello(instance="srv", version="0", **hello), limits=limits, name="server")
        agent = Session(
            "agent", Hello(instance="agt", version="0", **hello), limits=limits, on_open=on_open, name="agent"
        )
        ends = Ends(server, agent)

        def take(transport: asyncio.Transport, raw: bytes) -> None:
            ends.server_transport = transport
            assert ServerCarrier.accept(transport, raw, server)

        listener = await loop.create_server(
            lambda: EdgeLike(take), "127.0.0.1", 0, ssl=certificate.server if tls else None
        )
        servers.append(listener)
        pairs.append(ends)
        port = listener.sockets[0].getsockname()[1]
        url = f"{'wss' if tls else 'ws'}://127.0.0.1:{port}/tunnel/connect"
        await connect_client(url, agent, ssl_context=certificate.client if tls else None)
        async with asyncio.timeout(10):
            await server.wait_ready()
            await agent.wait_ready()
        return ends

    yield make
    for pair in pairs:
        await pair.aclose()
    for listener in servers:
        listener.close()
        await listener.wait_closed()
