# SPDX-License-Identifier: Apache-2.0
"""From a word of the server to the policy in the cluster: what is believed, what is kept, and what is said of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.fakekube import FakeApi
from support.policybed import Bed, BundleServer, binding, role, until
from testbed.pki import Authority

READER = role("reader:0000000001", ["get"], ["pods"])
BOUND = binding("reader:always", "mooring:reader:0000000001", ["bob"])
UID = "uid-of-kube-system"


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
async def bed(api: FakeApi, authority: Authority) -> AsyncIterator[Bed]:
    server = BundleServer(authority)
    await server.start()
    made = Bed(lambda: api, server)  # type: ignore[arg-type, return-value]
    made.uid = UID
    yield made
    await made.stop()
    server.stop()


async def test_an_agent_without_a_policy_asks_for_nothing(bed: Bed, api: FakeApi) -> None:
    bed.start()
    await until("it has looked", lambda: len(api.calls) == 16)
    assert {method for method, _unused in api.calls} == {"GET"}
    assert bed.said == []


async def test_the_first_key_is_pinned_and_another_is_not_taken(bed: Bed) -> None:
    bed.start()
    await bed.policy([READER])
    assert bed.identity.policy_key == bed.server.key
    assert bed.last("digest") == bed.server.digest
    bed.revision += 1
    other = Ed25519PrivateKey.generate()
    bed.server.sign(bed.revision, [], uid=UID, key=other)
    bed.announce()
    await until("it is refused", lambda: "was not signed" in bed.errors().get("policy", ""))
    bed.server._key = other
    bed.announce()
    await until("it is refused", lambda: "another key" in bed.errors().get("policy", ""))
    assert bed.last("applied") == 1
    bed.identity = replace(bed.identity, policy_key="", join_token_id="two")
    bed.announce()
    await until("it is taken", lambda: bed.last("applied") == bed.revision)


async def test_a_lower_revision_is_taken_after_a_new_registration_only(bed: Bed, api: FakeApi) -> None:
    bed.start()
    bed.revision = 10
    await bed.policy([READER])
    bed.revision = 3
    bed.offer([])
    await until("it is refused", lambda: "was applied already" in bed.errors().get("policy", ""))
    await bed.stop()
    bed.said.clear()
    bed.start()
    await until("what was kept is applied", lambda: bed.last("applied") == 11)
    bed.announce()
    await until("it is refused again", lambda: "was applied already" in bed.errors().get("policy", ""))
    bed.register_anew()
    bed.announce()
    await until("it is taken", lambda: bed.last("applied") == 4)
    assert api.names("clusterroles") == set()
    assert bed.errors() == {}


async def test_the_same_policy_is_not_fetched_again_but_answered(bed: Bed) -> None:
    bed.start()
    await bed.policy([READER])
    asked, said = bed.server.asked, len(bed.said)
    bed.announce()
    await until("it is answered", lambda: len(bed.said) > said)
    assert bed.server.asked == asked


async def test_a_policy_is_kept_before_it_is_applied(bed: Bed, api: FakeApi) -> None:
    bed.start()
    await bed.policy([READER, BOUND])
    writes = [path for _unused, path in api.writes() if "/secrets" in path or "clusterrole" in path]
    assert "/secrets" in writes[0]
    await bed.stop()
    bed.server.stop()
    api.drop("clusterrolebindings", "mooring:reader:always")
    bed.start()
    await until("it is back without the server", lambda: "mooring:reader:always" in api.names("clusterrolebindings"))


async def test_what_cannot_be_kept_is_not_applied(bed: Bed, api: FakeApi) -> None:
    api.refuse = lambda method, path, _unused: (403, "no Secrets") if method == "POST" and "/secrets" in path else None
    bed.start()
    bed.offer([READER])
    await until("it is said", lambda: "no Secrets" in bed.errors().get("policy", ""))
    assert api.names("clusterroles") == set()


async def test_a_proxy_only_agent_says_so_and_a_new_manifest_is_noticed(bed: Bed, api: FakeApi) -> None:
    api.may = set()
    bed.start()
    bed.offer([READER])
    await until("it is said", lambda: "proxy-only" in bed.errors().get("policy", ""))
    assert (bed.last("profile"), bed.last("applied"), bed.last("desired")) == ("proxy-only", 0, 1)
    assert api.names("clusterroles") == set()
    assert api.names("leases") == set()
    api.may = {"create"}
    bed.announce()
    await until("it is applied", lambda: bed.last("applied") == 1)
    assert bed.last("profile") == "read-only"
    assert bed.errors() == {}


async def test_of_two_agents_one_speaks(bed: Bed, api: FakeApi) -> None:
    bed.start("one")
    bed.start("two")
    await bed.policy([READER])
    assert bed.server.asked == 1


async def test_a_message_that_is_none_is_left(bed: Bed, api: FakeApi) -> None:
    agent = bed.start()
    for message in ({"kind": "policy"}, {"kind": "policy", "revision": "1", "digest": "x"}, {"kind": "other"}):
        agent.heard(message)
    assert agent.status() is None
