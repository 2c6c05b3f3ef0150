# SPDX-License-Identifier: Apache-2.0
"""The index of an endpoint holds what the local copy says, no more, and what goes away is told at once."""

from __future__ import annotations

from typing import Any

import pytest
from mooring.authn.index import Change, MembershipChanged, Presented, TokenRevoked, Unauthenticated, UserChanged
from mooring.endpoint.entrance import Direct
from mooring.endpoint.feed import Feed
from mooring.proxy.answers import Refused
from mooring.wire.endpoint import Settings, Token, User, shard_of, token_hash

CLUSTER, OTHER = "c-aaaaaaaaaaaa", "c-bbbbbbbbbbbb"
NOW = 1_700_000_000.0
SECRET = "a" * 52
BOB, EVE = "u-bobbobbobbob", "u-eveeveeveeve"


def token(number: int = 1, *, expires: float = NOW + 600, cluster: str = CLUSTER) -> Token:
    return Token(f"e-{'a' * 11}{'abcdefgh'[number]}", token_hash(cluster, SECRET), expires)


def bearer(number: int = 1, secret: str = SECRET) -> str:
    return f"mre_e-{'a' * 11}{'abcdefgh'[number]}_{secret}"


def user(user_id: str = BOB, name: str = "bob", **more: Any) -> User:
    return User(**{"id": user_id, "name": name, "uid": f"x-{name}", "groups": ("devs",), "tokens": (token(),)} | more)


class Told:
    def __init__(self, feed: Feed) -> None:
        self.changes: list[Change] = []
        feed.index.subscribe(self.changes.append)


@pytest.fixture
def feed() -> Feed:
    made = Feed(CLUSTER, "prod")
    made.settings(Settings(prefix="mooring:"))
    return made


def put(feed: Feed, *users: User) -> None:
    """Each user's shard from now on, with the users that are given and belong there."""
    for number in {shard_of(one.id) for one in users}:
        feed.shard(number, [one for one in users if shard_of(one.id) == number])


def shown(text: str) -> Presented:
    value = Direct(Feed(CLUSTER, "prod").cluster).shown([(b"Authorization", b"Bearer " + text.encode())])
    assert isinstance(value, Presented)
    return value


def test_a_token_of_the_copy_is_its_users(feed: Feed) -> None:
    put(feed, user())
    identity = feed.index.authenticate(shown(bearer()), NOW)
    assert (identity.user, identity.uid, identity.groups) == ("bob", "x-bob", ("devs",))
    assert (identity.token_id, identity.token_cluster) == (token().id, CLUSTER)
    assert feed.index.may_enter_facts(identity, CLUSTER, NOW)
    assert not identity.admin


@pytest.mark.parametrize(
    "text",
    [bearer(2), bearer(1, "b" * 52), "mrg_t-aaaaaaaaaaaa_" + SECRET, "mrg_e-aaaaaaaaaaab_" + SECRET, SECRET, "x",
     bearer().upper(), bearer() + "a"],
)  # fmt: skip
def test_no_other_token_is_anybodys(feed: Feed, text: str) -> None:
    put(feed, user())
    with pytest.raises(Unauthenticated):
        feed.index.authenticate(shown(text), NOW)


def test_what_was_made_for_another_cluster_is_good_for_nothing(feed: Feed) -> None:
    put(feed, user(tokens=(token(cluster=OTHER),)))
    with pytest.raises(Unauthenticated):
        feed.index.authenticate(shown(bearer()), NOW)


def test_a_revoked_token_is_told_and_refused(feed: Feed) -> None:
    put(feed, user(tokens=(token(1), token(2))))
    told = Told(feed)
    put(feed, user(tokens=(token(2),)))
    assert told.changes == [TokenRevoked(token(1).id)]
    with pytest.raises(Unauthenticated):
        feed.index.authenticate(shown(bearer(1)), NOW)
    assert feed.index.authenticate(shown(bearer(2)), NOW).user == "bob"


def test_a_user_who_is_gone_is_told_and_refused(feed: Feed) -> None:
    put(feed, user())
    told = Told(feed)
    feed.shard(shard_of(BOB), ())
    assert TokenRevoked(token().id) in told.changes
    assert UserChanged(BOB) in told.changes
    assert MembershipChanged(CLUSTER) in told.changes
    with pytest.raises(Unauthenticated):
        feed.index.still_valid(token().id, NOW)


