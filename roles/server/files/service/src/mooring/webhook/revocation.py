# SPDX-License-Identifier: Apache-2.0
"""The revocation guard: SubjectAccessReview, `authorization.k8s.io/v1`, answered with "denied" or with nothing.

Why: a kube-apiserver believes a token for ten seconds after it has asked about it, whatever its flags say. It asks its
authorizers more often, and says them by which token somebody came (the extra `mooring.fleet/token-id`). So here a
token that is not good any more is denied whatever it asks for, and of all others nothing is said: who may do what is
the RBAC of the cluster (docs/decisions/0012-a-guard-for-revocation.md).

The same for somebody who is not known any more as who he was: another name, or a group that he has lost.

Sans-I/O. It must not: ever answer that something is allowed.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from mooring.proxy.impersonate import TOKEN_ID, known_as
from mooring.webhook.book import Book, Refusal
from mooring.webhook.tokenreview import decode

VERSION: Final = "authorization.k8s.io/v1"
KIND: Final = "SubjectAccessReview"
OURS: Final = "e-"
"""What the ids of tokens of an endpoint begin with. Others come through the server, which knows by itself."""
ORIGINAL: Final = "mooring.fleet/original-user"
"""The extra of somebody who acts as another; then the names are the other's."""

CHANGED: Final = Refusal("changed", "the user has another name or has lost a group; try again in ten seconds")
MIXED: Final = Refusal("form", "there is more than one token")


class _Spec(msgspec.Struct):
    user: str = ""
    uid: str = ""
    groups: list[str] | None = None
    extra: dict[str, list[str] | None] | None = None


class _Review(msgspec.Struct):
    spec: _Spec


_REVIEW: Final = msgspec.json.Decoder(_Review)


def review(body: bytes, book: Book, now: float) -> tuple[bytes, str]:
    """The answer to a body, and a word for metrics: `ok` (nothing is said), or why it is denied. Raises BadReview."""
    spec = decode(body, _REVIEW, VERSION, KIND, "set subjectAccessReviewVersion: v1").spec
    refusal = _refusal(spec, book, now)
    if refusal is None:
        return _answer({"allowed": False}), "ok"
    return _answer({"allowed": False, "denied": True, "reason": f"mooring: {refusal.reason}"}), refusal.cause


def _refusal(spec: _Spec, book: Book, now: float) -> Refusal | None:
    extra = spec.extra or {}
    ids = [value for value in extra.get(TOKEN_ID) or () if value.startswith(OURS)]
    if not ids:
        return None
    if len(ids) > 1:
        return MIXED
    found = book.still(ids[0], now)
    if isinstance(found, Refusal):
        return found
    known = known_as(found, book.prefix)
    same = spec.user == known.user and spec.uid == known.uid and set(spec.groups or ()) <= set(known.groups)
    return None if same or ORIGINAL in extra else CHANGED


def _answer(status: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"apiVersion": VERSION, "kind": KIND, "status": status})
