# SPDX-License-Identifier: Apache-2.0
"""Asks the cluster whether a user may act as another: one SelfSubjectAccessReview for each thing that is wanted.

Why: only the cluster knows its RBAC. The review is asked in the real user's name, with the impersonator's credential:
the API server judges the very user, uid, groups and extras that would stand before it without us, and the agent needs
no right of its own. The questions are those of the API server's own impersonation filter, in its order.

Answers, yes and no alike, are kept for TTL seconds from before the question was sent; two equal questions at a time are
one. A right that was taken away therefore works for at most TTL longer.

It must not: answer by itself, keep a failure, or take anything but a clear yes for one.
Source: https://kubernetes.io/docs/reference/access-authn-authz/user-impersonation/
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mooring.agent.credential import Credential
from mooring.lib.clock import Clock
from mooring.lib.errors import MooringError
from mooring.lib.tasks import Supervisor
from mooring.net.fetch import Answer, FetchError
from mooring.wire.actas import ActAs
from mooring.wire.frames import Code
from mooring.wire.headers import Headers, RequestHead

TTL: Final = 5.0
"""Seconds that an answer counts."""
DEADLINE: Final = 10.0
"""Seconds for one question."""
CACHE_MAX: Final = 4096
"""Answers kept; the oldest go first."""
ASKED_AT_ONCE: Final = 16
"""Reviews under way at the API server."""
WAITING_MAX: Final = 1024
"""Questions that wait for an answer; with so many, a request that has new ones is refused as busy."""

PATH: Final = b"/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
AUTHENTICATION: Final = "authentication.k8s.io"
_REQUEST_ID: Final = b"impersonate-extra-mooring.fleet%2frequest-id"
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# What kubernetes' serviceaccount.SplitUsername takes for a service account; anything else is a user.
_SERVICE_ACCOUNT: Final = re.compile(rf"system:serviceaccount:({_LABEL}):([a-z0-9](?:[-a-z0-9.]*[a-z0-9])?)")
_SUBDOMAIN: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")


class Undecided(MooringError):
    """The question could not be answered, so the answer is no. `code` says why, as for a refused stream."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Question:
    """May the user `impersonate` this."""

    resource: str
    name: str
    group: str = ""
    subresource: str = ""
    namespace: str = ""

    def attributes(self) -> dict[str, str]:
        """As `resourceAttributes` of a review."""
        given = {
            "verb": "impersonate",
            "group": self.group,
            "version": "v1",
            "resource": self.resource,
            "subresource": self.subresource,
            "namespace": self.namespace,
            "name": self.name,
        }
        return {key: value for key, value in given.items() if value}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the cluster said. `reason` is the authorizer's, often empty."""

    allowed: bool
    reason: str = ""


Call = Callable[[RequestHead, bytes, float], Awaitable[Answer]]
"""Sends a request to the API server and waits for its answer at most so many seconds. Raises FetchError."""


def questions(wanted: ActAs) -> list[Question]:
    """What has to be allowed: the user or service account, the uid, each group, each value of each extra."""
    asked = [_user(wanted.user)]
    if wanted.uid:
        asked.append(Question("uids", wanted.uid, AUTHENTICATION))
    asked += [Question("groups", group) for group in wanted.groups]
    asked += [Question("userextras", value, AUTHENTICATION, subresource=key) for key, value in wanted.extra]
    return asked


def _user(name: str) -> Question:
    match = _SERVICE_ACCOUNT.fullmatch(name)
    if match is not None and len(match[2]) <= 253 and _SUBDOMAIN.fullmatch(match[2]):
        return Question("serviceaccounts", match[2], namespace=match[1])
    return Question("users", name)


