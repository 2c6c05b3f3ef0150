# SPDX-License-Identifier: Apache-2.0
"""From a word of the server to the tokens in the cluster: what is believed, what is written, and who may touch it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mooring.agent.endpoint import link as link_module
from mooring.agent.endpoint import vault as vault_module
from mooring.agent.endpoint import writer as writer_module
from mooring.wire.endpoint import shard_of
from support.endpointbed import NAMESPACE, Bed, EndpointServer, user
from support.fakekube import FakeApi
from support.policybed import until
from testbed.pki import Authority

BOB, EVE = user("bob", "one"), user("eve", "two")
BOBS, EVES = (f"mooring-endpoint-{shard_of(one.id)}" for one in (BOB, EVE))
INDEX = "mooring-endpoint"


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
async def bed(api: FakeApi, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bed]:
    monkeypatch.setattr(link_module, "STEADY", 0.2)
    monkeypatch.setattr(writer_module, "CALM", 0.05)
    server = EndpointServer(authority)
    await server.start()
    made = Bed(lambda: api, server)  # type: ignore[arg-type, return-value]
    made.uid = "uid-of-kube-system"
    yield made
    await made.aclose()
    server.stop()


def secret(name: str, **data: bytes) -> dict[str, Any]:
    encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
    return {"metadata": {"name": name, "namespace": NAMESPACE}, "type": "Opaque", "data": encoded}


def written(api: FakeApi) -> list[tuple[str, str]]:
    """The Secrets that were written and removed, in order."""
    return [(method, path.rpartition("/")[2]) for method, path in api.writes() if "/secrets" in path]


async def test_an_agent_without_an_endpoint_looks_once_and_does_nothing(bed: Bed, api: FakeApi) -> None:
    agent = bed.start()
    await asyncio.sleep(0.5)
    assert api.calls == [("GET", f"/api/v1/namespaces/{NAMESPACE}/secrets/{INDEX}")]
    assert (bed.said, agent.status()) == ([], None)


async def test_tokens_come_into_the_cluster_and_go_again(bed: Bed, api: FakeApi) -> None:
    bed.start()
    await bed.deliver(BOB, EVE)
    assert await bed.users() == ["bob", "eve"]
    assert (bed.last("revision"), bed.last("ca_pem")) == (1, "the cluster's CA")
    await bed.deliver(EVE)
    assert await bed.users() == ["eve"]
    assert api.names("secrets") == {INDEX, EVES}
    await bed.deliver()
    assert api.names("secrets") == {INDEX}


async def test_shards_are_written_before_the_index_that_names_them_and_removed_after_it(bed: Bed, api: FakeApi) -> None:
    bed.start()
    await bed.deliver(BOB)
    api.calls.clear()
    await bed.deliver(EVE)
    assert [name for _method, name in written(api)] == [EVES, "secrets", INDEX, BOBS]  # POST after a PUT found nothing
    assert written(api)[-1][0] == "DELETE"


async def test_only_what_changed_is_asked_for_and_written_over_one_connection(bed: Bed, api: FakeApi) -> None:
    bed.start()
    await bed.deliver(BOB, EVE)
    api.calls.clear()
    await bed.deliver(user("bob", "one", "three"), EVE)
    assert set(bed.server.asked[-1]["have"]) == {str(shard_of(one.id)) for one in (BOB, EVE)}
    assert [name for _method, name in written(api)] == [BOBS, INDEX]
    assert bed.server.connections == 1


async def test_the_same_index_is_not_fetched_again_but_answered(bed: Bed) -> None:
    bed.start()
    await bed.deliver(BOB)
    asked, said = len(bed.server.asked), len(bed.said)
    bed.announce()
    await until("it is answered", lambda: len(bed.said) > said)
    assert len(bed.server.asked) == asked


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"uid": "another"}, "UID"),
        ({"cluster": "c-bbbbbbbbbbbb"}, "is for the cluster"),
        ({"key": Ed25519PrivateKey.generate()}, "was not signed"),
        ({"prefix": "system:"}, "cannot go before names"),
        ({"prefix": "System:x:"}, "cannot go before names"),
        ({"prefix": ""}, "cannot go before names"),
        ({"prefix": "mooring"}, "cannot go before names"),
        ({"prefix": "other:"}, "prefix before names was"),
        ({"registered_at": 999.0}, "was taken already"),
    ],
)
async def test_an_index_for_others_or_with_another_prefix_is_refused(
    bed: Bed, api: FakeApi, other: dict[str, Any], why: str
) -> None:
    bed.start()
    await bed.deliver(BOB)
    before = dict(api.objects["secrets", NAMESPACE, INDEX]["data"])
    bed.offer(EVE, **other)
    await until("it is refused", lambda: why in bed.last("problem"))
    assert api.objects["secrets", NAMESPACE, INDEX]["data"] == before
    assert await bed.users() == ["bob"]
    await bed.deliver(BOB, EVE)


async def test_a_lower_revision_is_taken_after_a_new_registration_only(bed: Bed) -> None:
    bed.start()
    bed.revision = 10
    await bed.deliver(BOB)
    bed.revision = 3
    bed.offer(EVE)
    await until("it is refused", lambda: "was taken already" in bed.last("problem"))
    await bed.stop()
    bed.start()
    await until("it is told again", lambda: bed.last("revision") == 11)
    bed.announce()
    await until("it is refused again", lambda: "was taken already" in bed.last("problem"))
    bed.revision = 3
    await bed.deliver(EVE, registered_at=2000.0, prefix="other:")
    assert await bed.users() == ["eve"]


async def test_another_server_begins_from_nothing(bed: Bed) -> None:
    """Its revisions, and its clock when it registered the cluster, have nothing to do with those of the last one."""
    bed.start()
    bed.revision = 10
    await bed.deliver(BOB)
    bed.server.key = Ed25519PrivateKey.generate()
    bed.identity = replace(bed.identity, policy_key=bed.server.public_key)
    bed.revision = 1
    await bed.deliver(EVE, registered_at=500.0)
    assert await bed.users() == ["eve"]


async def test_another_index_with_the_same_revision_is_refused(bed: Bed) -> None:
    bed.start()
    await bed.deliver(BOB)
    bed.revision = 0
    bed.offer(EVE)
    await until("it is refused", lambda: "two indexes" in bed.last("problem"))
    assert await bed.users() == ["bob"]


@pytest.mark.parametrize(
    "bad",
    [
        user("system:admin", "x"),
        user("SYSTEM:admin", "x"),
        user("mallory", "x", groups=("system:masters",)),
        user("mallory", "x", groups=("",)),
    ],
)
async def test_nobody_in_a_shard_with_a_name_of_kubernetes_gets_in_and_the_others_do(bed: Bed, bad: Any) -> None:
    bad = replace_id(bad)
    assert shard_of(bad.id) != shard_of(EVE.id)
    bed.start()
    await bed.deliver(BOB, EVE)
    bed.offer(EVE, bad)
    await until("it is told", lambda: "a name that nobody may have" in bed.last("problem"))
    assert bed.last("digest") == bed.server.digest
    assert await bed.users() == ["eve"]
    bed.announce()
    await asyncio.sleep(0.2)
    assert "a name that nobody may have" in bed.last("problem")
    await bed.deliver(BOB, EVE)
    assert await bed.users() == ["bob", "eve"]


def replace_id(one: Any) -> Any:
    """The same user in bob's shard."""
    return msgspec.structs.replace(one, id=BOB.id)


