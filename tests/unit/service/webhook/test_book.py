# SPDX-License-Identifier: Apache-2.0
"""Who has which token, at which time: the table, and the two kinds of review that are answered from it."""

from __future__ import annotations

import hmac
import json
import sys
from types import FrameType
from typing import Any

import pytest
from mooring.authn.identity import Identity
from mooring.proxy.impersonate import Impersonator
from mooring.webhook import book as books
from mooring.webhook import revocation, tokenreview
from mooring.webhook.book import CAUSES, Book, Refusal
from mooring.webhook.tokenreview import MAX_AUDIENCES, MAX_TOKEN, BadReview
from mooring.wire.endpoint import Settings, Token
from support.endpoint import CLUSTER_ID, Person, Sealer, person, token_id

NOW = 2_000_000_000.0
AUDIENCES = ("https://here", "here")


class Bed:
    """A book with one shard."""

    def __init__(self) -> None:
        self.sealer = Sealer()
        self.book = Book(CLUSTER_ID)
        self.bob = person("bob", "deckhands", "crew")
        self.token = self.sealer.token(self.bob, NOW + 60)

    def fill(self, *people: Person, grace: int = 0, connected: bool | None = True) -> None:
        self.book.settings(Settings(prefix="mooring:", grace=grace))
        self.book.link(connected)
        self.book.shard(3, [one.user() for one in people or (self.bob,)])

    def cause(self, token: str, now: float = NOW) -> str:
        return cause(self.book.find(token, now))

    def review(self, token: Any, audiences: Any = None, now: float = NOW) -> dict[str, Any]:
        spec = {"token": token} if audiences is None else {"token": token, "audiences": audiences}
        body = {"apiVersion": tokenreview.VERSION, "kind": "TokenReview", "spec": spec}
        answer = json.loads(tokenreview.review(json.dumps(body).encode(), self.book, AUDIENCES, now)[0])
        assert (answer["apiVersion"], answer["kind"]) == (tokenreview.VERSION, "TokenReview")
        return dict(answer["status"])

    def access(self, now: float = NOW, **spec: Any) -> dict[str, Any]:
        extra = {"mooring.fleet/token-id": [token_id(self.token)]}
        groups = ["mooring:deckhands", "mooring:crew", "system:authenticated"]
        spec = {"user": "mooring:bob", "uid": self.bob.uid, "groups": groups, "extra": extra} | spec
        body = {"apiVersion": revocation.VERSION, "kind": "SubjectAccessReview", "spec": spec}
        answer = json.loads(revocation.review(json.dumps(body).encode(), self.book, now)[0])
        assert answer["status"]["allowed"] is False
        return dict(answer["status"])


def cause(found: Identity | Refusal) -> str:
    return found.cause if isinstance(found, Refusal) else "ok"


@pytest.fixture
def bed() -> Bed:
    it = Bed()
    it.fill()
    return it


# --- the table ------------------------------------------------------------------------------------------------------


def test_a_token_is_its_owners(bed: Bed) -> None:
    found = bed.book.find(bed.token, NOW)
    assert found == Identity(
        bed.bob.id, "bob", bed.bob.uid, ("deckhands", "crew"), token_id(bed.token), CLUSTER_ID, NOW + 60, False
    )
    assert found == bed.book.still(token_id(bed.token), NOW)
    assert len(bed.book) == 1


def test_before_anything_was_read_nobody_is_known() -> None:
    bed = Bed()
    assert bed.cause(bed.token) == "empty"
    assert cause(bed.book.still(token_id(bed.token), NOW)) == "empty"


def test_another_secret_or_id_is_unknown(bed: Bed) -> None:
    other = Sealer().token(person("eve"), NOW + 60)
    assert bed.cause(other) == "unknown"
    assert bed.cause(f"mre_{token_id(bed.token)}_{other[-52:]}") == "unknown"
    assert bed.cause(f"mre_{token_id(other)}_{bed.token[-52:]}") == "unknown"
    assert bed.cause(bed.token + "a") == "form"
    assert cause(bed.book.still(token_id(other), NOW)) == "unknown"


