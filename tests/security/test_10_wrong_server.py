# SPDX-License-Identifier: Apache-2.0
"""Attack class 10: the server's name is switched (DNS, a route) to a machine with another, publicly valid certificate.

"Publicly valid" is what the system's trust store says; here it is told to trust the impostor's authority. Guards:
`net/tls.py` (`client_context` loads the CA that was given and never the system's), `agent/join.py` and
`agent/dialer.py` (that CA only), `tunnel/carrier.py`. Each test has its control: with the impostor's CA as the one that
was given, the secret does arrive.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mooring.agent.identity import Identity, new_key
from support.road import BIN, run, stop_process, until
from testbed import pki

from .conftest import Road


class Impostor:
    """A TLS server with a certificate for the server's name; keeps what it is told, and answers nothing."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        authority = pki.Authority(folder, "public-ca")
        pair = authority.issue("impostor", "localhost", names=["localhost", "127.0.0.1"], server=True)
        self.ca = Path(authority.crt)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pair.crt, pair.key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.tried = 0
        self.told = b""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _unused = self._listener.accept()
            except OSError:
                return
            self.tried += 1
            plain.settimeout(30)
            try:
                with self._context.wrap_socket(plain, server_side=True) as secure:
                    self.told += secure.recv(65536)
            except OSError:
                plain.close()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Impostor]:
    it = Impostor(tmp_path / "impostor")
    yield it
    it.close()


@pytest.fixture
def agent(
    road: Road, tmp_path: Path, fresh_name: Callable[[str], str]
) -> Iterator[Callable[[dict[str, str], str], None]]:
    """agent(secrets, trust): start a real agent in a namespace of its own that finds this Secret there; the system's
    trust store is the file `trust`."""
    started: list[subprocess.Popen[bytes]] = []

    def start(secret: dict[str, str], name: str, trust: Path) -> None:
        namespace = fresh_name("switched")
        data = {key: base64.b64encode(value.encode()).decode() for key, value in secret.items()}
        road.a.plane.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "data": data},
        )
        words = [BIN / "mooring", "agent", "--kubeconfig", road.a.plane.kubeconfig, "--namespace", namespace]
        env = {**os.environ, "SSL_CERT_FILE": str(trust), "SSL_CERT_DIR": "/nonexistent"}
        with (tmp_path / "agent.log").open("ab") as log:
            started.append(subprocess.Popen(words, stdout=log, stderr=log, env=env))

    yield start
    for process in started:
        stop_process(process)


def identity_secret(road: Road, impostor: Impostor, ca: Path) -> dict[str, str]:
    """The Secret of an agent that registered with the real server, whose name now leads elsewhere."""
    it = Identity(key=new_key())
    it = replace(it, cluster_id="c-aaaaaaaaaaaa", cluster_name="switched", audience="mooring-x")
    return {
        "private_key": it.key.reveal(),
        "cluster_id": it.cluster_id,
        "cluster_name": it.cluster_name,
        "audience": it.audience,
        "server_url": f"https://localhost:{impostor.port}",
        "tunnel_urls": json.dumps([f"wss://localhost:{impostor.port}/tunnel/connect"]),
        "ca.crt": ca.read_text(),
        "join_token_id": "j-aaaaaaaaaaaa",
    }


def join_secret(road: Road, impostor: Impostor, ca: Path) -> dict[str, str]:
    """The Secret of an agent that is to register."""
    token = road.server.api("POST", f"/clusters/{road.b.name}/join-tokens")["join_token"]
    url = f"https://localhost:{impostor.port}"
    return {"server_url": url, "ca.crt": ca.read_text(), "join_token": token, "cluster_name": "switched"}


@pytest.mark.parametrize("what", ["the tunnel", "the registration"])
def test_an_agent_says_nothing_to_a_server_of_another_authority(
    road: Road, impostor: Impostor, agent: Callable[..., None], what: str, tmp_path: Path
) -> None:
    make, name = {
        "the tunnel": (identity_secret, "mooring-agent-identity"),
        "the registration": (join_secret, "mooring-join"),
    }[what]
    agent(make(road, impostor, road.server.ca), name, impostor.ca)
    until("it was tried", lambda: impostor.tried >= 2, 60)
    assert impostor.told == b""
    assert "certificate" in (tmp_path / "agent.log").read_text()
    agent(make(road, impostor, impostor.ca), name, impostor.ca)  # the control
    wanted = b"Bearer ey" if what == "the tunnel" else b"mrj_j-"
    until("an agent that trusts it speaks", lambda: wanted in impostor.told, 60)


def test_the_command_line_sends_no_token_to_a_server_of_another_authority(road: Road, impostor: Impostor) -> None:
    env = {
        **os.environ,
        "SSL_CERT_FILE": str(impostor.ca),
        "MOORING_URL": f"https://localhost:{impostor.port}",
        "MOORING_TOKEN": road.server.admin_token,
        "MOORING_CA_FILE": str(road.server.ca),
    }
    done = run([BIN / "mooring", "whoami"], check=False, env=env)
    assert done.returncode != 0
    assert "certificate" in (done.stdout + done.stderr).lower()
    assert impostor.tried >= 1
    assert impostor.told == b""