async def test_a_shard_in_the_place_of_another_is_not_written(bed: Bed, api: FakeApi) -> None:
    bed.start()
    bed.server.spoil = lambda shards: dict(zip(shards, reversed(shards.values()), strict=True))
    bed.offer(BOB, EVE)
    await until("it is told", lambda: "this is shard" in (bed.last("problem") or ""))
    assert await bed.users() == []
    assert api.names("secrets") == {INDEX}


async def test_an_old_shard_beside_a_new_index_is_not_written(bed: Bed, api: FakeApi) -> None:
    bed.start()
    await bed.deliver(user("bob", "one", "old"))
    old = {number: data for number, (_digest, data) in bed.server.shards.items()}
    bed.server.spoil = lambda _shards: old
    bed.offer(BOB)
    await until("it is told", lambda: "not the one that the index names" in bed.last("problem"))
    assert await bed.users() == []
    assert api.names("secrets") == {INDEX}


async def test_an_answer_that_lacks_a_shard_changes_nothing_and_is_asked_for_again(bed: Bed) -> None:
    bed.start()
    await bed.deliver(BOB)
    bed.server.spoil = lambda _shards: {}
    bed.offer(BOB, EVE)
    await until("it is told", lambda: "did not send shard" in bed.last("problem"))
    assert await bed.users() == ["bob"]
    bed.server.spoil = lambda shards: shards
    await bed.are("bob", "eve")
    await until("all is well", lambda: bed.last("problem") == "")


