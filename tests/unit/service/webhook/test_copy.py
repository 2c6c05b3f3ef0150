# SPDX-License-Identifier: Apache-2.0
"""Which documents the copy believes, what it does about those that are missing, and that there is no way back."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from mooring.lib.clock import ManualClock
from mooring.webhook import copy as copies
from mooring.webhook.book import Book, Refusal
from mooring.webhook.copy import Copy
from mooring.webhook.heldtime import MOST_AHEAD
from mooring.wire.endpoint import Index, Settings, Shard, User, shard_of
from mooring.wire.sealed import BadDocument
from support.endpoint import CLUSTER_ID, CLUSTER_UID, Person, Sealer, person

NOW = 2_000_000_000.0


class Told:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []
        self.users: dict[int, list[str]] = {}

    def settings(self, settings: Settings) -> None:
        self.calls.append(("settings", settings.prefix))

    def shard(self, number: int, users: Sequence[User]) -> None:
        self.calls.append(("shard", number))
        self.users[number] = [user.name for user in users]

    def link(self, connected: bool | None) -> None:
        self.calls.append(("link", connected))

    @property
    def names(self) -> set[str]:
        return {name for names in self.users.values() for name in names}


class Bed:
    """A copy with a sink, a book and a clock."""

    def __init__(self) -> None:
        self.sealer = Sealer()
        self.clock = ManualClock(NOW)
        self.copy = Copy(CLUSTER_ID, CLUSTER_UID, self.sealer.key.public_key(), self.clock)
        self.told = Told()
        self.book = Book(CLUSTER_ID)
        self.copy.subscribe(self.told)
        self.copy.subscribe(self.book)

    def give(self, *people: Person, **about: object) -> None:
        self.copy.adopt(*self.sealer.documents(people, issued_at=NOW, **about))  # type: ignore[arg-type]

    def cause(self, token: str) -> str:
        found = self.book.find(token, self.copy.now())
        return found.cause if isinstance(found, Refusal) else "ok"


@pytest.fixture
def bed() -> Bed:
    return Bed()


def apart() -> tuple[Person, Person]:
    """Two people of different shards."""
    first, second = person("bob"), person("eve")
    while shard_of(first.id) == shard_of(second.id):
        second = person("eve")
    return first, second


def test_an_index_and_its_shards_are_told(bed: Bed) -> None:
    bob, eve = apart()
    token = bed.sealer.token(bob, NOW + 60)
    assert not bed.copy.ready
    assert bed.cause(token) == "empty"
    bed.give(bob, eve)
    assert bed.copy.ready
    assert (bed.copy.revision, bed.copy.tokens, bed.copy.problem, bed.copy.missing) == (1, 1, "", {})
    assert bed.told.names == {"bob", "eve"}
    assert bed.told.calls[0] == ("settings", "mooring:")
    assert bed.cause(token) == "ok"


def test_what_another_key_signed_is_refused(bed: Bed) -> None:
    other = Sealer()
    index, shards = other.documents([person("bob")])
    with pytest.raises(BadDocument, match="not signed"):
        bed.copy.adopt(index, shards)
    with pytest.raises(BadDocument, match="not signed"):
        bed.copy.wants(index)
    assert not bed.copy.ready


@pytest.mark.parametrize("field", ["cluster_id", "cluster_uid"])
def test_what_was_signed_for_another_cluster_is_refused(bed: Bed, field: str) -> None:
    setattr(bed.sealer, field, "c-bbbbbbbbbbbb")
    with pytest.raises(BadDocument, match="is for "):
        bed.give(person("bob"))


def test_a_shard_of_another_key_lets_nobody_in(bed: Bed) -> None:
    bob = person("bob")
    token = bed.sealer.token(bob, NOW + 60)
    index, shards = bed.sealer.documents([bob], issued_at=NOW)
    number = shard_of(bob.id)
    forged = Sealer(key=Ed25519PrivateKey.generate())
    evil = Person("admin", id=bob.id)
    theirs = forged.token(evil, NOW + 60)
    bed.copy.adopt(index, {number: forged.seal(Shard(number=number, users=(evil.user(),)), NOW)})
    assert (bed.cause(token), bed.cause(theirs)) == ("unknown", "unknown")
    assert "not signed" in bed.copy.problem
    assert list(bed.copy.missing) == [number]
    assert bed.copy.bring(number, shards[number])
    assert (bed.cause(token), bed.copy.problem, bed.copy.missing) == ("ok", "", {})


def test_an_older_shard_that_the_server_signed_itself_lets_nobody_in(bed: Bed) -> None:
    """Somebody who may write Secrets puts the shard of yesterday back, in which a revoked token still is."""
    bob = person("bob")
    revoked = bed.sealer.token(bob, NOW + 60)
    _index, old = bed.sealer.documents([bob], issued_at=NOW)
    bed.copy.adopt(_index, old)
    bob.tokens.clear()
    kept = bed.sealer.token(bob, NOW + 60)
    index, new = bed.sealer.documents([bob], issued_at=NOW)
    number = shard_of(bob.id)
    bed.copy.adopt(index, old)
    assert (bed.cause(revoked), bed.cause(kept)) == ("unknown", "unknown")
    assert "not the one that the index names" in bed.copy.problem
    assert bed.copy.bring(number, new[number])
    assert (bed.cause(revoked), bed.cause(kept)) == ("unknown", "ok")
    assert bed.copy.bring(number, old[number]), "what is there already is not opened again"
    assert (bed.cause(revoked), bed.cause(kept)) == ("unknown", "ok")


def test_a_shard_does_not_stand_in_the_place_of_another(bed: Bed) -> None:
    bob, eve = apart()
    index, shards = bed.sealer.documents([bob, eve], issued_at=NOW)
    swapped = dict(zip(shards, reversed(list(shards.values())), strict=True))
    bed.copy.adopt(index, swapped)
    assert bed.told.names == set()


def test_a_shard_that_is_missing_holds_nobody_and_the_others_stay(bed: Bed) -> None:
    bob, eve = apart()
    tokens = [bed.sealer.token(one, NOW + 60) for one in (bob, eve)]
    bed.give(bob, eve)
    bob.groups = ("deckhands",)
    index, _shards = bed.sealer.documents([bob, eve], issued_at=NOW)
    assert list(bed.copy.wants(index) or ()) == [shard_of(bob.id)]
    bed.copy.adopt(index, {})
    assert [bed.cause(token) for token in tokens] == ["unknown", "ok"]
    assert "not there" in bed.copy.problem


def test_what_the_index_does_not_name_is_gone(bed: Bed) -> None:
    bob, eve = apart()
    tokens = [bed.sealer.token(one, NOW + 60) for one in (bob, eve)]
    bed.give(bob, eve)
    _index, shards = bed.sealer.documents([bob], issued_at=NOW)
    bed.give(eve)
    assert [bed.cause(token) for token in tokens] == ["unknown", "ok"]
    assert not bed.copy.bring(shard_of(bob.id), shards[shard_of(bob.id)])
    assert bed.cause(tokens[0]) == "unknown"


def test_only_what_changed_is_wanted_and_told(bed: Bed) -> None:
    bob, eve = apart()
    bed.give(bob, eve)
    same = bed.sealer.documents([bob, eve], issued_at=NOW, revision=1)
    assert bed.copy.wants(same[0]) is None
    later = bed.sealer.documents([bob, eve], issued_at=NOW, revision=2)
    assert bed.copy.wants(later[0]) == {}
    bed.told.calls.clear()
    bed.copy.adopt(later[0], {})
    assert bed.told.calls == [("settings", "mooring:")]
    assert bed.copy.revision == 2


@pytest.mark.parametrize(
    ("revision", "registered_at", "taken"),
    [(4, 1_000.0, False), (5, 1_000.0, False), (6, 1_000.0, True), (9, 999.0, False), (0, 1_001.0, True)],
)
def test_there_is_no_way_back(bed: Bed, revision: int, registered_at: float, taken: bool) -> None:
    bed.give(person("bob"), revision=5)
    index, shards = bed.sealer.documents([person("eve")], revision=revision, registered_at=registered_at)
    if taken:
        bed.copy.adopt(index, shards)
        assert bed.told.names == {"eve"} or "bob" not in bed.told.names
    else:
        with pytest.raises(BadDocument, match=r"was taken already|two indexes"):
            bed.copy.adopt(index, shards)
        assert "bob" in bed.told.names
        assert bed.copy.revision == 5


@pytest.mark.parametrize("prefix", ["", "system:", "SYSTEM:x", "system:node:", "x" * 2000])
def test_a_prefix_of_kubernetes_or_none_is_refused(bed: Bed, prefix: str) -> None:
    with pytest.raises(BadDocument, match="prefix"):
        bed.give(person("bob"), settings=Settings(prefix=prefix))


def test_a_shard_that_there_cannot_be_is_refused(bed: Bed) -> None:
    for number in (-1, 16):
        index = Index(settings=Settings(prefix="m:"), registered_at=1.0, shards={number: "x"})
        with pytest.raises(BadDocument, match="shards"):
            bed.copy.adopt(bed.sealer.seal(index, NOW), {})


@pytest.mark.parametrize(
    ("prefix", "name", "groups"),
    [
        ("sys", "tem:admin", ()),
        ("s", "YSTEM:admin", ()),
        ("sys", "bob", ("tem:masters",)),
        ("mooring:", "", ()),
        ("mooring:", "x" * 2000, ()),
        ("mooring:", "bob", ("x" * 2000,)),
    ],
)
def test_nobody_gets_a_name_of_kubernetes(bed: Bed, prefix: str, name: str, groups: tuple[str, ...]) -> None:
    bad, good = Person(name, groups), person("good")
    token = bed.sealer.token(bad, NOW + 60)
    bed.give(bad, good, settings=Settings(prefix=prefix))
    assert bed.told.names == {"good"}
    assert bed.cause(token) == "unknown"


def test_names_are_checked_again_when_the_prefix_changes(bed: Bed) -> None:
    evil = person("tem:admin")
    bed.give(evil)
    assert bed.told.names == {"tem:admin"}
    index, shards = bed.sealer.documents([evil], settings=Settings(prefix="sys"))
    assert bed.copy.wants(index)
    bed.copy.adopt(index, shards)
    assert bed.told.names == set()


def test_a_user_without_a_uid_is_left_out(bed: Bed) -> None:
    bed.give(Person("bob", uid=""))
    assert bed.told.names == set()


def test_the_number_of_tokens_has_a_bound(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "MAX_TOKENS", 3)
    bob, eve = apart()
    for one in (bob, bob, eve, eve):
        bed.sealer.token(one)
    bed.give(bob, eve)
    assert len(bed.book) == 2
    assert "more than 3 tokens" in bed.copy.problem


def test_what_cannot_be_read_changes_nothing(bed: Bed) -> None:
    bob = person("bob")
    token = bed.sealer.token(bob, NOW + 60)
    bed.give(bob)
    for data in (b"", b"MREI1\n", b"x" * 100, bed.sealer.documents([bob])[0][:-1]):
        with pytest.raises(BadDocument):
            bed.copy.adopt(data, {})
    assert bed.cause(token) == "ok"


def test_time_is_at_least_what_a_document_says(bed: Bed) -> None:
    bed.copy.adopt(*bed.sealer.documents([], issued_at=NOW + 500))
    assert bed.copy.now() == NOW + 500


def test_a_clock_that_is_set_back_brings_no_token_back(bed: Bed) -> None:
    bob = person("bob")
    token = bed.sealer.token(bob, NOW + 60)
    bed.give(bob)
    bed.clock.advance(61)
    assert bed.cause(token) == "expired"
    bed.clock._now -= 86_400
    assert bed.cause(token) == "expired"
    assert bed.copy.time.behind == pytest.approx(86_400)
    bed.clock.advance(10)
    assert bed.copy.now() == NOW + 71, "time goes on from where it was"


def test_what_nobody_signed_makes_no_token_last_longer(bed: Bed) -> None:
    bob = person("bob")
    token = bed.sealer.token(bob, NOW + 60)
    bed.give(bob)
    bed.clock.advance(61)
    bed.copy.link(True, offset=-1e9)
    assert bed.cause(token) == "expired"


def test_nor_can_it_end_all_tokens(bed: Bed) -> None:
    bed.give()
    bed.copy.link(True, offset=1e9)
    assert bed.copy.now() == NOW + MOST_AHEAD
    assert bed.told.calls[-1] == ("link", True)
