# SPDX-License-Identifier: Apache-2.0
"""A server of the REST API that answers as a test tells it, over TLS, for tests of those who call it."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from mooring.lib import pki
from mooring.lib.errors import MooringError
from mooring.lib.secrets import Secret


def reason(result: Result) -> str:
    """What a failed command says."""
    assert isinstance(result.exception, MooringError), result.output
    return str(result.exception)


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class FakeApi:
    """Answers by `answers[(method, path)]`: status, body and headers; anything else is a 404 problem."""

    url: str = ""
    ca_pem: str = ""
    answers: dict[tuple[str, str], tuple[int, Any, dict[str, str]]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    start: Callable[[], None] = lambda: None
    stop: Callable[[], None] = lambda: None

    def answer(self, method: str, path: str, body: Any, status: int = 200, **headers: str) -> None:
        self.answers[method, path] = (status, body, headers)

    def log_in(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        (home / "ca.pem").write_text(self.ca_pem)
        monkeypatch.setenv("MOORING_URL", self.url)
        monkeypatch.setenv("MOORING_TOKEN", "mrg_t-abcdefghijkl_canary")
        monkeypatch.setenv("MOORING_CA_FILE", str(home / "ca.pem"))


@contextmanager
def served(folder: Path, ca_pem: str, ca_key: Secret) -> Iterator[FakeApi]:
    """Runs one, with a certificate for 127.0.0.1 from this CA."""
    fake = FakeApi(ca_pem=ca_pem)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            fake.asked.append(Asked(self.command, self.path, dict(self.headers), body))
            problem = {"title": "Not Found", "detail": "there is nothing here"}
            status, answer, headers = fake.answers.get((self.command, self.path), (404, problem, {}))
            data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do

        def log_message(self, *_unused: object) -> None:
            pass

    certificate, key = pki.make_server_certificate(ca_pem, ca_key, ["127.0.0.1"], time.time())
    (folder / "server.crt").write_text(certificate)
    (folder / "server.key").write_text(key.reveal())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start() -> None:
        """Listen, on the port from before if there was one."""
        port = int(fake.url.rpartition(":")[2] or 0)
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        server.daemon_threads = True
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        running.append((server, thread))
        fake.url = f"https://127.0.0.1:{server.server_address[1]}"

    def stop() -> None:
        while running:
            server, thread = running.pop()
            server.shutdown()
            server.server_close()
            thread.join(5)

    fake.start, fake.stop = start, stop
    start()
    try:
        yield fake
    finally:
        stop()