def test_the_hash_of_another_cluster_is_no_token(bed: Bed) -> None:
    token = Sealer(cluster_id="c-bbbbbbbbbbbb").token(bed.bob, NOW + 60)
    bed.fill()
    assert bed.cause(token) == "unknown"


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_hash_of_another_length_is_left_out(bed: Bed, length: int) -> None:
    bed.bob.tokens[0] = Token(token_id(bed.token), b"h" * length, NOW + 60)
    bed.fill()
    assert len(bed.book) == 0
    assert bed.cause(bed.token) == "unknown"


@pytest.mark.parametrize(("now", "said"), [(NOW + 59.9, "ok"), (NOW + 60, "expired"), (NOW + 1e6, "expired")])
def test_a_token_ends(bed: Bed, now: float, said: str) -> None:
    assert bed.cause(bed.token, now) == said


def test_an_end_that_is_no_number_has_been(bed: Bed) -> None:
    bed.bob.tokens[0] = Token(token_id(bed.token), bed.bob.tokens[0].hash, float("nan"))
    bed.bob.until = float("nan")
    bed.fill()
    assert bed.cause(bed.token) == "ended"
    bed.bob.until = None
    bed.fill(grace=86_400, connected=False)
    assert bed.cause(bed.token) == "expired"


def test_a_right_to_enter_that_has_ended_ends_the_token(bed: Bed) -> None:
    bed.bob.until = NOW + 10
    bed.fill(grace=3600, connected=False)
    assert [bed.cause(bed.token, NOW + after) for after in (9, 10, 61)] == ["ok", "ended", "ended"]


def test_a_disabled_user_has_no_token(bed: Bed) -> None:
    bed.bob.enabled = False
    bed.fill(grace=3600, connected=False)
    assert bed.cause(bed.token) == "disabled"
    assert cause(bed.book.still(token_id(bed.token), NOW)) == "disabled"


@pytest.mark.parametrize(
    ("grace", "connected", "after", "said"),
    [
        (0, False, 60, "expired"),
        (30, False, 60, "ok"),
        (30, False, 89.9, "ok"),
        (30, False, 90, "expired"),
        (30, True, 60, "expired"),
        (30, None, 60, "expired"),
    ],
)
def test_grace_is_for_when_the_server_is_known_to_be_away(
    bed: Bed, grace: int, connected: bool | None, after: float, said: str
) -> None:
    bed.fill(grace=grace, connected=connected)
    assert bed.cause(bed.token, NOW + after) == said


def test_what_a_shard_held_is_gone_with_it(bed: Bed) -> None:
    bed.book.shard(3, ())
    assert (len(bed.book), bed.cause(bed.token)) == (0, "unknown")
    eve = person("eve")
    token = bed.sealer.token(eve, NOW + 60)
    bed.book.shard(4, [eve.user()])
    bed.fill()
    assert (bed.cause(token), bed.cause(bed.token), len(bed.book)) == ("ok", "ok", 2)
    bed.book.shard(4, ())
    assert (bed.cause(token), bed.cause(bed.token)) == ("unknown", "ok")


def test_every_secret_is_hashed_and_compared_whether_there_is_such_an_id_or_not(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[int, int]] = []
    hashed: list[str] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    def hash_(cluster_id: str, secret: str) -> bytes:
        hashed.append(secret)
        return real(cluster_id, secret)

    real = books.token_hash
    monkeypatch.setattr(books, "token_hash", hash_)
    monkeypatch.setattr(books, "hmac", type("hmac", (), {"compare_digest": staticmethod(compare)}))
    other = Sealer().token(person("eve"), NOW + 60)
    bed.cause(f"mre_{token_id(bed.token)}_{other[-52:]}")
    bed.cause(other)
    bed.cause(bed.token)
    assert compared == [(32, 32)] * 3
    assert hashed == [other[-52:], other[-52:], bed.token[-52:]]


