# SPDX-License-Identifier: Apache-2.0
"""The questions that the agent asks its cluster before a user acts as another, and what it takes for a yes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from mooring.agent import review
from mooring.agent.review import Question, Reviewer, Undecided, questions
from mooring.lib.clock import ManualClock
from mooring.lib.secrets import Secret
from mooring.net.fetch import Answer, FetchError
from mooring.wire.actas import ActAs
from mooring.wire.frames import Code
from mooring.wire.headers import Headers, RequestHead, get, get_all

from .fakes import until

AUTHN = "authentication.k8s.io"
BOB: Headers = [
    (b"Impersonate-User", b"mooring:bob"),
    (b"Impersonate-Uid", b"uid-bob"),
    (b"Impersonate-Group", b"mooring:devs"),
    (b"Impersonate-Extra-mooring.fleet%2frequest-id", b"r1"),
]


class Tokens:
    """The credential: a token that can be refused."""

    def __init__(self) -> None:
        self.token: Secret | None = Secret("t1")
        self.problem = "no token"
        self.rejections: list[str] = []

    def current(self) -> Secret | None:
        return self.token

    def rejected(self, token: Secret) -> None:
        self.rejections.append(token.reveal())
        self.token = None if len(self.rejections) > 1 else Secret("t2")

    async def other_than(self, token: Secret, deadline: float) -> Secret | None:
        return self.token


class Cluster:
    """An API server that answers reviews: `allowed` are names, `answer` overrides everything."""

    def __init__(self) -> None:
        self.allowed: set[str] = set()
        self.answer: Answer | Exception | None = None
        self.asked: list[dict[str, str]] = []
        self.heads: list[RequestHead] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.open = 0
        self.most = 0
        self.clock = ManualClock()
        self.tokens = Tokens()
        self.reviewer = Reviewer(self.call, b"kube:6443", self.tokens, self.clock)  # type: ignore[arg-type]

    async def call(self, head: RequestHead, body: bytes, deadline: float) -> Answer:
        attributes = json.loads(body)["spec"]["resourceAttributes"]
        self.asked.append(attributes)
        self.heads.append(head)
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            await self.gate.wait()
        finally:
            self.open -= 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or said({"allowed": attributes["name"] in self.allowed})

    async def refuses(self, wanted: ActAs, real: Headers | None = None) -> str | None:
        """The name that is refused first."""
        refused = await self.reviewer.first_refused(real or BOB, wanted)
        return None if refused is None else refused[0].name


def said(status: Any, code: int = 201) -> Answer:
    return Answer(code, [], json.dumps({"kind": "SelfSubjectAccessReview", "status": status}).encode())


def test_the_questions_are_those_of_the_api_server_in_its_order() -> None:
    wanted = ActAs("alice", "7", ("g1", "system:masters"), (("scopes", "a"), ("scopes", "b"), ("example.com/k", "c")))
    assert questions(wanted) == [
        Question("users", "alice"),
        Question("uids", "7", AUTHN),
        Question("groups", "g1"),
        Question("groups", "system:masters"),
        Question("userextras", "a", AUTHN, "scopes"),
        Question("userextras", "b", AUTHN, "scopes"),
        Question("userextras", "c", AUTHN, "example.com/k"),
    ]


@pytest.mark.parametrize(
    ("name", "account"),
    [
        ("system:serviceaccount:ns:robot", ("ns", "robot")),
        ("system:serviceaccount:ns:a.b-c", ("ns", "a.b-c")),
        ("system:serviceaccount:ns:Robot", None),
        ("system:serviceaccount:Ns:robot", None),
        ("system:serviceaccount:a.b:robot", None),
        ("system:serviceaccount:ns:a..b", None),
        ("system:serviceaccount:ns:", None),
        ("system:serviceaccount::robot", None),
        ("system:serviceaccount:ns:robot:x", None),
        ("system:serviceaccount:ns", None),
        ("System:serviceaccount:ns:robot", None),
        (f"system:serviceaccount:{'n' * 64}:robot", None),
        (f"system:serviceaccount:ns:{'r' * 254}", None),
        ("system:serviceaccount:ns:robot\n", None),
    ],
)
def test_what_counts_as_a_service_account(name: str, account: tuple[str, str] | None) -> None:
    """As kubernetes' SplitUsername decides: asked as `users` instead, a right on all users would do for accounts."""
    (question,) = questions(ActAs(name))
    expected = Question("serviceaccounts", account[1], namespace=account[0]) if account else Question("users", name)
    assert question == expected


