# SPDX-License-Identifier: Apache-2.0
"""What the shards of an endpoint let in is what the proxy lets in, whatever happened before."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from mooring.authn.index import Index, Unauthenticated
from mooring.control import endpointbook, endpointdocs
from mooring.control.endpointbook import Holder, Holders, TokenBook
from mooring.control.endpointdocs import Documents, Whose
from mooring.control.endpoints import EndpointController
from mooring.lib.clock import ManualClock
from mooring.policy.decide import decide
from mooring.store.records import Cluster, Delta, EndpointSettings, Members, Token, User
from mooring.wire import endpoint
from mooring.wire.endpoint import SHARDS, Shard, body_of, shard_of
from support import records as make

NOW = make.NOW
KEY = Ed25519PrivateKey.generate()
USERS = [make.user(f"user-{number}") for number in range(4)]
GROUPS = [(f"g-{number:012d}", f"group-{number}") for number in range(3)]
CLUSTERS = [make.cluster(f"cluster-{number}", cluster_uid=f"uid-{number}", registered_at=NOW) for number in range(3)]
FACTS = [f"m-{number}" for number in range(4)]
TIMES = st.sampled_from([NOW - 5, NOW, NOW + 5, NOW + 50, NOW + 500])


def users() -> st.SearchStrategy[User]:
    groups = st.lists(st.sampled_from(GROUPS), unique=True, max_size=2).map(tuple)
    return st.builds(
        lambda user, enabled, groups: replace(user, enabled=enabled, groups=groups),
        st.sampled_from(USERS),
        st.booleans(),
        groups,
    )


def members() -> st.SearchStrategy[Members]:
    facts = st.sampled_from(FACTS)
    return st.builds(
        Members,
        st.dictionaries(st.sampled_from([user.id for user in USERS]), facts, max_size=2),
        st.dictionaries(st.sampled_from([group_id for group_id, _unused in GROUPS]), facts, max_size=2),
        st.dictionaries(facts, TIMES, max_size=4),
    )


TOKENS = [make.endpoint_token(user, cluster, expires_at=NOW + 5) for user in USERS for cluster in CLUSTERS] + [
    make.endpoint_token(user, cluster, expires_at=NOW + 500) for user in USERS for cluster in CLUSTERS
]


def tokens() -> st.SearchStrategy[Token]:
    return st.builds(
        lambda token, expires_at, revoked: replace(token, expires_at=expires_at, revoked_at=NOW if revoked else None),
        st.sampled_from(TOKENS),
        TIMES,
        st.booleans(),
    )


def clusters() -> st.SearchStrategy[Cluster]:
    grace = st.sampled_from([None, EndpointSettings(), EndpointSettings(grace_seconds=7)])
    return st.builds(lambda cluster, endpoint: replace(cluster, endpoint=endpoint), st.sampled_from(CLUSTERS), grace)


def changes() -> st.SearchStrategy[Delta]:
    """What a transaction may do, also several things at once."""
    gone = st.none()
    ids = {
        "users": st.dictionaries(st.sampled_from([u.id for u in USERS]), gone, max_size=1),
        "tokens": st.dictionaries(st.sampled_from([t.id for t in TOKENS]), gone, max_size=1),
        "clusters": st.dictionaries(st.sampled_from([c.id for c in CLUSTERS]), gone, max_size=1),
    }

    def one(kind: str, made: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
        some = st.lists(made, max_size=2).map(lambda found: {each.id: each for each in found})
        return st.one_of(some, some, some, ids[kind])

    shared = st.builds(
        lambda value, ids: dict.fromkeys(ids, value), members(), st.sets(st.sampled_from([c.id for c in CLUSTERS]))
    )
    return st.builds(
        lambda users, tokens, clusters, members: Delta(users=users, tokens=tokens, clusters=clusters, members=members),
        one("users", users()),
        one("tokens", tokens()),
        one("clusters", clusters()),
        shared,
    )


class Tell:
    """A hub that nobody is connected to."""

    def __init__(self) -> None:
        self.on_change: list[Any] = []
        self.on_message: list[Any] = []

    def connected(self, cluster_id: str) -> bool:
        return False

    def tell(self, cluster_id: str, message: dict[str, Any]) -> None:
        raise AssertionError(cluster_id)


class Both:
    """A server, and what its clusters hold; each token has a twin that the proxy takes."""

    def __init__(self) -> None:
        self.index = Index()
        self.clock = ManualClock(NOW)
        unused: Any = None
        documents = Documents(KEY)
        self.control = EndpointController(unused, self.index, Tell(), self.clock, documents, prefix="mooring:")
        self.users: set[str] = set()
        self.clusters: set[str] = set()
        self.tokens: dict[str, Token | None] = {}
        self.given: dict[tuple[str, int], list[endpoint.User]] = {}

    def apply(self, delta: Delta) -> None:
        """A change, as far as a database could hold it: no token is without its user and its cluster."""
        for there, changed in ((self.users, delta.users), (self.clusters, delta.clusters)):
            for key, value in changed.items():
                (there.discard if value is None else there.add)(key)
        fit = {
            key: token
            for key, token in delta.tokens.items()
            if token is None or (token.user_id in self.users and token.cluster_id in self.clusters)
        }
        members = {key: value for key, value in delta.members.items() if key in self.clusters}
        delta = replace(delta, tokens=fit, members=members)
        self.tokens = {
            key: token
            for key, token in (self.tokens | fit).items()
            if token is not None and token.user_id in self.users and token.cluster_id in self.clusters
        }
        twins = {key: token and replace(token, audience="server") for key, token in fit.items()}
        self.index.apply(replace(delta, tokens=twins))
        self.control.committed(delta)
        self.given = {place: held for place, held in self.given.items() if place[0] in self.clusters}
        for cluster_id, numbers in self.control._due.items():
            for number in numbers:
                self.given[cluster_id, number] = self.made(cluster_id, number)
        self.control._due.clear()

    def made(self, cluster_id: str, number: int) -> list[endpoint.User]:
        known = self.control._clusters[cluster_id]
        if known.facts.settings is None:
            return []
        now, grace = self.clock.now(), known.facts.grace
        book = self.control._book
        holders = book.holders(cluster_id, book.user_ids(cluster_id, number), self.index, now, grace)
        body = body_of(Shard(number=number, users=tuple(map(endpointdocs._user, holders.holders))))
        return list(msgspec.msgpack.decode(body, type=Shard).users)

    def proxy(self, token: Token, cluster_id: str, now: float) -> bool:
        """As `proxy/chain.py` decides."""
        try:
            identity = self.index.still_valid(token.id, now)
        except Unauthenticated:
            return False
        return decide(identity, cluster_id, bool(self.index.may_enter_facts(identity, cluster_id, now))).allowed

    def direct(self, cluster_id: str, now: float) -> set[str]:
        """As docs/protocol/endpoint.md says, without the server."""
        return {
            token.id
            for (cluster, _number), held in self.given.items()
            if cluster == cluster_id
            for user in held
            if user.enabled and (user.until is None or now < user.until)
            for token in user.tokens
            if now < token.expires_at
        }


def test_another_end_of_the_same_binding_concerns_whom_it_lets_in() -> None:
    """Nobody came or went, and yet a shard says until when."""
    book, index = TokenBook(), Index()
    by_name, by_group, other = (replace(user, groups=()) for user in USERS[:3])
    by_group = replace(by_group, groups=(GROUPS[0],))
    index.apply(Delta(users={user.id: user for user in (by_name, by_group, other)}))
    for user in (by_name, by_group, other):
        book.put(make.endpoint_token(user, CLUSTERS[0]))

    def ends(name: float, group: float) -> Members:
        return Members({by_name.id: "m-0"}, {GROUPS[0][0]: "m-1"}, {"m-0": name, "m-1": group})

    assert book.moved(ends(NOW + 5, NOW + 5), ends(NOW + 50, NOW + 5), index) == {by_name.id}
    assert book.moved(ends(NOW + 5, NOW + 5), ends(NOW + 5, NOW + 50), index) == {by_group.id}


@settings(max_examples=200)
@given(st.lists(st.one_of(changes(), st.floats(0, 20)), min_size=1, max_size=12))
def test_the_shards_let_in_whom_the_proxy_lets_in(steps: list[Delta | float]) -> None:
    """After each change, now and later; although only those shards were made again that the change may concern."""
    both = Both()
    everybody = Delta(
        users={user.id: user for user in USERS},
        clusters={cluster.id: replace(cluster, endpoint=EndpointSettings()) for cluster in CLUSTERS},
        tokens={token.id: token for token in TOKENS},
    )
    for step in (everybody, *steps):
        if isinstance(step, float):
            both.clock.advance(step)
            continue
        both.apply(step)
        for cluster_id, known in both.control._clusters.items():
            for later in (0, 4, 5, 49, 600):
                now = both.clock.now() + later
                wanted = {
                    token.id
                    for token in both.tokens.values()
                    if token and token.cluster_id == cluster_id and both.proxy(token, cluster_id, now)
                }
                assert both.direct(cluster_id, now) == (wanted if known.facts.settings is not None else set())


@settings(max_examples=100)
@given(st.lists(changes(), min_size=1, max_size=8))
def test_what_ends_is_swept_away(steps: list[Delta]) -> None:
    both = Both()
    for step in (Delta(users={user.id: user for user in USERS}), *steps):
        both.apply(step)
    book = both.control._book

    def holders(cluster_id: str, number: int, now: float) -> Holders:
        grace = both.control._clusters[cluster_id].facts.grace
        return book.holders(cluster_id, book.user_ids(cluster_id, number), both.index, now, grace)

    for cluster_id in both.control._clusters:
        for number in range(SHARDS):
            before = holders(cluster_id, number, NOW)
            assert before.next_end > NOW
            if before.next_end < inf:
                assert holders(cluster_id, number, before.next_end - 0.001) == before
                assert holders(cluster_id, number, before.next_end).next_end > before.next_end
    both.clock.advance(1_000)
    for cluster_id in both.control._clusters:
        for number in range(SHARDS):
            both.made(cluster_id, number)
    live = {cluster_id for cluster_id, known in both.control._clusters.items() if known.facts.settings is not None}
    assert not any(cluster_id in live for cluster_id, _unused in both.control._book._places.values())


def test_where_many_are_concerned_they_are_not_looked_at_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpointbook, "MANY", 1)
    both = Both()
    bob, eve = USERS[:2]
    tokens = {token.id: token for token in TOKENS}
    both.apply(Delta(clusters={one.id: replace(one, endpoint=EndpointSettings()) for one in CLUSTERS}))
    both.apply(Delta(users={user.id: user for user in USERS}, tokens=tokens))
    here, there = CLUSTERS[0].id, CLUSTERS[1].id
    both.apply(Delta(members={here: Members({bob.id: "m-1"})}))
    assert both.direct(here, NOW) == {t.id for t in TOKENS if (t.user_id, t.cluster_id) == (bob.id, here)}
    both.apply(Delta(members={here: Members({bob.id: "m-1", eve.id: "m-2"}, {GROUPS[0][0]: "m-3"})}))
    both.apply(Delta(members={here: Members({}, {GROUPS[0][0]: "m-3"}), there: Members({USERS[2].id: "m-4"})}))
    assert both.direct(here, NOW) == set()
    assert both.direct(there, NOW) == {t.id for t in TOKENS if (t.user_id, t.cluster_id) == (USERS[2].id, there)}


def test_a_token_without_an_end_or_for_the_server_is_not_held() -> None:
    book, bob, prod = TokenBook(), make.user("bob"), make.cluster("prod")
    assert book.put(make.endpoint_token(bob, prod, expires_at=None)) == set()
    assert book.put(make.token(bob, cluster_id=prod.id)) == set()
    assert book.put(make.endpoint_token(bob, prod, cluster_id=None)) == set()
    assert len(book) == 0
    assert book.drop("e-unknown") == set()
    token = make.endpoint_token(bob, prod)
    assert book.put(token) == {(prod.id, shard_of(bob.id))}
    assert book.shard(token.id) == shard_of(bob.id)
    assert book.shard("e-unknown") is None
    book.forget_cluster(prod.id)
    assert (len(book), book.of_user(bob.id), book.numbers(prod.id)) == (0, set(), set())


# --- documents ------------------------------------------------------------------------------------------------------

WHOSE = Whose("c-1", "uid-1", 7, NOW)


def holders(count: int, tokens: int = 1) -> Holders:
    prod = make.cluster("prod")
    found = []
    for number in range(count):
        user = make.user(f"user-{number}")
        issued = [make.endpoint_token(user, prod) for _unused in range(tokens)]
        wires = tuple(endpoint.Token(token.id, token.hash, token.expires_at or 0) for token in issued)
        found.append(Holder(user, inf, wires))
    return Holders(sorted(found, key=lambda holder: holder.user.id), NOW + 60)


async def test_a_shard_with_the_same_content_is_called_what_it_was() -> None:
    documents, few = Documents(KEY), holders(3)
    first = await documents.shard(WHOSE, 5, few, None)
    again = await documents.shard(replace(WHOSE, revision=9), 5, few, first)
    other = await documents.shard(replace(WHOSE, revision=9), 5, holders(4), first)
    assert (first.revision, again.revision, other.revision) == (7, 7, 9)
    assert again.digest == first.digest != other.digest
    assert documents.kept("c-1", 5, first.digest) is None
    data = documents.kept("c-1", 5, other.digest)
    assert data is not None
    header, shard = endpoint.open_shard(data, KEY.public_key(), "c-1", "uid-1", 5)
    assert (header.revision, len(shard.users), len(other.ids)) == (9, 4, 4)
    empty = await documents.shard(WHOSE, 5, holders(0), other)
    assert (empty.digest, documents.kept("c-1", 5, other.digest)) == ("", None)
    documents.close()


async def test_what_has_no_room_is_left_out_and_not_the_change() -> None:
    """Those with the most tokens go, as few as it takes; who is in keeps all of theirs."""
    many = holders(60)
    greedy = holders(1, tokens=300).holders[0]
    mixed = Holders(sorted([*many.holders, greedy], key=lambda holder: holder.user.id), inf)
    documents = Documents(KEY, most=9_000)
    made = await documents.shard(WHOSE, 1, mixed, None)
    assert made.left_out == 1
    assert made.ids == {token.id for holder in many.holders for token in holder.tokens}
    data = documents.kept("c-1", 1, made.digest)
    assert data is not None
    assert len(data) <= 9_000
    small = Documents(KEY, most=10)
    nobody = await small.shard(WHOSE, 1, many, None)
    assert (nobody.digest, nobody.left_out, nobody.ids) == ("", 60, frozenset())
    for one in (documents, small):
        one.close()


async def test_memory_is_bounded_and_the_last_one_stays() -> None:
    documents = Documents(KEY, kept_bytes=1)
    first = await documents.shard(WHOSE, 1, holders(1), None)
    second = await documents.shard(WHOSE, 2, holders(1), None)
    assert documents.kept("c-1", 1, first.digest) is None
    assert documents.kept("c-1", 2, second.digest) is not None
    documents.forget("c-1")
    assert documents.kept("c-1", 2, second.digest) is None
    documents.close()


@pytest.mark.parametrize("count", [6_250])
async def test_a_full_shard_fits(count: int) -> None:
    """A sixteenth of the tokens that a cluster may have, each of another user, with groups."""
    full = holders(count)
    groups = tuple((f"g-{number}", f"team-{number}-of-the-house") for number in range(6))
    full = Holders([replace(one, user=replace(one.user, groups=groups)) for one in full.holders], inf)
    documents = Documents(KEY)
    made = await documents.shard(WHOSE, 1, full, None)
    assert (made.left_out, len(made.ids)) == (0, count)
    documents.close()