def calls_of(book: Book, bearer: str) -> list[str]:
    """The names of all functions that looking for a token calls, in their order."""
    calls: list[str] = []

    def seen(frame: FrameType, event: str, what: Any) -> None:
        if event in ("call", "c_call"):
            calls.append(frame.f_code.co_name if event == "call" else what.__name__)

    sys.setprofile(seen)
    try:
        book.find(bearer, NOW)
    finally:
        sys.setprofile(None)
    return calls


def test_known_and_unknown_ids_take_the_same_way(bed: Bed) -> None:
    """The same calls, none fewer. How long they take is what the bench `tokenreview` compares."""
    other = Sealer().token(person("eve"))
    known = calls_of(bed.book, f"mre_{token_id(bed.token)}_{other[-52:]}")
    assert known == calls_of(bed.book, other)
    assert {"token_hash", "_look_up", "compare_digest"} <= set(known)


# --- TokenReview ----------------------------------------------------------------------------------------------------


def test_a_review_says_who_it_is_as_the_proxy_does(bed: Bed) -> None:
    status = bed.review(bed.token)
    user = status["user"]
    assert status["authenticated"] is True
    assert "audiences" not in status
    found = bed.book.find(bed.token, NOW)
    assert isinstance(found, Identity)
    lines = Impersonator("mooring:").lines(found, "r").splitlines()
    headers = [(name, value) for name, _unused, value in (line.partition(b": ") for line in lines)]
    said = {name.decode(): value.decode() for name, value in headers}
    assert user["username"] == said["Impersonate-User"] == "mooring:bob"
    assert user["uid"] == said["Impersonate-Uid"]
    assert user["groups"] == [value.decode() for name, value in headers if name == b"Impersonate-Group"]
    assert user["groups"] == ["mooring:deckhands", "mooring:crew", "system:authenticated"]
    assert user["extra"] == {"mooring.fleet/token-id": [said["Impersonate-Extra-mooring.fleet%2ftoken-id"]]}


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        (None, ()),
        ([], ()),
        (["here"], ["here"]),
        (["elsewhere", "here", "https://here"], ["here", "https://here"]),
        (["elsewhere"], None),
        ([""], None),
    ],
)
def test_audiences_are_honoured(bed: Bed, asked: Any, given: Any) -> None:
    status = bed.review(bed.token, asked)
    if given is None:
        assert status == {
            "authenticated": False,
            "error": "mooring: the token is not for any of the audiences that were asked for",
        }
    else:
        assert status["authenticated"] is True
        assert status.get("audiences", ()) == given


def test_only_what_is_wrong_with_one_of_our_tokens_is_said(bed: Bed) -> None:
    assert bed.review("eyJhbGciOi.a.b") == {"authenticated": False}
    assert bed.review("a" * (MAX_TOKEN + 1)) == {"authenticated": False}
    assert bed.review(bed.token + "\0") == {"authenticated": False}
    assert bed.review(bed.token, now=NOW + 99) == {"authenticated": False, "error": "mooring: the token has expired"}
    other = Sealer().token(person("eve"))
    said = bed.review(other)
    assert said == {"authenticated": False, "error": "mooring: the token is unknown or was revoked"}


def test_what_stands_before_a_token_is_part_of_it(bed: Bed) -> None:
    for before in ("x", " ", "a" * MAX_TOKEN):
        assert bed.review(before + bed.token)["authenticated"] is False


def test_no_answer_shows_a_token(bed: Bed) -> None:
    for now in (NOW, NOW + 99):
        assert bed.token[-52:] not in json.dumps(bed.review(bed.token, now=now))