async def test_it_asks_as_the_real_user_and_with_the_impersonators_token() -> None:
    cluster = Cluster()
    cluster.allowed = {"alice"}
    assert await cluster.refuses(ActAs("alice")) is None
    (head,) = cluster.heads
    assert (head.method, head.target) == (b"POST", review.PATH)
    assert get_all(head.headers, b"authorization") == [b"Bearer t1"]
    assert [pair for pair in head.headers if pair[0].startswith(b"Impersonate")] == BOB
    assert cluster.asked == [{"verb": "impersonate", "version": "v1", "resource": "users", "name": "alice"}]


async def test_all_has_to_be_allowed_and_the_first_no_is_told() -> None:
    cluster = Cluster()
    cluster.allowed = {"alice", "g2"}
    wanted = ActAs("alice", groups=("g1", "g2", "g3"))
    assert await cluster.refuses(wanted) == "g1"
    assert len(cluster.asked) == 4
    cluster.clock.advance(review.TTL)
    cluster.allowed |= {"g1", "g3"}
    assert await cluster.refuses(wanted) is None


@pytest.mark.parametrize("allowed", [True, False])
async def test_an_answer_counts_for_five_seconds_from_before_the_question(allowed: bool) -> None:
    cluster = Cluster()
    cluster.allowed = {"alice"} if allowed else set()
    cluster.gate.clear()
    first = asyncio.ensure_future(cluster.refuses(ActAs("alice")))
    await until(lambda: cluster.asked)
    cluster.clock.advance(3)  # the cluster takes its time
    cluster.gate.set()
    before = await first
    cluster.allowed ^= {"alice"}
    cluster.clock.advance(1.999)
    assert await cluster.refuses(ActAs("alice")) == before
    assert len(cluster.asked) == 1
    cluster.clock.advance(0.001)
    assert await cluster.refuses(ActAs("alice")) != before


async def test_what_one_may_another_may_not() -> None:
    """The key of an answer is the whole real user: name, uid, groups, extras; only the request's id does not count."""
    cluster = Cluster()
    cluster.allowed = {"alice"}
    await cluster.refuses(ActAs("alice"))
    same = [*BOB[:3], (BOB[3][0], b"r2")]
    assert await cluster.refuses(ActAs("alice"), same) is None
    assert len(cluster.asked) == 1
    cluster.allowed = set()
    for at, value in ((0, b"mooring:bo"), (1, b"uid-other"), (2, b"mooring:ops")):
        other = [pair if index != at else (pair[0], value) for index, pair in enumerate(BOB)]
        assert await cluster.refuses(ActAs("alice"), other) == "alice"
    assert await cluster.refuses(ActAs("alice"), BOB[:2]) == "alice"
    token = (b"Impersonate-Extra-mooring.fleet%2ftoken-id", b"t-2")
    assert await cluster.refuses(ActAs("alice"), [*BOB, token]) == "alice"


async def test_the_same_name_as_user_group_uid_extra_or_account_is_another_question() -> None:
    cluster = Cluster()
    cluster.allowed = {"x"}
    await cluster.refuses(ActAs("x", "x", ("x",), (("k", "x"), ("l", "x"))))
    await cluster.refuses(ActAs("system:serviceaccount:a:x"))
    await cluster.refuses(ActAs("system:serviceaccount:b:x"))
    assert len(cluster.asked) == 7