def test_a_disabled_user_and_lost_groups_are_told(feed: Feed) -> None:
    put(feed, user())
    told = Told(feed)
    put(feed, user(groups=()))
    assert UserChanged(BOB) in told.changes
    assert feed.index.authenticate(shown(bearer()), NOW).groups == ()
    put(feed, user(enabled=False))
    with pytest.raises(Unauthenticated, match="disabled"):
        feed.index.authenticate(shown(bearer()), NOW)


def test_the_right_to_enter_ends_when_it_says(feed: Feed) -> None:
    put(feed, user(until=NOW + 10))
    identity = feed.index.authenticate(shown(bearer()), NOW)
    assert feed.index.may_enter_facts(identity, CLUSTER, NOW + 9)
    assert not feed.index.may_enter_facts(identity, CLUSTER, NOW + 10)
    told = Told(feed)
    feed.index.lapse(NOW + 10)
    assert told.changes == [MembershipChanged(CLUSTER)]


def test_what_stays_the_same_is_not_told(feed: Feed) -> None:
    put(feed, user())
    told = Told(feed)
    put(feed, user())
    assert told.changes == []


def test_a_shard_speaks_only_for_its_own_users(feed: Feed) -> None:
    put(feed, user())
    elsewhere = (shard_of(BOB) + 1) % 16
    feed.shard(elsewhere, [user(groups=("admins",))])
    assert feed.index.authenticate(shown(bearer()), NOW).groups == ("devs",)
    feed.shard(elsewhere, ())
    assert feed.index.authenticate(shown(bearer()), NOW).user == "bob"


def test_an_expired_token_is_denied_unless_the_grace_says_otherwise(feed: Feed) -> None:
    ended = NOW + 600
    put(feed, user())
    rechecked: list[bool] = []
    feed.recheck = lambda: rechecked.append(True)
    for grace, connected, late, good in (
        (0, False, 0, False),  # the default: denied, server or no server
        (0, None, 0, False),
        (300, True, 0, False),
        (300, None, 0, False),  # who does not know that the server is away grants nothing
        (300, False, 299, True),
        (300, False, 300, False),
        (300, True, 0, False),  # the server is back
    ):
        feed.settings(Settings(prefix="mooring:", grace=grace))
        feed.link(connected)
        if good:
            assert feed.index.authenticate(shown(bearer()), ended + late).user == "bob"
        else:
            with pytest.raises(Unauthenticated, match="expired"):
                feed.index.authenticate(shown(bearer()), ended + late)
    assert len(rechecked) == 2, "what is open is looked at again when the grace begins and ends"


def test_a_user_who_comes_during_the_grace_has_it_too(feed: Feed) -> None:
    feed.settings(Settings(prefix="mooring:", grace=300))
    feed.link(False)
    put(feed, user())
    assert feed.index.authenticate(shown(bearer()), NOW + 700).user == "bob"


def test_another_prefix_is_told(feed: Feed) -> None:
    told: list[str] = []
    feed.on_prefix = told.append
    feed.settings(Settings(prefix="mooring:"))
    feed.settings(Settings(prefix="other:"))
    assert (told, feed.prefix) == (["other:"], "other:")


def test_every_path_is_the_clusters_and_unchanged() -> None:
    direct = Direct(Feed(CLUSTER, "prod").cluster)
    for target in (b"/api/v1/pods?x=%2f", b"/k8s/clusters/prod/api", b"/metrics", b"/tunnel/connect", b"/healthz"):
        cluster, rest = direct.route(target)
        assert (cluster.id, rest) == (CLUSTER, target)
    assert direct.prefix(cluster) == ""
    with pytest.raises(Refused):
        direct.route(b"//evil/api")


@pytest.mark.parametrize("values", [[], ["Basic eDp5"], [f"Bearer {bearer()}", f"Bearer {bearer()}"], ["Bearer"]])
def test_a_head_without_one_bearer_shows_nothing(values: list[str]) -> None:
    direct = Direct(Feed(CLUSTER, "prod").cluster)
    assert direct.shown([(b"Authorization", value.encode()) for value in values]) in ("missing", "malformed")