def test_somebody_who_cannot_be_anybody_is_not_let_in(bed: Bed) -> None:
    bed.bob.uid = ""
    bed.fill()
    assert bed.review(bed.token) == {"authenticated": False}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not a TokenReview"),
        (b"null", "not a TokenReview"),
        (b"[]", "not a TokenReview"),
        (b"{" * 5000, "not a TokenReview"),
        (b'{"a":' * 5000, "not a TokenReview"),
        (b"\xff", "not a TokenReview"),
        (
            b'{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","\x92":1,"spec":{"token":"a"}}',
            "not a TokenReview",
        ),
        (b"{}", "takes TokenReview"),
        (b'{"apiVersion":"authentication.k8s.io/v1beta1","kind":"TokenReview","spec":{"token":"a"}}', "version=v1"),
        (b'{"apiVersion":"authentication.k8s.io/v1","kind":"X","spec":{"token":"a"}}', "takes TokenReview"),
        (b'{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview"}', "not a TokenReview"),
        (b'{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":1}}', "not a TokenReview"),
        (b'{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":""}}', "no token"),
    ],
)
def test_what_is_no_review_is_told_so(bed: Bed, body: bytes, said: str) -> None:
    with pytest.raises(BadReview, match=said):
        tokenreview.review(body, bed.book, AUDIENCES, NOW)


def test_the_number_of_audiences_has_a_bound(bed: Bed) -> None:
    bed.review(bed.token, ["here"] * MAX_AUDIENCES)
    with pytest.raises(BadReview, match="audiences"):
        bed.review(bed.token, ["here"] * (MAX_AUDIENCES + 1))


def test_every_cause_has_a_word() -> None:
    assert len(set(CAUSES)) == len(CAUSES)


# --- the guard ------------------------------------------------------------------------------------------------------


def test_nothing_is_said_of_a_token_that_is_good(bed: Bed) -> None:
    assert bed.access() == {"allowed": False}
    assert bed.access(groups=None, resourceAttributes={"verb": "get"}) == {"allowed": False}


def test_a_token_that_is_not_good_any_more_is_denied(bed: Bed) -> None:
    said = bed.access(now=NOW + 60)
    assert said == {"allowed": False, "denied": True, "reason": "mooring: the token has expired"}
    bed.bob.enabled = False
    bed.fill()
    assert bed.access()["denied"]
    bed.bob.enabled = True
    bed.bob.tokens.clear()
    bed.fill()
    assert bed.access()["reason"] == "mooring: the token is unknown or was revoked"


@pytest.mark.parametrize(
    "extra",
    [None, {}, {"mooring.fleet/token-id": None}, {"mooring.fleet/token-id": ["t-aaaaaaaaaaaa"]}, {"x": ["e-a"]}],
)
def test_nothing_is_said_of_others(bed: Bed, extra: Any) -> None:
    assert bed.access(user="system:admin", extra=extra) == {"allowed": False}


@pytest.mark.parametrize(
    "spec",
    [
        {"user": "mooring:eve"},
        {"uid": "other"},
        {"groups": ["mooring:deckhands", "mooring:admins"]},
        {"user": "", "uid": "", "groups": ["system:masters"]},
    ],
)
def test_who_is_not_who_the_token_says_any_more_is_denied(bed: Bed, spec: dict[str, Any]) -> None:
    assert "another name or has lost a group" in bed.access(**spec)["reason"]


def test_more_than_one_token_is_denied(bed: Bed) -> None:
    ids = [token_id(bed.token), token_id(Sealer().token(bed.bob, NOW + 60))]
    bed.fill()
    assert bed.access(extra={"mooring.fleet/token-id": ids})["denied"]


def test_who_acts_as_another_has_the_others_names_and_a_token_that_must_be_good(bed: Bed) -> None:
    extra = {"mooring.fleet/token-id": [token_id(bed.token)], "mooring.fleet/original-user": ["mooring:bob"]}
    assert bed.access(user="mooring:alice", groups=["x"], extra=extra) == {"allowed": False}
    assert bed.access(user="mooring:alice", groups=["x"], extra=extra, now=NOW + 60)["denied"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"apiVersion":"authorization.k8s.io/v1beta1","kind":"SubjectAccessReview","spec":{}}',
        b'{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview"}',
        b'{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":{"extra":[]}}',
        b'{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{}}',
    ],
)
def test_what_is_no_access_review_is_told_so(bed: Bed, body: bytes) -> None:
    with pytest.raises(BadReview):
        revocation.review(body, bed.book, NOW)
