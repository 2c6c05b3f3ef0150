# SPDX-License-Identifier: Apache-2.0
"""The index says what the store said last, and tells subscribers what was taken away."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mooring.authn.index import (
    AgentKeyChanged,
    Change,
    ClusterRemoved,
    Index,
    MembershipChanged,
    TokenRevoked,
    Unauthenticated,
    UserChanged,
)
from mooring.authn.tokens import new_endpoint_token, new_token
from mooring.store.records import (
    ADMIN_GROUP_ID,
    ClusterState,
    Condition,
    Delta,
    EndpointSettings,
    EndpointStatus,
    Members,
    Snapshot,
    Token,
    User,
)
from support import records as make

NOW = make.NOW


class Scene:
    """Ann (administrator) and Bob, each with a token; the cluster prod, which Bob and the group ops may enter."""

    def __init__(self) -> None:
        self.ann = make.user("ann", groups=((ADMIN_GROUP_ID, "admins"),))
        self.bob = make.user("bob")
        self.prod = make.cluster("prod", public_key=b"k" * 32)
        self.members = Members({self.bob.id: "m-bob"}, {"g-opsopsopsops": "m-ops"})
        self.ann_token, self.ann_text = self._token(self.ann)
        self.bob_token, self.bob_text = self._token(self.bob)
        self.scoped, self.scoped_text = self._token(self.bob, cluster_id=self.prod.id, cluster_name="prod")
        self.index = Index()
        self.index.load(
            Snapshot(
                clusters=[self.prod],
                users=[self.ann, self.bob],
                tokens=[self.ann_token, self.bob_token, self.scoped],
                members={self.prod.id: self.members},
            )
        )
        self.heard: list[Change] = []
        self.index.subscribe(self.heard.append)

    @staticmethod
    def _token(owner: User, **more: Any) -> tuple[Token, str]:
        made = new_token("mrg")
        return make.token(owner, id=made.id, hash=made.hash, **more), made.text.reveal()

    def refused(self, text: str, now: float = NOW) -> str:
        with pytest.raises(Unauthenticated) as refused:
            self.index.authenticate(text, now)
        return refused.value.cause


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_token_proves_its_user(scene: Scene) -> None:
    identity = scene.index.authenticate(scene.ann_text, NOW)
    assert (identity.user, identity.uid, identity.groups, identity.admin) == ("ann", scene.ann.uid, ("admins",), True)
    assert identity.token_cluster is None
    assert identity.expires_at == scene.ann_token.expires_at
    assert not scene.index.authenticate(scene.bob_text, NOW).admin
    assert scene.index.authenticate(scene.scoped_text, NOW).token_cluster == scene.prod.id


@pytest.mark.parametrize("text", ["", "x", "mrg_", "mrg_t-aaaaaaaaaaaa_short", "mrj_t-aaaaaaaaaaaa_" + "a" * 52])
def test_what_is_no_token_is_malformed(scene: Scene, text: str) -> None:
    assert scene.refused(text) == "malformed"


def test_the_right_id_with_another_secret_is_unknown(scene: Scene) -> None:
    kind, token_id, secret = scene.bob_text.split("_")
    other = ("b" if secret[0] != "b" else "c") + secret[1:]
    assert scene.refused(f"{kind}_{token_id}_{other}") == "unknown"
    assert scene.refused(new_token("mrg").text.reveal()) == "unknown"


def test_a_token_ends_at_its_time(scene: Scene) -> None:
    end = scene.bob_token.expires_at
    assert end is not None
    scene.index.authenticate(scene.bob_text, end - 0.001)
    assert scene.refused(scene.bob_text, end) == "expired"
    scene.index.drop_expired(end)
    assert scene.refused(scene.bob_text, end - 1) == "unknown"


def test_a_revoked_token_is_refused_at_once_and_told(scene: Scene) -> None:
    scene.index.authenticate(scene.bob_text, NOW)
    scene.index.apply(Delta(tokens={scene.bob_token.id: replace(scene.bob_token, revoked_at=NOW)}))
    assert scene.refused(scene.bob_text) == "unknown"
    assert scene.heard == [TokenRevoked(scene.bob_token.id)]
    with pytest.raises(Unauthenticated):
        scene.index.still_valid(scene.bob_token.id, NOW)


def test_a_token_for_an_endpoint_opens_nothing_here(scene: Scene) -> None:
    """Not even if its hash were that of a token of ours."""
    made = new_token("mrg")
    elsewhere = make.token(scene.bob, id=made.id, hash=made.hash, cluster_id=scene.prod.id, audience="endpoint")
    scene.index.apply(Delta(tokens={elsewhere.id: elsewhere}))
    assert scene.refused(made.text.reveal()) == "unknown"
    assert elsewhere not in scene.index.snapshot().tokens
    scene.index.load(replace(scene.index.snapshot(), tokens=[elsewhere]))
    assert scene.refused(made.text.reveal()) == "unknown"
    with pytest.raises(Unauthenticated, match="at the endpoint of its cluster only"):
        scene.index.authenticate(new_endpoint_token(scene.prod.id).text.reveal(), NOW)
    assert scene.refused(new_endpoint_token(scene.prod.id).text.reveal()) == "malformed"


def test_an_index_for_endpoints_takes_no_token_of_the_server(scene: Scene) -> None:
    index = Index("endpoint")
    theirs = replace(scene.bob_token, id="t-aaaaaaaaaaaa", audience="endpoint")
    index.load(replace(scene.index.snapshot(), tokens=[scene.bob_token, theirs]))
    index.apply(Delta(tokens={scene.ann_token.id: scene.ann_token}))
    assert index.snapshot().tokens == [theirs]


def test_an_index_holds_of_a_cluster_only_what_it_is_asked_for(scene: Scene) -> None:
    less = replace(scene.prod, labels={"a": "b"}, cluster_uid="uid", state="disconnected", state_reason="gone")
    more = replace(
        less,
        endpoint=EndpointSettings(),
        endpoint_status=EndpointStatus(ca_pem="PEM", at=NOW),
        conditions=(Condition("NodesReady", "True", "", "", NOW),),
        kubernetes_version="v1.34.1",
    )
    scene.index.apply(Delta(clusters={more.id: more}))
    assert scene.index.snapshot().clusters == [less]
    scene.index.load(replace(scene.index.snapshot(), clusters=[more]))
    assert scene.index.snapshot().clusters == [less]


@pytest.mark.parametrize("state", ["connected", "disconnected", "refused"])
def test_what_is_said_of_a_cluster_is_true_after_each_change_and_load(scene: Scene, state: ClusterState) -> None:
    def said() -> str:
        view = scene.index.cluster(scene.prod.name)
        assert view is not None
        assert view is scene.index.cluster(scene.prod.id)
        return view.state

    assert said() == "pending"
    scene.index.apply(Delta(clusters={scene.prod.id: replace(scene.prod, state=state)}))
    assert said() == state
    scene.index.load(replace(scene.index.snapshot(), clusters=[scene.prod]))
    assert said() == "pending"


def test_until_when_somebody_may_enter_is_until_when_they_are_let_in(scene: Scene) -> None:
    index, bob, prod = scene.index, scene.bob, scene.prod
    group = ("g-devsdevsdevs", "devs")
    index.apply(Delta(users={bob.id: replace(bob, groups=(group,))}))

    def until(users: dict[str, str], groups: dict[str, str], **ends: float) -> float:
        index.apply(Delta(members={prod.id: Members(users, groups, ends)}))
        return index.enters_until(bob.id, prod.id)

    assert until({bob.id: "m1"}, {}) == inf
    assert until({bob.id: "b1"}, {}, b1=NOW + 5) == NOW + 5
    assert until({bob.id: "b1"}, {group[0]: "b2"}, b1=NOW + 5, b2=NOW + 9) == NOW + 9
    assert until({bob.id: "b1"}, {group[0]: "m2"}, b1=NOW + 5) == inf
    assert until({"u-other": "m1"}, {"g-other": "m2"}) == -inf
    assert index.enters_until("u-unknown", prod.id) == -inf
    assert index.enters_until(bob.id, "c-unknown") == -inf


def test_a_new_token_is_good_at_once_and_nobody_is_told(scene: Scene) -> None:
    token, text = Scene._token(scene.bob)
    scene.index.apply(Delta(tokens={token.id: token}))
    assert scene.index.authenticate(text, NOW).user == "bob"
    assert scene.heard == []


def test_a_disabled_user_is_refused_at_once(scene: Scene) -> None:
    scene.index.apply(Delta(users={scene.bob.id: replace(scene.bob, enabled=False)}))
    assert scene.refused(scene.bob_text) == "user"
    assert scene.heard == [UserChanged(scene.bob.id)]


def test_a_deleted_user_loses_every_token(scene: Scene) -> None:
    scene.index.apply(Delta(users={scene.bob.id: None}))
    assert scene.refused(scene.bob_text) == "unknown"
    assert scene.refused(scene.scoped_text) == "unknown"
    assert set(scene.heard) == {
        TokenRevoked(scene.bob_token.id),
        TokenRevoked(scene.scoped.id),
        UserChanged(scene.bob.id),
    }


def test_groups_change_with_the_next_request(scene: Scene) -> None:
    assert scene.index.authenticate(scene.ann_text, NOW).admin
    scene.index.apply(Delta(users={scene.ann.id: replace(scene.ann, groups=())}))
    assert not scene.index.authenticate(scene.ann_text, NOW).admin
    assert scene.heard == [UserChanged(scene.ann.id)]


def test_a_new_display_name_disturbs_nobody(scene: Scene) -> None:
    scene.index.apply(Delta(users={scene.bob.id: replace(scene.bob, display_name="Bobby", version=2)}))
    assert scene.heard == []


def test_members_enter_by_themselves_and_by_group(scene: Scene) -> None:
    bob = scene.index.authenticate(scene.bob_text, NOW)
    ann = scene.index.authenticate(scene.ann_text, NOW)
    assert scene.index.may_enter_facts(bob, scene.prod.id, NOW) == {"m-bob"}
    assert scene.index.may_enter_facts(ann, scene.prod.id, NOW) == set()
    assert scene.index.may_enter_facts(bob, "c-aaaaaaaaaaaa", NOW) == set()
    scene.index.apply(Delta(users={scene.bob.id: replace(scene.bob, groups=(("g-opsopsopsops", "ops"),))}))
    assert scene.index.may_enter_facts(bob, scene.prod.id, NOW) == {"m-bob", "m-ops"}
    scene.index.apply(Delta(members={scene.prod.id: Members({}, {})}))
    assert scene.index.may_enter_facts(bob, scene.prod.id, NOW) == set()
    assert scene.heard[-1] == MembershipChanged(scene.prod.id)


def test_a_cluster_is_found_by_id_and_name(scene: Scene) -> None:
    view = scene.index.cluster("prod")
    assert view == scene.index.cluster(scene.prod.id)
    assert view is not None
    assert (view.state, view.ever_connected, view.lost_reason) == ("pending", False, "")
    assert scene.index.cluster("test") is None
    assert scene.index.agent_key(scene.prod.id) == b"k" * 32
    assert scene.index.agent_key("prod") is None, "an agent is known by the cluster's id only"


def test_why_a_cluster_is_away_is_shown_where_it_belongs(scene: Scene) -> None:
    for state, lost, refused in (("disconnected", "why", ""), ("refused", "", "why"), ("pending", "", "")):
        cluster = replace(scene.prod, state=state, state_reason="why", connected_at=NOW)  # type: ignore[arg-type]
        scene.index.apply(Delta(clusters={scene.prod.id: cluster}))
        view = scene.index.cluster("prod")
        assert view is not None
        assert (view.lost_reason, view.refused_reason, view.ever_connected) == (lost, refused, True)
    assert scene.heard == []


def test_a_removed_cluster_takes_its_scoped_tokens_and_its_key_along(scene: Scene) -> None:
    scene.index.apply(Delta(clusters={scene.prod.id: None}))
    assert scene.index.cluster("prod") is None
    assert scene.index.agent_key(scene.prod.id) is None
    assert scene.index.clusters() == []
    assert scene.refused(scene.scoped_text) == "unknown"
    scene.index.authenticate(scene.bob_text, NOW)
    assert scene.heard == [TokenRevoked(scene.scoped.id), ClusterRemoved(scene.prod.id)]


def test_another_agent_key_is_told_and_the_first_one_is_not(scene: Scene) -> None:
    scene.index.apply(Delta(clusters={scene.prod.id: replace(scene.prod, public_key=b"l" * 32)}))
    assert scene.heard == [AgentKeyChanged(scene.prod.id)]
    scene.heard.clear()
    fresh = make.cluster("fresh")
    scene.index.apply(Delta(clusters={fresh.id: fresh}))
    scene.index.apply(Delta(clusters={fresh.id: replace(fresh, public_key=b"m" * 32)}))
    assert scene.heard == []


def test_one_failing_subscriber_does_not_keep_a_revocation_from_the_next(scene: Scene) -> None:
    def fail(change: Change) -> None:
        raise RuntimeError("broken")

    late: list[Change] = []
    scene.index.subscribe(fail)
    end = scene.index.subscribe(late.append)
    scene.index.apply(Delta(tokens={scene.bob_token.id: None}))
    assert late == [TokenRevoked(scene.bob_token.id)]
    end()
    scene.index.apply(Delta(tokens={scene.ann_token.id: None}))
    assert len(late) == 1


def test_uses_are_noted_for_known_tokens_only(scene: Scene) -> None:
    scene.index.note_used(scene.bob_token.id, NOW)
    scene.index.note_used(scene.bob_token.id, NOW - 5)
    scene.index.note_used("t-aaaaaaaaaaaa", NOW)
    assert scene.index.take_used() == {scene.bob_token.id: NOW}
    assert scene.index.take_used() == {}


def test_a_binding_lets_in_until_its_second_and_not_longer() -> None:
    scene = Scene()
    until = {"b-short": NOW + 60, "b-long": NOW + 90}
    members = Members({scene.bob.id: "b-short"}, {ADMIN_GROUP_ID: "b-admins", "g-opsopsopsops": "b-long"}, until)
    scene.index.apply(Delta(members={scene.prod.id: members}))
    ann, bob = (scene.index.authenticate(text, NOW) for text in (scene.ann_text, scene.bob_text))
    assert scene.index.may_enter_facts(bob, scene.prod.id, NOW + 59.9) == {"b-short"}
    assert scene.index.may_enter_facts(bob, scene.prod.id, NOW + 60) == set()
    assert scene.index.may_enter_facts(ann, scene.prod.id, NOW + 1e9) == {"b-admins"}
    scene.heard.clear()
    for seconds in (59.9, 60, 61, 89, 90, 91, 1e9):
        scene.index.lapse(NOW + seconds)
    assert scene.heard == [MembershipChanged(scene.prod.id)] * 2  # one for each end


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 200)), max_size=40))
def test_what_is_remembered_of_an_entry_is_what_the_facts_say(steps: list[tuple[int, int]]) -> None:
    """Each step changes a fact, or only the time; whoever was let in or not is asked for again after each."""
    scene = Scene()
    index, bob = scene.index, scene.bob
    ann_is, bob_is = (index.authenticate(text, NOW) for text in (scene.ann_text, scene.bob_text))
    shop, now = make.cluster("shop"), NOW

    def members(seed: int) -> Members:
        users = {bob.id: "b-1"} if seed & 1 else {}
        groups = ({"g-opsopsopsops": "b-2"} if seed & 2 else {}) | ({ADMIN_GROUP_ID: "b-3"} if seed & 4 else {})
        until = {fact: NOW + seed % 70 for bit, fact in ((8, "b-1"), (16, "b-2"), (32, "b-3")) if seed & bit}
        return Members(users, groups, until)

    def look() -> None:
        for identity in (ann_is, bob_is):
            for cluster_id in (scene.prod.id, shop.id):
                facts = index.may_enter_facts(identity, cluster_id, now)
                assert index.may_enter(identity, cluster_id, now) == bool(facts)

    look()
    for what, seed in steps:
        match what:
            case 0:
                now = NOW + seed
            case 1:
                index.apply(Delta(members={scene.prod.id: members(seed)}))
            case 2:
                groups = (("g-opsopsopsops", "ops"),) if seed & 1 else ()
                index.apply(Delta(users={bob.id: replace(bob, groups=groups) if seed & 6 else None}))
            case 3:
                change = {shop.id: shop if seed & 1 else None}
                index.apply(Delta(clusters=change, members={shop.id: members(seed)} if seed & 1 else {}))
            case 4:
                kept = index.snapshot()
                index.replace(replace(kept, members={scene.prod.id: members(seed)}))
            case _:
                index.lapse(now)
                index.drop_expired(now)
        look()


def test_ends_are_known_from_a_snapshot_and_forgotten_with_their_cluster() -> None:
    scene = Scene()
    ending = Members({scene.bob.id: "b-short"}, until={"b-short": NOW + 60})
    scene.index.apply(Delta(members={scene.prod.id: ending}))
    other = Index()
    other.load(scene.index.snapshot())
    heard: list[Change] = []
    other.subscribe(heard.append)
    other.lapse(NOW + 60)
    assert heard == [MembershipChanged(scene.prod.id)]
    scene.index.apply(Delta(clusters={scene.prod.id: None}))
    scene.heard.clear()
    scene.index.lapse(NOW + 60)
    assert scene.heard == []
