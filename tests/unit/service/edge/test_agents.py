# SPDX-License-Identifier: Apache-2.0
"""Who gets to be the agent of a cluster at `/tunnel/connect`."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, OKPKey
from joserfc.util import urlsafe_b64decode
from mooring.authn.agents import AgentIdentity
from support.edgebed import Edge, MakeEdge, until
from support.proxyfakes import ALPHA, BETA

pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated")

WEBSOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol: mooring-tunnel.1",
)


def register(edge: Edge, cluster_id: str) -> OKPKey:
    """A registered agent's key."""
    key = OKPKey.generate_key("Ed25519")
    edge.agent_keys[cluster_id] = urlsafe_b64decode(key.as_dict(private=False)["x"].encode())  # type: ignore[union-attr]
    return key


def token(edge: Edge, key: Any, cluster_id: str, *, algorithm: str = "EdDSA", **changes: Any) -> str:
    now = edge.world.clock.now()
    claims = {
        "iss": cluster_id,
        "aud": "mooring-test",
        "iat": now,
        "nbf": now,
        "exp": now + 60,
        "jti": os.urandom(8).hex(),
        **changes,
    }
    header = {"alg": algorithm, "typ": "mooring-agent+jwt", "kid": changes.get("kid", cluster_id)}
    return jwt.encode(header, claims, key, algorithms=[algorithm])


async def dial(edge: Edge, bearer: str | None, *headers: str, path: str = "/tunnel/connect") -> tuple[int, str]:
    """Status and message that the server answers with."""
    peer = await edge.connect()
    lines = headers or WEBSOCKET
    if bearer is not None:
        lines = (*lines, f"Authorization: Bearer {bearer}")
    await peer.send(edge.get(path, None, *lines))
    head = await peer.until(b"\r\n\r\n")
    code = int(head.split(b" ", 2)[1])
    message = "" if code == 101 else json.loads(await peer.until(b"}\n"))["message"]
    peer.abort()
    return code, message


async def test_agent_with_its_key_is_let_in_and_its_connection_handed_over(edge: Edge) -> None:
    key = register(edge, ALPHA)
    good = token(edge, key, ALPHA)
    peer = await edge.connect()
    raw = edge.get("/tunnel/connect", None, *WEBSOCKET, f"Authorization: Bearer {good}")
    await peer.send(raw + b"\x82\x80early")
    assert (await peer.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    assert edge.accepted == [(ALPHA, raw + b"\x82\x80early")]
    await until(lambda: not edge.listener._connections)
    assert edge.refused == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"iss": BETA}, 403),
        ({"aud": "another"}, 403),
        ({"exp": 1}, 403),
        ({"iat": time.time() + 10**9, "nbf": time.time() + 10**9, "exp": time.time() + 10**9 + 60}, 403),
    ],
)
async def test_wrong_claims_are_refused_and_noted(edge: Edge, changes: dict[str, Any], code: int) -> None:
    key = register(edge, ALPHA)
    got, message = await dial(edge, token(edge, key, ALPHA, **changes))
    assert (got, edge.accepted) == (code, [])
    assert message
    assert [cluster for cluster, _unused in edge.refused] == [ALPHA]


async def test_refused_agent_sees_by_how_much_its_clock_is_off(edge: Edge) -> None:
    key, now = register(edge, ALPHA), edge.world.clock.now()
    peer = await edge.connect()
    late = token(edge, key, ALPHA, iat=now - 600, nbf=now - 600, exp=now - 540)
    await peer.send(edge.get("/tunnel/connect", None, *WEBSOCKET, f"Authorization: Bearer {late}"))
    head = await peer.until(b"\r\n\r\n")
    peer.abort()
    assert head.startswith(b"HTTP/1.1 403 ")
    date = next(line for line in head.decode().split("\r\n") if line.startswith("Date: ")).removeprefix("Date: ")
    assert abs(parsedate_to_datetime(date).timestamp() - now) <= 1


async def test_key_of_one_cluster_opens_no_other(edge: Edge) -> None:
    key = register(edge, ALPHA)
    register(edge, BETA)
    assert (await dial(edge, token(edge, key, BETA)))[0] == 401
    assert edge.accepted == []
    assert edge.refused[0][0] == BETA


async def test_replay_is_refused(edge: Edge) -> None:
    good = token(edge, register(edge, ALPHA), ALPHA)
    assert (await dial(edge, good))[0] == 101
    assert (await dial(edge, good))[0] == 403


async def test_public_key_as_a_shared_secret_is_refused(edge: Edge) -> None:
    register(edge, ALPHA)
    forged = token(edge, OctKey.import_key(edge.agent_keys[ALPHA]), ALPHA, algorithm="HS256")
    assert (await dial(edge, forged))[0] == 401


