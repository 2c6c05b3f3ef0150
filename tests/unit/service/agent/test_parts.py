# SPDX-License-Identifier: Apache-2.0
"""Small parts of the agent: identity, long-running requests, probes."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mooring.agent.apiserver import ApiServer, is_long_running, is_proxied
from mooring.agent.dispatch import check_head, passed
from mooring.agent.health import MAX_HEAD, Health
from mooring.agent.identity import (
    BadIdentity,
    Identity,
    IdentityStore,
    Join,
    check_urls,
    new_key,
    registered,
)
from mooring.kube.access import ApiServerConfig
from mooring.kube.client import KubeApi, KubeError
from mooring.lib.secrets import Secret
from mooring.wire.headers import parse_request_head

from .fakes import FakeKube


@pytest.mark.parametrize(
    ("target", "long"),
    [
        (b"/api/v1/pods", False),
        (b"/api/v1/pods?watch=1", True),
        (b"/api/v1/pods?limit=5&watch=true&x=y", True),
        (b"/api/v1/pods?watch=0", False),
        (b"/api/v1/pods?labelSelector=watch%3D1", False),
        (b"/api/v1/watch/pods", True),
        (b"/api/v1/namespaces/a/pods/b/log?follow=true", True),
        (b"/api/v1/namespaces/a/pods/b/exec?command=sh", True),
        (b"/api/v1/namespaces/a/services/b/proxy/x/y", True),
        (b"/api/v1/namespaces/logs/configmaps/exec-b", False),
    ],
)
def test_which_requests_may_stay_silent(target: bytes, long: bool) -> None:
    assert is_long_running(target, upgrade=False) is long
    assert is_long_running(target, upgrade=True)


async def test_the_token_that_was_sent_is_kept_as_a_secret_only() -> None:
    context = ssl.create_default_context()
    config = ApiServerConfig(host="10.0.0.1", port=6443, own_tls=context, stream_tls=context, server_name="kubernetes")
    api = ApiServer(config, 1)
    head = parse_request_head(b"GET / HTTP/1.1\r\nHost: apiserver\r\nImpersonate-User: mooring:bob\r\n\r\n")
    for text in ("first-token", "first-token", "second-token"):
        sent = api.head(passed(head, check_head(head)), Secret(text))
        assert sent.startswith(b"GET / HTTP/1.1\r\nHost: 10.0.0.1:6443\r\nAuthorization: Bearer %b\r\n" % text.encode())
        # Asked by name: a compiled class has no __dict__.
        kept = [getattr(api, name) for name in dir(api) if not name.startswith("__")]
        assert "-token" not in repr(kept)
    await api.aclose()


def test_what_comes_from_a_program_in_the_cluster() -> None:
    assert is_proxied(b"/api/v1/namespaces/a/pods/b/proxy/login")
    assert not is_proxied(b"/api/v1/pods?x=/proxy")


def test_no_secret_is_in_the_text_of_an_identity() -> None:
    identity = Identity(key=new_key(), cluster_id="c-aaaaaaaaaaaa", audience="a")
    join = Join(server_url="https://s", ca_pem="", token=Secret("mrj_abc_verysecret"))
    assert "PRIVATE" not in repr(identity)
    assert "verysecret" not in repr(join)
    assert join.token_id == "abc"


@pytest.mark.parametrize("token", ["", "mrg_abc_secret", "nonsense", "mrj_only"])
def test_a_token_of_another_kind_has_no_id(token: str) -> None:
    assert Join(server_url="https://s", ca_pem="", token=Secret(token)).token_id == ""


@pytest.mark.parametrize("url", ["ws://server/tunnel", "https://server", "wss://", "", 7, "wss://" + "a" * 3000])
def test_a_tunnel_address_without_tls_is_never_dialled(url: object) -> None:
    with pytest.raises(BadIdentity, match="wss://"):
        check_urls([url])


def test_the_number_of_tunnel_addresses_has_a_bound() -> None:
    assert len(check_urls([f"wss://s{i}/x" for i in range(1000)])) == 64


@given(
    st.dictionaries(
        st.sampled_from(["cluster_id", "cluster_name", "audience", "tunnel_urls", "ca_pem"]),
        st.one_of(st.none(), st.text(max_size=5), st.integers(), st.lists(st.text(max_size=5), max_size=3)),
    )
)
def test_an_answer_that_is_not_a_registration_is_refused(answer: dict[str, object]) -> None:
    identity = Identity(key=Secret("unused"))
    join = Join(server_url="https://s", ca_pem="", token=Secret("mrj_a_b"))
    with pytest.raises(BadIdentity, match=r"lacks|wss://"):
        registered(identity, join, answer)


@pytest.fixture
async def identities(kube: FakeKube) -> AsyncIterator[IdentityStore]:
    """The Secrets of the fake cluster."""
    api = KubeApi(kube.config())
    yield IdentityStore(api, "mooring-system")
    await api.aclose()


async def test_what_was_saved_is_loaded(identities: IdentityStore) -> None:
    fresh = await identities.load()
    assert not fresh.registered
    known = Identity(
        key=fresh.key,
        cluster_id="c-aaaaaaaaaaaa",
        cluster_name="prod",
        audience="aud",
        server_url="https://s",
        tunnel_urls=("wss://s/tunnel/connect",),
        ca_pem="pem",
        join_token_id="abc",
    )
    await identities.save(known)
    assert await identities.load() == known


@pytest.mark.parametrize(
    "change",
    [{"private_key": "not a key"}, {"tunnel_urls": "no list"}, {"tunnel_urls": '["ws://s"]'}],
)
async def test_a_spoilt_secret_is_not_replaced_but_told(
    identities: IdentityStore, kube: FakeKube, change: dict[str, str]
) -> None:
    await identities.load()
    kube.secrets["mooring-agent-identity"] |= change
    with pytest.raises(BadIdentity, match=r"mooring-agent-identity|tunnel address"):
        await identities.load()


@pytest.mark.parametrize("url", ["http://server", "server:8443", ""])
async def test_a_join_secret_without_https_is_refused(identities: IdentityStore, kube: FakeKube, url: str) -> None:
    kube.secrets["mooring-join"] = {"server_url": url, "ca.crt": "x", "join_token": "mrj_a_b"}
    with pytest.raises(BadIdentity, match="https://"):
        await identities.join()


async def test_no_join_secret_is_no_error(identities: IdentityStore) -> None:
    assert await identities.join() is None


async def test_a_status_of_kubernetes_becomes_a_sentence(identities: IdentityStore, kube: FakeKube) -> None:
    kube.valid = "another token"
    with pytest.raises(KubeError, match="GET /api/v1/namespaces/mooring-system/secrets/mooring-join: Unauthorized"):
        await identities.join()


class Probe:
    """Asks the health endpoint."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.health = Health(lambda: self.problems)

    async def ask(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.health.port)
        writer.write(request)
        async with asyncio.timeout(10):
            try:
                return await reader.read()
            except ConnectionError:
                return b""
            finally:
                writer.close()


