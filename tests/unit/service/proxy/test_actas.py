# SPDX-License-Identifier: Apache-2.0
"""`kubectl --as` in the chain: what goes to the agent, what is refused before, and what is written down."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mooring.lib.names import holds_token
from mooring.proxy.forward import Forward
from mooring.wire.actas import TARGET, is_client
from support.proxyfakes import ALPHA, FakeClient, FakeSession, World, request

PODS = "/k8s/clusters/alpha/api/v1/namespaces/d/pods"
AS_ALICE = [("Impersonate-User", "alice")]
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJlc2lnbmF0dXJl"


def ask(world: World, headers: list[tuple[str, str]], who: str = "bob", upgrade: str = "") -> FakeClient:
    client = FakeClient()
    world.chain.handle(client, request(PODS, world.bearer(who), headers=headers, upgrade=upgrade))
    return client


def message(client: FakeClient) -> str:
    return str(json.loads(client.sent.split(b"\r\n\r\n", 1)[1])["message"])


def test_the_agent_is_told_the_real_user_and_the_wanted_one_apart(world: World) -> None:
    ask(
        world,
        [
            ("Impersonate-User", "system:serviceaccount:d:robot"),
            ("Impersonate-Uid", "77"),
            ("Impersonate-Group", "a"),
            ("impersonate-group", "system:masters"),
            ("Impersonate-Extra-Example.com%2FScopes", "read"),
            ("X-Mooring-As-User", "root"),
            ("X-Mooring-As-Group", "forged"),
        ],
    )
    stream = world.stream
    assert stream.target == TARGET
    assert stream.headers("impersonate-user") == ["mooring:bob"]
    assert stream.headers("impersonate-uid") == ["uid-bob"]
    assert stream.headers("impersonate-group") == ["mooring:devs", "system:authenticated"]
    assert stream.headers("x-mooring-as-user") == ["system:serviceaccount:d:robot"]
    assert stream.headers("x-mooring-as-uid") == ["77"]
    assert stream.headers("x-mooring-as-group") == ["a", "system:masters"]
    assert stream.headers("x-mooring-as-extra-example.com%2fscopes") == ["read"]


def test_without_as_the_target_is_the_old_one_and_nothing_is_added(world: World) -> None:
    ask(world, [("X-Mooring-As-User", "root")])
    assert world.stream.target == "apiserver"
    assert not [name for name, _unused in world.stream.head.headers if name.lower().startswith(b"x-mooring")]


def test_an_upgrade_acts_as_too(world: World) -> None:
    ask(world, AS_ALICE, upgrade="websocket")
    assert (world.stream.target, world.stream.header("upgrade")) == (TARGET, "websocket")
    assert world.stream.header("x-mooring-as-user") == "alice"


SPELLINGS = st.sampled_from(["impersonate-", "x-mooring-as-", "x-remote-", "impersonate", "x-mooring-"])
PARTS = st.sampled_from(["user", "uid", "group", "extra-a", "extra-mooring.fleet%2foriginal-user", "later", ""])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(
            st.builds(lambda a, b, up: (a + b).upper() if up else a + b, SPELLINGS, PARTS, st.booleans()).map(
                lambda name: name or "x"
            ),
            st.sampled_from(["root", "system:masters", "mooring:root", "a b", ""]),
        ),
        max_size=6,
    ),
    st.sampled_from(["", "_"]),
)
def test_no_header_of_a_client_reaches_the_agent_as_an_identity(
    world: World, headers: list[tuple[str, str]], dash: str
) -> None:
    """Whatever is sent: the real user is the token's owner, and a wanted identity is what `Impersonate-*` named."""
    headers = [(name.replace("-", dash) if dash else name, value) for name, value in headers]
    before = len(world.agent.streams)
    client = ask(world, headers)
    wanted = [(name.lower(), value) for name, value in headers if name.lower().startswith("impersonate-")]
    if len(world.agent.streams) == before:
        assert client.status in (400, 403)
        assert wanted or any(name.lower().replace("_", "-").startswith("impersonate") for name, _unused in headers)
        return
    stream = world.stream
    assert stream.headers("impersonate-user") == ["mooring:bob"]
    assert stream.headers("impersonate-group") == ["mooring:devs", "system:authenticated"]
    assert stream.headers("impersonate-uid") == ["uid-bob"]
    for part in ("user", "uid", "group", "extra-a"):
        assert stream.headers("x-mooring-as-" + part) == [v for n, v in wanted if n == "impersonate-" + part]
    names = {name.lower().decode() for name, _unused in stream.head.headers}
    assert not [name for name in names if name.replace("_", "-").startswith("x-remote")]
    ours = {"impersonate-extra-mooring.fleet%2ftoken-id", "impersonate-extra-mooring.fleet%2frequest-id"}
    assert {name for name in names if is_client(name.encode())} == ours | {
        "impersonate-user",
        "impersonate-uid",
        "impersonate-group",
    }
    stream.answer(200, fin=True)


