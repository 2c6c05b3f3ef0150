# SPDX-License-Identifier: Apache-2.0
"""The port of kube-api-auth over real TLS: who is answered what."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from mooring.edge.listener import Listener
from mooring.lib import metrics
from mooring.lib.clock import SystemClock
from mooring.webhook.book import Book
from mooring.webhook.copy import Copy
from mooring.webhook.server import LIMITS, MAX_BODY, BadCertificate, Reviews, server_context
from support.endpoint import CLUSTER_ID, CLUSTER_UID, Sealer, person, token_id
from testbed import pki

PAGE = (Path(__file__).parents[4] / "docs" / "kube-api-auth.md").read_text()


@pytest.fixture(scope="module")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    policy: asyncio.AbstractEventLoopPolicy = uvloop.EventLoopPolicy()
    return policy


class Certificates:
    def __init__(self, folder: Path) -> None:
        self.authority = pki.Authority(folder, "webhook-ca")
        self.clients = pki.Authority(folder, "client-ca")
        self.serving = self.authority.issue("serving", "kube-api-auth", names=["127.0.0.1"], server=True)
        self.client = self.clients.issue("client", "kube-apiserver", client=True)
        strangers = pki.Authority(folder / "strangers", "client-ca")
        self.stranger = strangers.issue("client", "kube-apiserver", client=True)

    def towards(self, pair: pki.Pair | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority.crt))
        if pair is not None:
            context.load_cert_chain(pair.crt, pair.key)
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("pki"))


class Bed:
    def __init__(self, certificates: Certificates, *, show_metrics: bool = False) -> None:
        self.certificates = certificates
        self.sealer = Sealer()
        self.copy = Copy(CLUSTER_ID, CLUSTER_UID, self.sealer.key.public_key(), SystemClock())
        book = Book(CLUSTER_ID)
        self.copy.subscribe(book)
        self.bob = person("bob", "crew")
        self.token = self.sealer.token(self.bob)
        reviews = Reviews(
            book, self.copy, ("here",), show_metrics=show_metrics, stopping=lambda: self.listener.stopping
        )
        self.listener = Listener(reviews.handle, LIMITS)
        pair = certificates.serving
        self.context = server_context(pair.crt, pair.key, certificates.clients.crt)

    def fill(self) -> None:
        self.copy.adopt(*self.sealer.documents([self.bob]))

    async def start(self) -> None:
        await self.listener.start("127.0.0.1", 0, self.context)

    async def call(
        self, method: str, path: str, body: bytes = b"", *, pair: pki.Pair | str | None = "own", **headers: str
    ) -> tuple[int, bytes]:
        who = self.certificates.client if isinstance(pair, str) else pair

        def one() -> tuple[int, bytes]:
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self.listener.port, context=self.certificates.towards(who), timeout=10
            )
            try:
                connection.request(method, path, body or None, headers)
                answer = connection.getresponse()
                return answer.status, answer.read()
            finally:
                connection.close()

        return await asyncio.to_thread(one)

    @property
    def review(self) -> bytes:
        spec = {"token": self.token}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        return json.dumps(body).encode()

    @property
    def access(self) -> bytes:
        spec = {
            "user": "mooring:bob",
            "uid": self.bob.uid,
            "groups": ["mooring:crew"],
            "extra": {"mooring.fleet/token-id": [token_id(self.token)]},
        }
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        return json.dumps(body).encode()


@pytest.fixture
async def bed(certificates: Certificates) -> AsyncIterator[Bed]:
    it = Bed(certificates)
    it.fill()
    await it.start()
    yield it
    await it.listener.stop(0.1)


async def test_the_api_server_is_answered(bed: Bed) -> None:
    status, answer = await bed.call("POST", "/authenticate?timeout=30s", bed.review)
    assert status == 200
    assert json.loads(answer)["status"]["user"]["username"] == "mooring:bob"
    status, answer = await bed.call("POST", "/revocation?timeout=3s", bed.access)
    assert (status, json.loads(answer)["status"]) == (200, {"allowed": False})
    bed.bob.enabled = False
    bed.fill()
    status, answer = await bed.call("POST", "/revocation", bed.access)
    assert json.loads(answer)["status"]["denied"] is True


async def test_nobody_else_is_answered(bed: Bed) -> None:
    for path, body in (("/authenticate", bed.review), ("/revocation", bed.access), ("/", b""), ("/metrics", b"")):
        status, answer = await bed.call("POST", path, body, pair=None)
        assert status == 403
        assert b"a client certificate" in answer
    for pair in (bed.certificates.stranger, bed.certificates.serving):
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            await bed.call("POST", "/authenticate", bed.review, pair=pair)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_that_is_taken_up_again_brings_no_certificate_of_before(
    bed: Bed, version: ssl.TLSVersion
) -> None:
    """No session can be: each connection shows its certificate."""
    context = bed.certificates.towards(bed.certificates.client)
    context.maximum_version = version

    def sessions() -> list[bool]:
        reused = []
        session = None
        for _unused in range(2):
            import socket

            with (
                socket.create_connection(("127.0.0.1", bed.listener.port), 5) as raw,
                context.wrap_socket(raw, server_hostname="127.0.0.1", session=session) as it,
            ):
                it.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
                it.recv(4096)
                reused.append(it.session_reused)
                session = it.session
        return [bool(one) for one in reused]

    assert await asyncio.to_thread(sessions) == [False, False]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/authenticate", 405), ("PUT", "/revocation", 405), ("POST", "/", 404), ("POST", "/authenticate/", 404),
     ("POST", "//authenticate", 404), ("GET", "/metrics", 404), ("POST", "/healthz", 405), ("DELETE", "/readyz", 405)],
)  # fmt: skip
async def test_other_paths_and_methods_are_told_so(bed: Bed, method: str, path: str, status: int) -> None:
    assert (await bed.call(method, path, b"{}"))[0] == status


async def test_an_upgrade_is_refused(bed: Bed) -> None:
    status, _unused = await bed.call("POST", "/authenticate", bed.review, Connection="Upgrade", Upgrade="websocket")
    assert status == 400


async def test_a_body_has_a_bound_whether_its_length_is_said_or_not(bed: Bed) -> None:
    status, answer = await bed.call("POST", "/authenticate", b" " * (MAX_BODY + 1))
    assert (status, b"at most" in answer) == (413, True)

    def chunked() -> bytes:
        import socket

        context = bed.certificates.towards(bed.certificates.client)
        with (
            socket.create_connection(("127.0.0.1", bed.listener.port), 5) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as it,
        ):
            it.sendall(b"POST /authenticate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
            for _unused in range(5):
                it.sendall(piece)
            return it.recv(65536)

    assert (await asyncio.to_thread(chunked)).startswith(b"HTTP/1.1 413")


async def test_what_is_no_review_is_a_status(bed: Bed) -> None:
    status, answer = await bed.call("POST", "/authenticate", bed.access)
    assert status == 400
    said = json.loads(answer)
    assert said["kind"] == "Status"
    assert "takes TokenReview of authentication.k8s.io/v1 only" in said["message"]


async def test_a_fault_of_ours_lets_nobody_in(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_unused: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(bed.copy, "now", broken)
    for path, body in (("/authenticate", bed.review), ("/revocation", bed.access)):
        status, answer = await bed.call("POST", path, body)
        assert status == 500
        assert b"authenticated" not in answer
        assert b"allowed" not in answer
        assert b"the log of kube-api-auth" in answer  # the port's own answer: the connection lives on


async def test_health_needs_no_certificate_and_readiness_a_copy(certificates: Certificates) -> None:
    bed = Bed(certificates)
    await bed.start()
    assert await bed.call("GET", "/healthz", pair=None) == (200, b"ok\n")
    assert (await bed.call("GET", "/readyz", pair=None))[0] == 503
    _status, answer = await bed.call("POST", "/authenticate", bed.review)
    assert json.loads(answer)["status"] == {
        "authenticated": False,
        "error": "mooring: no tokens of this cluster have been read yet",
    }
    _status, answer = await bed.call("POST", "/revocation", bed.access)
    assert json.loads(answer)["status"]["denied"] is True
    bed.fill()
    assert await bed.call("GET", "/readyz", pair=None) == (200, b"ready\n")
    await bed.listener.stop(0.1)


async def test_metrics_are_shown_if_they_are_switched_on(certificates: Certificates) -> None:
    bed = Bed(certificates, show_metrics=True)
    bed.fill()
    await bed.start()
    await bed.call("POST", "/authenticate", bed.review)
    status, answer = await bed.call("GET", "/metrics", pair=None)
    assert status == 200
    assert b'mooring_kube_api_auth_reviews_total{kind="token",result="ok"}' in answer
    assert b"bob" not in answer
    await bed.listener.stop(0.1)


def test_a_certificate_that_cannot_be_used_is_a_sentence(certificates: Certificates, tmp_path: Path) -> None:
    pair, ca = certificates.serving, certificates.clients.crt
    (tmp_path / "empty").write_text("")
    for cert, key, client_ca in (
        (tmp_path / "none", pair.key, ca),
        (pair.crt, certificates.client.key, ca),
        (pair.crt, pair.key, tmp_path / "none"),
        (pair.crt, pair.key, tmp_path / "empty"),
    ):
        with pytest.raises(BadCertificate):
            server_context(cert, key, client_ca)


def test_every_metric_is_documented() -> None:
    for family in metrics.REGISTRY.collect():
        if family.name.startswith("mooring_kube_api_auth_"):
            assert f"`{family.name}" in PAGE, family.name
