# SPDX-License-Identifier: Apache-2.0
"""Registration: a join token is good once, for one key and one Kubernetes cluster."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest
from mooring.authn.index import AgentKeyChanged


def key() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")


class Agent:
    """An agent's side of registration."""

    def __init__(self, world: Any) -> None:
        self.world = world

    async def token(self, cluster: str = "prod", **more: Any) -> str:
        return str((await self.world.admin.ok("POST", f"/clusters/{cluster}/join-tokens", more or None))["join_token"])

    async def register(self, token: str, public_key: str, uid: str = "uid-1", **more: Any) -> Any:
        body = {
            "join_token": token,
            "public_key": public_key,
            "cluster_uid": uid,
            "agent_version": "0.1.0",
            "kubernetes_version": "v1.36.3",
        }
        return await self.world.anonymous("POST", "/agents/register", body | more)


@pytest.fixture
async def agent(world: Any) -> Agent:
    await world.cluster("prod")
    return Agent(world)


async def test_a_join_token_is_exchanged_for_a_pinned_key(world: Any, agent: Agent) -> None:
    mine = key()
    answer = await agent.register(await agent.token(), mine)
    assert answer.status_code == 201
    cluster = await world.admin.ok("GET", "/clusters/prod")
    assert answer.json() == {
        "cluster_id": cluster["id"],
        "cluster_name": "prod",
        "audience": "mooring.example",
        "tunnel_urls": ["wss://mooring.example:8443/tunnel/connect"],
        "ca_pem": world.services.settings.ca_pem,
        "policy_key": world.policies.public_key,
    }
    assert cluster["cluster_uid"] == "uid-1"
    assert cluster["registered_at"] == "2023-11-14T22:13:20.000Z"
    assert (cluster["agent_version"], cluster["kubernetes_version"]) == ("0.1.0", "v1.36.3")
    raw = base64.urlsafe_b64decode(mine + "=")
    assert world.services.index.agent_key(cluster["id"]) == raw
    assert world.control.registered == [cluster["id"]]


async def test_an_agent_that_lost_the_answer_gets_it_again(agent: Agent) -> None:
    token, mine = await agent.token(), key()
    first = await agent.register(token, mine)
    again = await agent.register(token, mine)
    assert (again.status_code, again.json()) == (201, first.json())


async def test_a_used_token_is_dead_for_any_other_key(world: Any, agent: Agent) -> None:
    token, mine = await agent.token(), key()
    await agent.register(token, mine)
    stolen = await agent.register(token, key())
    assert (stolen.status_code, stolen.json()["code"]) == (401, "join_token_used")
    other_uid = await agent.register(token, mine, uid="uid-2")
    assert other_uid.json()["code"] == "join_token_used"
    cluster = await world.admin.ok("GET", "/clusters/prod")
    assert world.control.refused[0] == (cluster["id"], "the join token was used already")


async def test_a_repeat_after_a_new_key_does_not_bring_the_old_key_back(world: Any, agent: Agent) -> None:
    token, old, new = await agent.token(), key(), key()
    await agent.register(token, old)
    assert (await agent.register(await agent.token(), new)).status_code == 201
    assert (await agent.register(token, old)).json()["code"] == "join_token_used"
    cluster = await world.admin.ok("GET", "/clusters/prod")
    assert world.services.index.agent_key(cluster["id"]) == base64.urlsafe_b64decode(new + "=")


async def test_an_expired_token_says_so(world: Any, agent: Agent) -> None:
    token = await agent.token(ttl_seconds=60)
    world.clock.advance(60)
    answer = await agent.register(token, key())
    assert (answer.status_code, answer.json()["code"]) == (401, "join_token_expired")
    used, mine = await agent.token(ttl_seconds=60), key()
    await agent.register(used, mine)
    world.clock.advance(60)
    assert (await agent.register(used, mine)).json()["code"] == "join_token_expired"


async def test_an_unknown_token_is_unknown_whatever_is_wrong_with_it(world: Any, agent: Agent) -> None:
    token = await agent.token()
    kind, token_id, secret = token.split("_")
    wrong = ("a" if secret[0] != "a" else "b") + secret[1:]
    bodies = {
        (await agent.register(t, key())).text for t in ("x", f"{kind}_{token_id}_{wrong}", f"mrg_{token_id}_{secret}")
    }
    assert len(bodies) == 1
    assert '"join_token_unknown"' in bodies.pop()
    assert world.control.refused == [], "who does not hold the secret cannot make a cluster look refused"


