# SPDX-License-Identifier: Apache-2.0
"""The tokens of an endpoint in a real cluster, without a server: documents that the test signs, the rights of the real
manifest in its smallest profile."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import uvloop
from mooring.agent.endpoint import writer
from mooring.agent.endpoint.service import CONNECTIONS
from mooring.kube.client import KubeApi
from mooring.kube.watch import Follower, Place, one
from mooring.wire.endpoint import shard_of
from support.endpointbed import Bed, EndpointServer, user
from support.policybed import until
from support.realcluster import OWN, Real
from testbed import ControlPlane
from testbed.pki import Authority

BOB, EVE = user("bob", "one"), user("eve", "two")
INDEX = "mooring-endpoint"
BOBS = f"{INDEX}-{shard_of(BOB.id)}"
SECRETS = f"{OWN}/secrets"


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """As in production."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"), "ca")


@pytest.fixture
async def real(control_plane: ControlPlane) -> AsyncIterator[Real]:
    cluster = Real(control_plane)
    await cluster.manifest("proxy-only", endpoint="webhook")
    yield cluster
    await cluster.clean()
    await cluster.admin.aclose()


@pytest.fixture
async def bed(real: Real, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bed]:
    monkeypatch.setattr(writer, "LOOK", 1.0)
    server = EndpointServer(authority)
    await server.start()
    account = await real.account("mooring-agent")
    made = Bed(lambda: KubeApi(account, connections=CONNECTIONS, idle=1), server)
    made.uid = (await real.admin.json("GET", "/api/v1/namespaces/kube-system"))["metadata"]["uid"]
    yield made
    await made.aclose()
    server.stop()


