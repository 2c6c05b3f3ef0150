# SPDX-License-Identifier: Apache-2.0
"""An agent gets its own cluster's policy by its key, and nothing else; people see how the policy stands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from mooring.policy.standing import Standing
from mooring.store.policies import PolicyFault, PolicyStatus
from support.agentjwt import AgentOf as Agent


@pytest.fixture
async def agents(world: Any) -> tuple[Agent, Agent]:
    made = []
    for name in ("prod", "test"):
        agent = Agent(world, await world.cluster(name))
        assert (await agent.register())["policy_key"] == world.policies.public_key
        made.append(agent)
    return made[0], made[1]


async def fetch(world: Any, jwt: str | None, **headers: str) -> Any:
    if jwt is not None:
        headers["Authorization"] = f"Bearer {jwt}"
    return await world.anonymous("GET", "/agents/policy", **headers)


def seal(world: Any, agent: Agent, data: bytes) -> str:
    digest = data.hex().ljust(64, "0")
    world.policies.bundles[agent.id] = type("Sealed", (), {"digest": digest, "data": data})()
    return digest


async def test_an_agent_gets_the_policy_of_its_own_cluster(world: Any, agents: tuple[Agent, Agent]) -> None:
    prod, test = agents
    early = await fetch(world, prod.jwt())
    assert (early.status_code, early.json()["code"]) == (503, "not_rendered")
    assert int(early.headers["Retry-After"]) >= 1
    tags = {agent.id: seal(world, agent, agent.id.encode()) for agent in agents}
    for agent in agents:
        answer = await fetch(world, agent.jwt())
        assert (answer.status_code, answer.content) == (200, agent.id.encode())
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["ETag"] == f'"{tags[agent.id]}"'
    same = await fetch(world, prod.jwt(), If_None_Match=f'"other", "{tags[prod.id]}"')
    assert (same.status_code, same.content) == (304, b"")
    assert same.headers["ETag"] == f'"{tags[prod.id]}"'
    assert (await fetch(world, prod.jwt(), If_None_Match=f'"{tags[test.id]}"')).status_code == 200
    world.policies.stuck = True
    assert (await fetch(world, prod.jwt())).status_code == 503


async def test_nobody_else_gets_anything(world: Any, agents: tuple[Agent, Agent]) -> None:
    prod, test = agents
    for agent in agents:
        seal(world, agent, b"rights")
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
        "not a JWT": "x" * 20,
        "too long": "x" * 5_000,
    }
    for what, jwt in wrong.items():
        answer = await fetch(world, jwt)
        assert answer.status_code == 401, what
        assert answer.headers["WWW-Authenticate"], what
        assert b"rights" not in answer.content, what
    await world.admin.ok("DELETE", f"/clusters/{prod.id}")
    assert (await fetch(world, prod.jwt())).status_code == 401


async def test_an_agents_jwt_opens_nothing_else(world: Any, agents: tuple[Agent, Agent]) -> None:
    for path in ("/whoami", "/clusters", f"/clusters/{agents[0].id}/policy", "/policy/status", "/users"):
        answer = await world.anonymous("GET", path, Authorization=f"Bearer {agents[0].jwt()}")
        assert answer.status_code == 401, path


async def test_how_the_policy_stands_is_shown(world: Any, agents: tuple[Agent, Agent]) -> None:
    prod = agents[0]
    status = PolicyStatus(
        cluster_id=prod.id,
        cluster_name="prod",
        desired_revision=8,
        desired_digest="8" * 64,
        applied_revision=7,
        applied_digest="7" * 64,
        applied_at=world.clock.now(),
        profile="read-only",
        errors=(PolicyFault("ClusterRole mooring:x", "forbidden"),),
        healed=3,
    )
    world.policies.standings[prod.id] = Standing(status, "pending", 2.5)
    shown = await world.admin.ok("GET", "/clusters/prod/policy")
    assert {name: shown[name] for name in ("cluster", "state", "lag_seconds", "profile", "healed")} == {
        "cluster": "prod",
        "state": "pending",
        "lag_seconds": 2.5,
        "profile": "read-only",
        "healed": 3,
    }
    assert (shown["desired_revision"], shown["applied_revision"]) == (8, 7)
    assert shown["errors"] == [{"object": "ClusterRole mooring:x", "reason": "forbidden"}]
    assert shown["applied_at"].endswith("Z")
    listed = await world.admin.ok("GET", "/policy/status")
    assert [item["cluster"] for item in listed["items"]] == ["prod", "test"]
    assert listed["items"][0] == shown
    assert (listed["items"][1]["state"], listed["total"]) == ("unknown", 2)
    first = await world.admin.ok("GET", "/policy/status?limit=1")
    rest = await world.admin.ok("GET", f"/policy/status?limit=1&cursor={first['next']}")
    assert [*first["items"], *rest["items"]] == listed["items"]
    short = (await world.admin.ok("GET", "/clusters/prod"))["policy"]
    assert (short["state"], short["errors"], short["desired_revision"]) == ("pending", 1, 8)
    world.policies.standings[prod.id] = Standing(replace(status, errors=()), "applied", 0.0)
    assert (await world.admin.ok("GET", "/clusters/prod/policy"))["lag_seconds"] == 0


async def test_who_may_see_how_the_policy_stands(world: Any, agents: tuple[Agent, Agent]) -> None:
    bob = await world.user("bob")
    assert (await bob("GET", "/policy/status")).status_code == 403
    assert (await bob("GET", "/clusters/prod/policy")).status_code == 404
    await world.admin.ok("POST", "/memberships", {"cluster": "prod", "user": "bob"})
    assert (await bob("GET", "/clusters/prod/policy")).status_code == 200