async def test_guessing_join_tokens_gets_slow(agent: Agent) -> None:
    codes = [(await agent.register("x", key())).status_code for _unused in range(4)]
    assert codes == [401, 401, 401, 429]


async def test_one_kubernetes_cluster_is_registered_once(world: Any, agent: Agent) -> None:
    await world.cluster("test")
    await agent.register(await agent.token("prod"), key())
    answer = await agent.register(await agent.token("test"), key())
    assert (answer.status_code, answer.json()["code"]) == (409, "cluster_registered")
    assert answer.json()["errors"][0]["field"] == "cluster_uid"
    assert (await world.admin.ok("GET", "/clusters/test"))["registered_at"] is None


async def test_memberships_of_one_cluster_never_open_another(world: Any, agent: Agent) -> None:
    await agent.register(await agent.token(), key())
    answer = await agent.register(await agent.token(), key(), uid="uid-rebuilt")
    assert (answer.status_code, answer.json()["code"]) == (409, "other_cluster")
    cluster = await world.admin.ok("GET", "/clusters/prod")
    assert cluster["cluster_uid"] == "uid-1"
    assert world.control.refused[0][0] == cluster["id"]


async def test_a_refused_registration_leaves_the_token_usable(agent: Agent) -> None:
    await agent.register(await agent.token(), key())
    token = await agent.token()
    assert (await agent.register(token, key(), uid="uid-other")).status_code == 409
    assert (await agent.register(token, key())).status_code == 201


async def test_a_new_key_takes_a_new_token_and_ends_the_old_sessions(world: Any, agent: Agent) -> None:
    heard: list[object] = []
    world.services.index.subscribe(heard.append)
    await agent.register(await agent.token(), key())
    assert heard == []
    await agent.register(await agent.token(), key())
    cluster = await world.admin.ok("GET", "/clusters/prod")
    assert heard == [AgentKeyChanged(cluster["id"])]
    assert cluster["version"] == 1


async def test_a_deleted_cluster_takes_its_join_tokens_and_key_along(world: Any, agent: Agent) -> None:
    open_token, used, mine = await agent.token(), await agent.token(), key()
    cluster_id = (await agent.register(used, mine)).json()["cluster_id"]
    await world.admin.ok("DELETE", "/clusters/prod")
    assert world.services.index.agent_key(cluster_id) is None
    for token in (open_token, used):
        assert (await agent.register(token, mine)).json()["code"] == "join_token_unknown"


@pytest.mark.parametrize("bad", ["", "!!", "AAAA", "A" * 44, base64.b64encode(b"\xff" * 32).decode().rstrip("=")])
async def test_a_key_that_is_no_ed25519_key_is_refused(agent: Agent, bad: str) -> None:
    answer = await agent.register(await agent.token(), bad)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "public_key"


async def test_a_key_of_small_order_with_which_anybody_can_sign_is_not_registered(world: Any, agent: Agent) -> None:
    weak = base64.urlsafe_b64encode(bytes([1]) + bytes(31)).decode().rstrip("=")
    answer = await agent.register(await agent.token(), weak)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "public_key"
    assert (await world.admin.ok("GET", "/clusters/prod"))["registered_at"] is None


@pytest.mark.parametrize("uid", ["", "a b", "a\n", "x" * 129])
async def test_a_uid_that_is_no_uid_is_refused(agent: Agent, uid: str) -> None:
    answer = await agent.register(await agent.token(), key(), uid=uid)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "cluster_uid"


async def test_the_prefix_is_pinned_by_the_first_registration(world: Any, agent: Agent) -> None:
    async with world.services.store.read() as tx:
        assert await tx.settings.get("identity_prefix") is None
    await agent.register(await agent.token(), key())
    async with world.services.store.read() as tx:
        assert await tx.settings.get("identity_prefix") == "mooring:"


async def test_failed_registrations_are_delayed_by_token_and_leave_others_alone(world: Any, agent: Agent) -> None:
    used, mine = await agent.token(), key()
    await agent.register(used, mine)
    answers = [await agent.register(used, key()) for _unused in range(4)]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
    assert answers[-1].json()["code"] == "too_many_failures"
    assert int(answers[-1].headers["Retry-After"]) >= 1
    assert (await agent.register(await agent.token(), key())).status_code == 201
    world.clock.advance(2)
    assert (await agent.register(used, key())).status_code == 401
    assert (await agent.register(used, key())).status_code == 429
    world.clock.advance(1.1)
    assert (await agent.register(used, key())).status_code == 429, "the second delay is longer than the first"