@pytest.mark.parametrize("what", [INDEX, BOBS])
@pytest.mark.parametrize("how", ["deleted", "edited"])
async def test_what_somebody_deletes_or_edits_is_put_back_without_the_server(
    bed: Bed, api: FakeApi, monkeypatch: pytest.MonkeyPatch, what: str, how: str
) -> None:
    monkeypatch.setattr(writer_module, "LOOK", 0.2)
    bed.start()
    await bed.deliver(BOB, EVE)
    bed.server.stop()
    if how == "deleted":
        api.drop("secrets", what, NAMESPACE)
    else:
        api.put("secrets", secret(what, document=b"mine", link=b"{}"))
    await bed.are("bob", "eve")
    assert (await bed.link())["connected"] is True


async def test_what_is_too_much_to_hold_is_fetched_again(
    bed: Bed, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "LOOK", 0.2)
    monkeypatch.setattr(vault_module, "HELD", 10)
    bed.start()
    await bed.deliver(BOB, EVE)
    asked = len(bed.server.asked)
    api.drop("secrets", BOBS, NAMESPACE)
    await bed.are("bob", "eve")
    assert set(bed.server.asked[asked]["have"]) == {str(shard_of(EVE.id))}


async def test_an_older_index_that_somebody_puts_back_does_not_stay(bed: Bed, api: FakeApi) -> None:
    bed.start()
    await bed.deliver(user("bob", "one", "revoked"))
    old = dict(api.objects["secrets", NAMESPACE, INDEX]["data"])
    await bed.deliver(BOB)
    new = dict(api.objects["secrets", NAMESPACE, INDEX]["data"])
    stolen = secret(INDEX)
    stolen["data"] = old
    api.put("secrets", stolen)
    await until("it is gone", lambda: api.objects["secrets", NAMESPACE, INDEX]["data"]["document"] == new["document"])


async def test_a_secret_of_another_type_or_that_cannot_be_changed_is_made_anew(bed: Bed, api: FakeApi) -> None:
    bed.start()
    await bed.deliver(BOB)
    stuck = {"on": True}

    def immutable(method: str, path: str, _body: Any) -> tuple[int, str] | None:
        if method == "DELETE" and path.endswith(BOBS):
            stuck["on"] = False
        return (422, "field is immutable") if stuck["on"] and method == "PUT" and path.endswith(BOBS) else None

    api.refuse = immutable
    await bed.deliver(user("bob", "one", "two"))
    assert await bed.users() == ["bob"]


async def test_secrets_of_shards_that_the_index_does_not_name_go_when_an_agent_begins(bed: Bed, api: FakeApi) -> None:
    bed.start()
    await bed.deliver(BOB)
    await bed.stop()
    api.put("secrets", secret(EVES, document=b"planted"))
    bed.start()
    await until("it is gone", lambda: api.names("secrets") == {INDEX, BOBS})


async def test_after_a_restart_without_the_server_what_is_there_counts(bed: Bed, api: FakeApi) -> None:
    bed.start()
    await bed.deliver(BOB, EVE)
    await bed.stop()
    bed.server.stop()
    bed.said.clear()
    api.calls.clear()
    agent = bed.start()
    await until("it is told", lambda: (agent.status() or {}).get("digest") == bed.server.digest)
    assert await bed.users() == ["bob", "eve"]
    assert written(api) == []


async def test_after_a_restart_what_somebody_did_meanwhile_is_put_right(bed: Bed, api: FakeApi) -> None:
    bed.start()
    await bed.deliver(BOB, EVE)
    await bed.stop()
    api.put("secrets", secret(BOBS, document=b"mine"))
    bed.start()
    await bed.are("bob", "eve")
    await bed.stop()
    api.put("secrets", secret(INDEX, document=b"mine"))
    bed.said.clear()
    bed.start()
    await bed.are("bob", "eve")
    await until("it is told", lambda: bed.last("digest") == bed.server.digest and not bed.last("problem"))


async def test_the_link_is_written_when_it_has_been_so_for_a_while(bed: Bed, api: FakeApi) -> None:
    agent = bed.start()
    await bed.deliver(BOB)
    assert (await bed.link())["connected"] is True
    api.calls.clear()
    agent.linked(False)
    await asyncio.sleep(0.05)
    agent.linked(True)
    await asyncio.sleep(0.5)
    assert written(api) == []
    agent.linked(False)

    async def down() -> bool:
        return (await bed.link())["connected"] is False

    await until("it is written", down)
    assert [name for _method, name in written(api)] == [INDEX]
    assert await bed.users() == ["bob"]