class Meta(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    version: str = msgspec.field(name="resourceVersion", default="")


class Item(msgspec.Struct):
    metadata: Meta


class Heard:
    """Who follows the index."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.there = False
        self.problem = ""

    def found(self, _item: Item) -> None:
        self.there = True
        self.at.append(time.monotonic())

    def gone(self, _item: Item) -> None:
        self.there = False

    def listed(self, places: set[Place], _number: int) -> None:
        self.problem = ""

    def unread(self, reason: str) -> None:
        self.problem = reason

    def back(self) -> None:
        return None


async def test_tokens_come_and_go_within_a_second_and_whoever_reads_them_hears_of_it(bed: Bed, real: Real) -> None:
    reader = KubeApi(await real.account("mooring-kube-api-auth"))
    heard = Heard()
    task = asyncio.ensure_future(Follower(reader, one(SECRETS, INDEX), Item, heard, patience=1.0).run())
    bed.start()
    await bed.deliver(BOB)
    took = []
    for users in ([BOB, EVE], [EVE], [BOB, EVE], [BOB]):
        heard.at.clear()
        began = time.monotonic()
        await bed.deliver(*users)
        await until("the reader has heard", lambda: heard.at)
        took.append(heard.at[0] - began)
        assert await bed.users() == sorted(one.name for one in users)
    print(f"from the server's word to the reader of the Secrets: {[round(x * 1000) for x in sorted(took)]} ms")
    assert sorted(took)[2] < 1.0
    await real.admin.call("DELETE", f"{SECRETS}/{INDEX}")
    await bed.are("bob", within=5)
    await until("the reader has it again", lambda: heard.there)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await reader.aclose()


async def test_kube_api_auth_may_read_the_tokens_and_nothing_else(bed: Bed, real: Real) -> None:
    bed.start()
    await bed.deliver(BOB)
    reader = KubeApi(await real.account("mooring-kube-api-auth"))

    async def status(method: str, path: str, body: Any = None) -> int:
        return (await reader.call(method, path, body)).status

    assert await status("GET", f"{SECRETS}?fieldSelector=metadata.name%3D{INDEX}") == 200
    assert await status("GET", f"{SECRETS}/{INDEX}") == await status("GET", f"{SECRETS}/{BOBS}") == 200
    for method, path, body in (
        ("GET", SECRETS, None),
        ("GET", f"{SECRETS}/mooring-agent-identity", None),
        ("GET", f"{SECRETS}?fieldSelector=metadata.name%3Dmooring-agent-identity", None),
        ("GET", "/api/v1/secrets", None),
        ("DELETE", f"{SECRETS}/{INDEX}", None),
        ("PUT", f"{SECRETS}/{INDEX}", {"metadata": {"name": INDEX}}),
        ("POST", SECRETS, {"metadata": {"name": "more"}}),
        ("GET", "/api/v1/nodes", None),
        ("GET", f"{OWN}/pods", None),
    ):
        assert await status(method, path, body) == 403, (method, path)
    await reader.aclose()


@pytest.mark.parametrize("how", ["deleted", "edited", "of another type", "immutable"])
@pytest.mark.parametrize("name", [INDEX, BOBS])
async def test_what_somebody_did_to_the_secrets_is_put_right_without_the_server(
    bed: Bed, real: Real, how: str, name: str
) -> None:
    bed.start()
    await bed.deliver(BOB, EVE)
    bed.server.stop()
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "mooring-system"},
        "data": {"document": base64.b64encode(b"mine").decode(), "link": base64.b64encode(b"{}").decode()},
    }
    if how == "edited":
        await real.admin.json("PUT", f"{SECRETS}/{name}", body)
    else:
        await real.admin.json("DELETE", f"{SECRETS}/{name}")
        if how != "deleted":
            more = {"type": "mooring.fleet/odd"} if how == "of another type" else {"immutable": True}
            await real.admin.call("POST", SECRETS, {**body, **more})  # 409: the agent was faster
    await bed.are("bob", "eve", within=10)
    found = await real.there(f"{SECRETS}/{name}")
    assert found is not None
    assert set(found["data"]) == ({"document", "link"} if name == INDEX else {"document"})


async def test_the_control_plane_and_its_port_are_told(bed: Bed, real: Real) -> None:
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "cp-1", "labels": {"node-role.kubernetes.io/control-plane": ""}},
    }
    await real.admin.json("POST", "/api/v1/nodes", node)
    try:
        addresses = [{"type": "InternalIP", "address": "10.9.8.7"}]
        patch = {"status": {"addresses": addresses}}
        media = "application/merge-patch+json"
        answer = await real.admin.call("PATCH", "/api/v1/nodes/cp-1/status", patch, media=media)
        assert answer.status == 200
        slices = await real.there("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes")
        port = slices["ports"][0]["port"] if slices is not None else 6443
        bed.start()
        await bed.deliver(BOB)
        told = [{"name": "cp-1", "host": "10.9.8.7", "port": port}]
        await until("the node is told", lambda: bed.last("nodes") == told)
        assert "BEGIN CERTIFICATE" in real.plane.ca.read_text()
    finally:
        await real.admin.call("DELETE", "/api/v1/nodes/cp-1")


async def test_ten_thousand_tokens_are_delivered_and_one_more_costs_one_shard(bed: Bed, real: Real) -> None:
    users = [user(f"user-{n}", *(f"{n}-{m}" for m in range(10)), groups=("developers", "oncall")) for n in range(1000)]
    bed.start()
    began = time.monotonic()
    await bed.deliver(*users)
    first = time.monotonic() - began
    before = {n: (await real.there(f"{SECRETS}/{INDEX}-{n}") or {})["metadata"]["resourceVersion"] for n in range(16)}
    began = time.monotonic()
    await bed.deliver(*users, BOB)
    print(f"10,000 tokens: {first:.2f} s; one more: {time.monotonic() - began:.3f} s (with the signing)")
    after = {n: (await real.there(f"{SECRETS}/{INDEX}-{n}") or {})["metadata"]["resourceVersion"] for n in range(16)}
    assert [n for n in range(16) if before[n] != after[n]] == [shard_of(BOB.id)]
    assert len(await bed.users()) == 1001
    sizes = [len(json.dumps(await real.there(f"{SECRETS}/{INDEX}-{n}"))) for n in range(16)]
    assert max(sizes) < 200_000