async def test_equal_questions_at_a_time_are_one_and_a_client_that_leaves_takes_it_from_nobody() -> None:
    cluster = Cluster()
    cluster.allowed = {"alice"}
    cluster.gate.clear()
    waiting = [asyncio.ensure_future(cluster.refuses(ActAs("alice"))) for _unused in range(20)]
    await until(lambda: cluster.asked)
    waiting[0].cancel()
    cluster.gate.set()
    assert await asyncio.gather(*waiting[1:]) == [None] * 19
    assert len(cluster.asked) == 1


async def test_memory_and_questions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "CACHE_MAX", 8)
    monkeypatch.setattr(review, "WAITING_MAX", 20)
    cluster = Cluster()
    cluster.gate.clear()
    many = asyncio.ensure_future(cluster.refuses(ActAs("a", groups=tuple(f"g{n}" for n in range(30)))))
    await until(lambda: cluster.open == review.ASKED_AT_ONCE)
    with pytest.raises(Undecided) as caught:
        await cluster.refuses(ActAs("b", groups=tuple(f"h{n}" for n in range(30))))
    assert caught.value.code == Code.BUSY
    cluster.gate.set()
    assert await many == "a"
    await until(lambda: not cluster.reviewer._asking)
    assert cluster.most == review.ASKED_AT_ONCE
    assert len(cluster.reviewer._kept) == 8


@pytest.mark.parametrize(
    "answer",
    [
        FetchError(Code.UPSTREAM_UNREACHABLE, "connection refused", sent=False),
        Answer(500, [], b"{}"),
        Answer(503, [], b"not json"),
        Answer(200, [], b'{"status":{"allowed":true}}'),
        Answer(201, [], b"not json"),
        Answer(201, [], b"[]"),
        said({}),
        said({"allowed": "true"}),
        said({"allowed": 1}),
        said(None),
    ],
)
async def test_anything_but_a_clear_answer_decides_nothing_and_is_not_kept(answer: Answer | Exception) -> None:
    cluster = Cluster()
    cluster.answer = answer
    with pytest.raises(Undecided):
        await cluster.refuses(ActAs("alice"))
    cluster.answer, cluster.allowed = None, {"alice"}
    assert await cluster.refuses(ActAs("alice")) is None


async def test_a_review_that_is_forbidden_or_denied_is_a_no_with_the_reason() -> None:
    cluster = Cluster()
    cluster.answer = Answer(403, [], b'{"message":"mooring:bob cannot create selfsubjectaccessreviews"}')
    refused = await cluster.reviewer.first_refused(BOB, ActAs("alice"))
    assert refused is not None
    assert "cannot create selfsubjectaccessreviews" in refused[1].reason
    cluster.answer = said({"allowed": True, "denied": True, "reason": "webhook"})
    refused = await cluster.reviewer.first_refused(BOB, ActAs("carol"))
    assert refused is not None
    assert refused[1].reason == "webhook"


async def test_a_no_counts_beside_a_question_without_an_answer() -> None:
    cluster = Cluster()
    await cluster.refuses(ActAs("alice"))
    cluster.answer = Answer(500, [], b"{}")
    assert await cluster.refuses(ActAs("alice", groups=("g",))) == "alice"


async def test_a_refused_token_is_replaced_once() -> None:
    cluster = Cluster()
    cluster.answer = Answer(401, [], b"{}")
    with pytest.raises(Undecided) as caught:
        await cluster.refuses(ActAs("alice"))
    assert caught.value.code == Code.CREDENTIAL
    assert [get(head.headers, b"authorization") for head in cluster.heads] == [b"Bearer t1", b"Bearer t2"]
    assert cluster.tokens.rejections == ["t1", "t2"]
    with pytest.raises(Undecided):
        await cluster.refuses(ActAs("alice"))
    assert len(cluster.heads) == 2, "without a token nothing is asked"


async def test_a_cluster_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review, "DEADLINE", 0.05)
    cluster = Cluster()
    cluster.gate.clear()
    with pytest.raises(Undecided) as caught:
        await cluster.refuses(ActAs("alice"))
    assert caught.value.code == Code.TIMEOUT
    assert cluster.open == 0
