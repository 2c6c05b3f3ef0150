# SPDX-License-Identifier: Apache-2.0
"""Which part gets a path, and what the edge answers by itself."""

from __future__ import annotations

import json

import pytest
from mooring.proxy.ports import Client
from mooring.wire.http1_request import Request
from support.edgebed import Edge, MakeEdge


async def answer(
    edge: Edge, path: str, who: str | None = None, *headers: str, method: str = "GET"
) -> tuple[int, bytes]:
    peer = await edge.connect()
    await peer.send(edge.get(path, who, *headers, "Connection: close", method=method))
    raw = await peer.rest()
    head, _unused, body = raw.partition(b"\r\n\r\n")
    assert b"\r\nX-Request-Id: " in head
    return int(head.split(b" ", 2)[1]), body


@pytest.mark.parametrize(
    "path",
    ["/", "/k8s", "/k8s/clusters", "/K8S/clusters/alpha/api", "//k8s/clusters/alpha/api", "/k8s%2fclusters/alpha/api",
     "/api", "/apix", "/tunnel", "/tunnel/connect/", "/healthz/", "/metricsx", "/schemas"],
)  # fmt: skip
async def test_path_that_is_nobodys_is_404(edge: Edge, path: str) -> None:
    code, body = await answer(edge, path, "root")
    assert code == 404
    assert json.loads(body)["kind"] == "Status"


@pytest.mark.parametrize(
    "path",
    ["/k8s/clusters/alpha/../beta/api", "/k8s/clusters/beta/../alpha/api", "/k8s/clusters/alpha/api/..", "/./healthz",
     "/k8s/clusters/alpha/%2e%2e/beta", "/api/%2E%2E/k8s", "/x/../healthz"],
)  # fmt: skip
async def test_dot_segments_are_400_everywhere(edge: Edge, path: str) -> None:
    assert (await answer(edge, path, "bob"))[0] == 400
    assert edge.world.agent.streams == []


@pytest.mark.parametrize("path", ["/api/v1/users", "/tunnel/connect", "/metrics", "/healthz", "/nothing"])
@pytest.mark.parametrize("header", ["Impersonate-User: root", "impersonate_group: system:masters"])
async def test_impersonation_headers_are_403_on_every_route(edge: Edge, path: str, header: str) -> None:
    assert (await answer(edge, path, "root", header))[0] == 403


async def test_health_version_and_readiness_are_open(edge: Edge) -> None:
    assert await answer(edge, "/healthz") == (200, b"ok\n")
    assert await answer(edge, "/version") == (200, b'{"name":"mooring","version":"0.1.0"}\n')
    assert await answer(edge, "/readyz") == (200, b"audit ok\nready\n")


async def test_readiness_names_the_check_but_not_the_reason(edge: Edge) -> None:
    edge.ready["audit"] = "no space left on /var/lib/mooring"
    assert await answer(edge, "/readyz") == (503, b"audit failed\nnot ready\n")


async def test_own_paths_take_get_and_head_only(edge: Edge) -> None:
    assert await answer(edge, "/healthz", method="HEAD") == (200, b"")
    assert (await answer(edge, "/healthz", method="DELETE"))[0] == 405


@pytest.mark.parametrize(("who", "code"), [(None, 401), ("bob", 403), ("root-beta", 403), ("root", 200)])
async def test_metrics_are_for_administrators(edge: Edge, who: str | None, code: int) -> None:
    got, body = await answer(edge, "/metrics", who)
    assert got == code
    assert (b"mooring_edge_connections" in body) is (code == 200)


async def test_metrics_can_be_opened_by_a_setting(make_edge: MakeEdge) -> None:
    edge = await make_edge(metrics_public=True)
    assert (await answer(edge, "/metrics"))[0] == 200


async def test_request_id_of_the_client_is_not_taken_over(edge: Edge) -> None:
    peer = await edge.connect()
    await peer.send(edge.get("/healthz", None, "X-Request-Id: mine", "Connection: close"))
    assert b"mine" not in await peer.rest()


async def test_fault_in_a_handler_is_500_and_says_where_to_look(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def handle(self, client: Client, request: Request, /) -> None:
            raise RuntimeError("secret detail")

    monkeypatch.setattr(edge.routes, "_chain", Broken())  # not its method: of a compiled class none can be replaced
    code, body = await answer(edge, "/k8s/clusters/alpha/api", "bob")
    assert code == 500
    assert b"secret" not in body
    assert (await answer(edge, "/healthz"))[0] == 200