@pytest.fixture
async def probe() -> AsyncIterator[Probe]:
    """A health endpoint on a free port."""
    probe = Probe()
    await probe.health.start("127.0.0.1", 0)
    yield probe
    await probe.health.aclose()


async def test_ready_says_what_is_missing(probe: Probe) -> None:
    assert (await probe.ask(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
    probe.problems = ["no session to a server"]
    answer = await probe.ask(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert answer.endswith(b"\r\n\r\nno session to a server\n")
    assert (await probe.ask(b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\nok\n")


@pytest.mark.parametrize(
    ("request_", "begins"),
    [
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 "),
        (b"POST /healthz HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 "),
        (b"HEAD /healthz HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 "),
        (b"\r\n\r\n", b"HTTP/1.1 404 "),
        (b"GET /" + b"a" * (2 * MAX_HEAD) + b"\r\n\r\n", b""),
    ],
)
async def test_the_probe_port_is_no_web_server(probe: Probe, request_: bytes, begins: bytes) -> None:
    answer = await probe.ask(request_)
    assert answer.startswith(begins)
    assert begins or not answer


async def test_a_status_is_valid_json_of_bounded_size(kube: FakeKube) -> None:
    from mooring.agent.reporter import MAX_MESSAGE, Reporter

    api = KubeApi(kube.config())
    reporter = Reporter(api, lambda _unused: None, lambda: "x" * 10_000)
    status = reporter.status()
    assert len(json.dumps(status)) < 4 * MAX_MESSAGE
    assert status["node_count"] is None
    assert status["api_server_healthy"] is None
    await api.aclose()