async def test_without_an_index_nobody_waits_for_the_link(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was looked at in a loop without a pause while the server could not be asked."""
    asked = []
    due = link_module.LinkState.due
    monkeypatch.setattr(link_module.LinkState, "due", lambda *words: asked.append(1) or due(*words))
    bed.server.stop()
    bed.start()
    bed.offer(BOB)
    await until("it is told", lambda: bed.last("problem"))
    await asyncio.sleep(0.5)
    assert len(asked) < 10


async def test_the_servers_clock_goes_along(bed: Bed) -> None:
    bed.server.ahead = 600
    bed.start()
    await bed.deliver(BOB)
    assert 595 < (await bed.link())["offset"] < 605


async def test_of_two_agents_one_works_and_speaks(bed: Bed) -> None:
    one = bed.start("one")
    await bed.deliver(BOB)
    two = bed.start("two")
    await bed.deliver(BOB, EVE)
    assert len(bed.server.asked) == 2
    assert one.status() is not None
    assert two.status() is None


async def test_a_manifest_from_before_endpoints_is_told(bed: Bed, api: FakeApi) -> None:
    api.refuse = lambda _method, path, _body: (403, "forbidden") if "/secrets" in path else None
    bed.start()
    bed.offer(BOB)
    await until("it is told", lambda: "apply the cluster's manifest again" in (bed.last("problem") or ""))
    api.refuse = lambda *_unused: None
    await bed.are("bob")
    await until("all is well", lambda: bed.last("problem") == "")


async def test_where_the_cluster_is_and_who_serves_it_goes_along(bed: Bed, api: FakeApi) -> None:
    addresses = [{"type": "Hostname", "address": "cp"}, {"type": "InternalIP", "address": "10.0.0.1"}]
    outside = [*addresses, {"type": "ExternalIP", "address": "192.0.2.1"}]
    role = {"node-role.kubernetes.io/control-plane": ""}
    for name, labels, found in (("b", role, addresses), ("a", role, outside), ("worker", {}, addresses)):
        api.put("nodes", {"metadata": {"name": name, "labels": labels}, "status": {"addresses": found}})
    slices = {"metadata": {"name": "kubernetes", "namespace": "default"}, "ports": [{"name": "https", "port": 7443}]}
    api.put("endpointslices", slices)
    agent = bed.start()
    await bed.deliver(BOB)
    nodes = [{"name": "a", "host": "192.0.2.1", "port": 7443}, {"name": "b", "host": "10.0.0.1", "port": 7443}]
    await until("the nodes are told", lambda: bed.last("nodes") == nodes)
    assert bed.last("serving") is None
    agent.serving = {"url": "https://direct.example", "ca_pem": "x"}
    await until("it is told", lambda: (bed.last("serving") or {}).get("url") == "https://direct.example")


async def test_the_api_server_may_be_away_for_a_while(bed: Bed, api: FakeApi) -> None:
    bed.start()
    await bed.deliver(BOB)
    api.away = True
    bed.offer(EVE)
    await until("it is told", lambda: "nobody is there" in bed.last("problem"))
    api.away = False
    await bed.are("eve")


@pytest.mark.parametrize(
    "message",
    [
        {"kind": "endpoint"},
        {"kind": "endpoint", "revision": "1", "digest": "x"},
        {"kind": "endpoint", "revision": -1, "digest": "x"},
        {"kind": "endpoint", "revision": 1, "digest": ""},
        {"kind": "endpoint", "revision": 1, "digest": "x" * 1000},
        {"kind": "policy", "revision": 1, "digest": "x"},
    ],
)
async def test_a_message_that_is_none_is_left(bed: Bed, api: FakeApi, message: dict[str, Any]) -> None:
    agent = bed.start()
    await until("it has looked", lambda: api.calls)
    agent.heard(message)
    await asyncio.sleep(0.05)
    assert len(api.calls) == 1


async def test_without_the_servers_key_nothing_is_believed(bed: Bed) -> None:
    bed.identity = replace(bed.identity, policy_key="")
    bed.start()
    bed.offer(BOB)
    await until("it is told", lambda: "knows no key" in (bed.last("problem") or ""))
    assert await bed.data(INDEX) is None
