# SPDX-License-Identifier: Apache-2.0
"""An agent gets the tokens for its own cluster's endpoint by its key, and nothing else; and who may have them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from mooring.api import issue as module
from mooring.api.issue import issue_endpoint
from mooring.api.problems import Problem
from mooring.store.records import Cluster, EndpointSettings, User
from mooring.wire import endpoint
from support.agentjwt import AgentOf

ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
async def agents(world: Any) -> tuple[AgentOf, AgentOf]:
    made = []
    for name in ("prod", "test"):
        agent = AgentOf(world, await world.cluster(name))
        await agent.register()
        made.append(agent)
    return made[0], made[1]


async def fetch(world: Any, jwt: str | None, **body: Any) -> Any:
    headers = {} if jwt is None else {"Authorization": f"Bearer {jwt}"}
    return await world.anonymous("POST", "/agents/endpoint", body, **headers)


async def test_an_agent_gets_the_documents_of_its_own_cluster(world: Any, agents: tuple[AgentOf, AgentOf]) -> None:
    prod, test = agents
    early = await fetch(world, prod.jwt())
    assert (early.status_code, early.json()["code"]) == (503, "not_rendered")
    assert int(early.headers["Retry-After"]) >= 1
    world.endpoints.digests |= {prod.id: ONE, test.id: TWO}
    world.endpoints.made[prod.id] = (b"index", {3: b"three", 15: b"fifteen"})
    answer = await fetch(world, prod.jwt(), have={"3": TWO, "15": ONE})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/msgpack")
    assert msgspec.msgpack.decode(answer.content) == {"index": b"index", "shards": {3: b"three", 15: b"fifteen"}}
    assert world.endpoints.asked == [(prod.id, {3: TWO, 15: ONE})]
    some_lost = await fetch(world, prod.jwt(), digest=ONE)
    assert msgspec.msgpack.decode(some_lost.content)["shards"] == {3: b"three", 15: b"fifteen"}
    world.endpoints.made[prod.id] = (b"index", {})
    other = await fetch(world, prod.jwt(), digest=TWO)
    assert msgspec.msgpack.decode(other.content) == {"index": b"index", "shards": {}}
    nothing = await fetch(world, prod.jwt(), digest=ONE, have={})
    assert (nothing.status_code, nothing.content) == (204, b"")
    assert (await fetch(world, test.jwt())).status_code == 503, "it took too long"


async def test_nobody_else_gets_anything(world: Any, agents: tuple[AgentOf, AgentOf]) -> None:
    prod, test = agents
    for agent in agents:
        world.endpoints.digests[agent.id] = ONE
        world.endpoints.made[agent.id] = (b"tokens", {})
    now = int(world.clock.now())
    once = prod.jwt()
    assert (await fetch(world, once)).status_code == 200
    wrong = {
        "none": None,
        "a second time": once,
        "expired": prod.jwt(iat=now - 300, nbf=now - 300, exp=now - 260),
        "for another server": prod.jwt(aud="elsewhere"),
        "signed by the agent of another cluster": prod.jwt(test.key),
        "of another cluster's id": test.jwt(kid=prod.id),
        "with another issuer": prod.jwt(iss=test.id),
        "an administrator's token": world.admin.token,
    }
    for what, jwt in wrong.items():
        answer = await fetch(world, jwt)
        assert answer.status_code == 401, what
        assert b"tokens" not in answer.content, what
    await world.admin.ok("DELETE", f"/clusters/{prod.id}")
    assert (await fetch(world, prod.jwt())).status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        {"have": {"0": "x"}},
        {"have": {"-1": ONE}},
        {"have": {"zero": ONE}},
        {"have": {str(number): ONE for number in range(17)}},
        {"digest": "x" * 64},
        {"cluster": "c-other"},
        [],
    ],
)
async def test_what_has_not_the_form_is_refused(world: Any, agents: tuple[AgentOf, AgentOf], body: Any) -> None:
    answer = await world.anonymous("POST", "/agents/endpoint", body, Authorization=f"Bearer {agents[0].jwt()}")
    assert answer.status_code == 422


async def _prod(world: Any) -> tuple[User, Cluster]:
    made = await world.cluster("prod")
    await world.user("bob")
    async with world.services.store.write() as tx:
        cluster = await tx.clusters.set_endpoint(made["id"], world.clock.now(), EndpointSettings())
        bob = await tx.users.get("bob")
    assert bob is not None
    return bob, cluster


async def test_a_token_for_an_endpoint_opens_neither_api_nor_index(world: Any) -> None:
    bob, prod = await _prod(world)
    async with world.services.store.write() as tx:
        token, text = await issue_endpoint(tx, world.services, bob, "mine", world.clock.now() + 60, prod)
    parsed = endpoint.parse_token(text.reveal())
    assert parsed is not None
    assert (token.id, token.audience, token.cluster_id) == (parsed[0], "endpoint", prod.id)
    assert token.hash == endpoint.token_hash(prod.id, parsed[1])
    assert token not in world.services.index.snapshot().tokens
    answer = await world.anonymous("GET", "/whoami", Authorization=f"Bearer {text.reveal()}")
    assert answer.status_code == 401
    assert "endpoint of its cluster only" in answer.json()["detail"]
    await world.admin.ok("DELETE", f"/tokens/{token.id}")
    async with world.services.store.read() as tx:
        revoked = await tx.tokens.get(token.id)
    assert revoked is not None
    assert revoked.revoked_at == world.clock.now()


async def test_who_has_too_many_gets_no_more(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bob, prod = await _prod(world)

    async def another(user: User = bob, cluster: Cluster = prod) -> None:
        async with world.services.store.write() as tx:
            await issue_endpoint(tx, world.services, user, "", world.clock.now() + 60, cluster)

    async with world.services.store.read() as tx:
        admin = await tx.users.get("admin")
    assert admin is not None
    with pytest.raises(Problem, match="has no endpoint of its own"):
        await another(cluster=replace(prod, endpoint=None))
    monkeypatch.setattr(module.endpoint, "MAX_TOKENS_PER_USER", 2)
    await another()
    await another()
    with pytest.raises(Problem, match="'bob' has 2 tokens for the endpoint of 'prod'"):
        await another()
    monkeypatch.setattr(module.endpoint, "MAX_TOKENS", 3)
    await another(admin)
    with pytest.raises(Problem, match="there are 3 tokens for the endpoint of 'prod'"):
        await another(admin)
    world.clock.advance(61)
    with pytest.raises(Problem, match="there are 3 tokens"):
        await another()
    world.clock.advance(600)
    await another()