class Reviewer:
    """Answers questions about real users, from memory for a moment. `authority` is the API server's, for `Host`."""

    def __init__(self, call: Call, authority: bytes, credential: Credential, clock: Clock) -> None:
        self._call = call
        self._authority = authority
        self._credential = credential
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[float, Verdict]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Verdict | Undecided]] = {}
        self._slots = asyncio.Semaphore(ASKED_AT_ONCE)
        self._tasks = Supervisor("review")

    async def first_refused(self, real: Headers, wanted: ActAs) -> tuple[Question, Verdict] | None:
        """The first question that the cluster answers with no, as the API server would report it; None: all allowed.

        `real` are the `Impersonate-*` headers of the real user. Raises Undecided.
        """
        who = hashlib.sha256()
        for name, value in real:
            # The request's id changes nothing in the answer, and would make every question a new one.
            if name.lower() != _REQUEST_ID:
                who.update(b"%d %b %d %b" % (len(name), name.lower(), len(value), value))
        asked = questions(wanted)
        keys = [_key(who.digest(), question) for question in asked]
        if len(self._asking) >= WAITING_MAX and not all(self._known(key) for key in keys):
            raise Undecided(Code.BUSY, "too many questions about rights to impersonate are open")
        answers = await asyncio.gather(*map(self._answer, keys, [real] * len(keys), asked))
        # A no is a no, whatever else could not be answered.
        for question, answer in zip(asked, answers, strict=True):
            if isinstance(answer, Verdict) and not answer.allowed:
                return question, answer
        for answer in answers:
            if isinstance(answer, Undecided):
                raise answer
        return None

    async def aclose(self) -> None:
        """Ends what is being asked; whoever waits for it is cancelled."""
        await self._tasks.aclose()

    def _known(self, key: bytes) -> Verdict | None:
        kept = self._kept.get(key)
        return kept[1] if kept is not None and self._clock.monotonic() < kept[0] else None

    async def _answer(self, key: bytes, real: Headers, question: Question) -> Verdict | Undecided:
        known = self._known(key)
        if known is not None:
            return known
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = self._tasks.spawn(self._ask(key, real, question), "ask")
            task.add_done_callback(lambda _unused: self._asking.pop(key, None))
        # Several may wait for it: one that gives up must not take it from the others.
        return await asyncio.shield(task)

    async def _ask(self, key: bytes, real: Headers, question: Question) -> Verdict | Undecided:
        try:
            async with asyncio.timeout(DEADLINE), self._slots:
                asked = self._clock.monotonic()
                verdict = await self._review(real, question)
        except Undecided as error:
            return error
        except FetchError as error:
            return Undecided(error.code, error.reason)
        except TimeoutError:
            return Undecided(Code.TIMEOUT, f"no answer about a right to impersonate within {DEADLINE:g} s")
        self._kept.pop(key, None)
        while len(self._kept) >= CACHE_MAX:
            self._kept.popitem(last=False)
        self._kept[key] = (asked + TTL, verdict)
        return verdict

    async def _review(self, real: Headers, question: Question) -> Verdict:
        body = msgspec.json.encode(
            {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": question.attributes()},
            }
        )
        token = self._credential.current()
        for last in (False, True):
            if token is None:
                raise Undecided(Code.CREDENTIAL, self._credential.problem)
            head = RequestHead(
                b"POST",
                PATH,
                [
                    (b"Host", self._authority),
                    (b"Authorization", b"Bearer " + token.reveal().encode("ascii")),
                    (b"Accept", b"application/json"),
                    (b"Content-Type", b"application/json"),
                    *real,
                ],
            )
            answer = await self._call(head, body, DEADLINE)
            if answer.status != 401:
                return _read(answer)
            # It speaks of the impersonator's token, not of the user's.
            self._credential.rejected(token)
            token = None if last else await self._credential.other_than(token, DEADLINE)
        raise Undecided(Code.CREDENTIAL, self._credential.problem)


def _key(who: bytes, question: Question) -> bytes:
    return hashlib.sha256(who + json.dumps(question.attributes()).encode()).digest()


def _read(answer: Answer) -> Verdict:
    """The verdict in an answer. Raises Undecided for anything that is not a review with a plain yes or no."""
    try:
        body = msgspec.json.decode(answer.body, type=dict[str, Any])
    except msgspec.MsgspecError:
        body = {}
    if answer.status == 201:
        status = body.get("status")
        if isinstance(status, dict) and isinstance(status.get("allowed"), bool):
            reason = status.get("reason") or status.get("evaluationError") or ""
            return Verdict(status["allowed"] and status.get("denied") is not True, str(reason)[:512])
    said = str(body.get("message") or f"HTTP status {answer.status}")[:512]
    if answer.status == 403:
        # A cluster without the role system:basic-user, or an impersonator without its own: nothing that waiting helps.
        return Verdict(False, f"the review of this right was refused: {said}")
    raise Undecided(Code.UPSTREAM_UNREACHABLE, f"the right to impersonate cannot be checked: {said}")