@pytest.mark.parametrize("bearer", [None, "x", "a.b.c", "a" * 5_000])
async def test_without_a_jwt_there_is_nothing_to_note(edge: Edge, bearer: str | None) -> None:
    assert (await dial(edge, bearer))[0] == 401
    assert (edge.accepted, edge.refused) == ([], [])


async def test_unknown_cluster_is_refused(edge: Edge) -> None:
    assert (await dial(edge, token(edge, OKPKey.generate_key("Ed25519"), ALPHA)))[0] == 403


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        (("Accept: */*",), 400),
        (("Connection: Upgrade", "Upgrade: SPDY/3.1", "Sec-WebSocket-Protocol: mooring-tunnel.1"), 400),
        (WEBSOCKET[:4], 400),
        ((*WEBSOCKET[:4], "Sec-WebSocket-Protocol: mooring-tunnel.2"), 400),
        ((*WEBSOCKET, "Origin: https://localhost"), 403),
    ],
)
async def test_what_is_no_agent_is_refused_before_its_token_is_used_up(
    edge: Edge, headers: tuple[str, ...], code: int
) -> None:
    good = token(edge, register(edge, ALPHA), ALPHA)
    assert (await dial(edge, good, *headers))[0] == code
    assert (await dial(edge, good))[0] == 101


async def test_user_token_is_no_agent(edge: Edge) -> None:
    assert (await dial(edge, edge.world.bearer("root")))[0] == 401


async def test_too_many_handshakes_from_one_address_get_429_and_the_key_is_not_looked_at(make_edge: MakeEdge) -> None:
    edge = await make_edge(per_minute=2)
    key = register(edge, ALPHA)
    for _unused in range(2):
        assert (await dial(edge, token(edge, key, ALPHA)))[0] == 101
    code, message = await dial(edge, token(edge, key, ALPHA))
    assert (code, message) == (429, "too many agents connect from this address")
    edge.world.clock.advance(31)
    assert (await dial(edge, token(edge, key, ALPHA)))[0] == 101


async def test_an_agent_that_has_a_session_with_this_worker_is_told_so_before_it_has_another(
    make_edge: MakeEdge,
) -> None:
    edge = await make_edge()
    edge.route._instance = b"srv/i-1"
    key = register(edge, ALPHA)
    code, message = await dial(edge, token(edge, key, ALPHA), *WEBSOCKET, "Mooring-Held: srv/i-0, srv/i-1")
    assert (code, "srv/i-1" in message) == (409, True)
    assert edge.accepted == []
    assert (await dial(edge, token(edge, key, ALPHA), *WEBSOCKET, "Mooring-Held: srv/i-0"))[0] == 101


@pytest.mark.parametrize(("first", "code"), [(True, 101), (False, 403), (None, 503)])
async def test_a_jwt_is_asked_for_at_the_other_workers_before_anybody_is_let_in(
    edge: Edge, first: bool | None, code: int
) -> None:
    asked: list[tuple[AgentIdentity, Callable[[bool | None], None]]] = []
    edge.route._claim = lambda identity, answer: asked.append((identity, answer))
    key = register(edge, ALPHA)
    answered = asyncio.ensure_future(dial(edge, token(edge, key, ALPHA, jti="0123456789"), *WEBSOCKET))
    await until(lambda: bool(asked))
    identity, answer = asked[0]
    assert (identity.cluster_id, identity.jti, edge.accepted) == (ALPHA, "0123456789", [])
    answer(first)
    answer(True)  # whatever is said later
    assert (await answered)[0] == code
    assert len(edge.accepted) == (code == 101)


async def test_an_agent_whose_key_was_changed_while_it_waited_is_refused(edge: Edge) -> None:
    asked: list[Callable[[bool | None], None]] = []
    edge.route._claim = lambda identity, answer: asked.append(answer)
    key = register(edge, ALPHA)
    answered = asyncio.ensure_future(dial(edge, token(edge, key, ALPHA), *WEBSOCKET))
    await until(lambda: bool(asked))
    register(edge, ALPHA)
    asked[0](True)
    assert (await answered)[0] == 403
    assert edge.accepted == []


async def test_an_agent_that_left_while_it_waited_is_not_let_in(edge: Edge) -> None:
    asked: list[Callable[[bool | None], None]] = []
    edge.route._claim = lambda identity, answer: asked.append(answer)
    bearer = token(edge, register(edge, ALPHA), ALPHA)
    peer = await edge.connect()
    await peer.send(edge.get("/tunnel/connect", None, *WEBSOCKET, f"Authorization: Bearer {bearer}"))
    await until(lambda: bool(asked))
    peer.abort()
    await until(lambda: not edge.listener._connections)
    asked[0](True)
    assert edge.accepted == []
