# SPDX-License-Identifier: Apache-2.0
"""TokenReview, `authentication.k8s.io/v1`: what a kube-apiserver asks about a bearer token, and what it is told.

An answer is about one token and one moment. Whatever is asked in another form or version is no review: `BadReview`,
which the caller says with its status, and never an answer in which somebody is authenticated.

Sans-I/O. It must not: put a token into an answer, an error or a log.
Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#webhook-token-authentication
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from mooring.authn.identity import Identity
from mooring.proxy.impersonate import TOKEN_ID, known_as
from mooring.webhook.book import Book, Refusal

VERSION: Final = "authentication.k8s.io/v1"
KIND: Final = "TokenReview"
MAX_TOKEN: Final = 8 * 1024
"""Characters of a token that is looked at."""
MAX_AUDIENCES: Final = 64

TOO_LONG: Final = Refusal("form", f"the token is longer than {MAX_TOKEN} characters")
AUDIENCE: Final = Refusal("audience", "the token is not for any of the audiences that were asked for")

T = TypeVar("T")


class BadReview(Exception):
    """Not a review that is answered. The text says why; HTTP status 400."""


class _Kind(msgspec.Struct):
    apiVersion: str = ""
    kind: str = ""


class _Spec(msgspec.Struct):
    token: str = ""
    audiences: list[str] | None = None


class _Review(msgspec.Struct):
    spec: _Spec


_KIND: Final = msgspec.json.Decoder(_Kind)
_REVIEW: Final = msgspec.json.Decoder(_Review)


def decode(body: bytes, decoder: msgspec.json.Decoder[T], version: str, kind: str, hint: str) -> T:
    """A review of this version and kind. Raises BadReview."""
    try:
        body.decode()  # also what nobody looks at must be text
        said = _KIND.decode(body)
        if said.kind != kind or said.apiVersion != version:
            raise BadReview(
                f"this takes {kind} of {version} only, not {said.kind[:64]!r} of {said.apiVersion[:64]!r}; {hint}"
            )
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BadReview(f"the body is not a {kind} of {version}") from None


def review(body: bytes, book: Book, audiences: Sequence[str], now: float) -> tuple[bytes, str]:
    """The answer to a body, and a word for metrics: `ok`, or why not. `audiences`: those that tokens are good for.

    Raises BadReview."""
    spec = decode(body, _REVIEW, VERSION, KIND, "set --authentication-token-webhook-version=v1").spec
    asked = spec.audiences or []
    if not spec.token:
        raise BadReview("the TokenReview has no token")
    if len(asked) > MAX_AUDIENCES:
        raise BadReview(f"the TokenReview asks for more than {MAX_AUDIENCES} audiences")
    common = [audience for audience in asked if audience in audiences]
    found = TOO_LONG if len(spec.token) > MAX_TOKEN else book.find(spec.token, now)
    if isinstance(found, Identity) and asked and not common:
        found = AUDIENCE
    if isinstance(found, Refusal):
        return _answer(_no(found)), found.cause
    try:
        known = known_as(found, book.prefix)
    except ValueError:  # `copy` lets nobody in who cannot be somebody
        return _answer({"authenticated": False}), "form"
    status: dict[str, Any] = {
        "authenticated": True,
        "user": {
            "username": known.user,
            "uid": known.uid,
            "groups": known.groups,
            "extra": {TOKEN_ID: [known.token_id]},
        },
    }
    if common:
        status["audiences"] = common
    return _answer(status), "ok"


def _no(refusal: Refusal) -> dict[str, Any]:
    """Not authenticated. The reason goes into the API server's log, but for what is not one of our tokens at all: such
    are asked about whenever somebody shows any bad token."""
    status: dict[str, Any] = {"authenticated": False}
    if refusal.cause != "form":
        status["error"] = f"mooring: {refusal.reason}"
    return status


def _answer(status: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"apiVersion": VERSION, "kind": KIND, "status": status})