@pytest.mark.parametrize("headers", [[("Impersonate-Group", "g")], [*AS_ALICE, ("Impersonate-Later", "x")]])
def test_what_is_not_an_identity_is_400_in_words_and_on_record(world: World, headers: list[tuple[str, str]]) -> None:
    client = ask(world, headers, who="root")
    assert client.status == 400
    assert message(client).startswith("impersonation (kubectl --as): ")
    assert world.agent.streams == []
    (record,) = world.audit.records
    assert (record.user, record.code, record.outcome, record.impersonated_user) == ("root", 400, "refused", None)


def test_who_may_not_enter_is_told_that_first(world: World) -> None:
    client = ask(world, AS_ALICE, who="mallory")
    assert client.status == 403
    assert "no membership" in message(client)
    client = FakeClient()
    world.chain.handle(client, request(PODS, headers=AS_ALICE))
    assert client.status == 401


def test_an_agent_that_is_too_old_is_501_and_gets_nothing(world: World) -> None:
    world.hub.targets = {"apiserver"}
    client = ask(world, AS_ALICE)
    assert client.status == 501
    assert "mooring cluster manifest alpha" in message(client)
    assert world.agent.streams == []
    world.hub.sessions.clear()
    assert ask(world, AS_ALICE).status == 503


@pytest.mark.parametrize("old", [True, False])
def test_a_session_that_was_waited_for_is_looked_at_too(world: World, old: bool) -> None:
    world.hub.sessions.clear()
    world.hub.coming.add(ALPHA)
    client = ask(world, AS_ALICE)
    assert client.head is None
    if old:
        world.hub.targets = {"apiserver"}
    session = FakeSession()
    world.hub.arrive(ALPHA, session)
    assert len(session.streams) == (0 if old else 1)
    if old:
        assert client.status == 501
    else:
        assert session.streams[0].target == TARGET


@pytest.mark.parametrize("where", ["Impersonate-User", "Impersonate-Group", "Impersonate-Uid", "Impersonate-Extra-a"])
def test_token_given_as_a_name_reaches_no_log_and_no_cluster(world: World, where: str) -> None:
    for token in (world.bearer("root"), "x" + world.bearer("bob") + "x", JWT):
        client = ask(world, [*([] if where.endswith("User") else AS_ALICE), (where, token)])
        assert client.status == 400
        assert token.encode() not in client.sent
    assert world.agent.streams == []
    assert "mrg_" not in (logged := msgspec.json.encode(world.audit.records).decode())
    assert JWT not in logged


def test_names_are_not_taken_for_tokens() -> None:
    for name in ("mooring:bob", "system:serviceaccount:kube-system:mrg", "mrg_t", "eyJ.a.b", "0" * 500):
        assert not holds_token(name)


def test_the_audit_log_names_both(world: World) -> None:
    client = FakeClient()
    headers = [*AS_ALICE, ("Impersonate-Group", "a"), ("Impersonate-Extra-k", "1"), ("Impersonate-Extra-k", "2")]
    taken = world.chain.handle(client, request(PODS, world.bearer("bob"), headers=headers))
    assert isinstance(taken, Forward)
    world.stream.answer(403, fin=True)
    (record,) = world.audit.records
    line = json.loads(msgspec.json.encode(record))
    assert (line["user"], line["uid"], line["code"]) == ("bob", "uid-bob", 403)
    assert line["impersonatedUser"] == {"username": "alice", "groups": ["a"], "extra": {"k": ["1", "2"]}}


def test_the_audit_log_of_others_does_not_change(world: World) -> None:
    ask(world, [])
    world.stream.answer(200, fin=True)
    assert "impersonatedUser" not in json.loads(msgspec.json.encode(world.audit.records[0]))
