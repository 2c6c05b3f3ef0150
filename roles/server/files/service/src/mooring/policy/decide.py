# SPDX-License-Identifier: Apache-2.0
"""May this identity enter this cluster?

Why: the server's own authorisation is one question; what somebody may do inside the cluster is decided there, by
Kubernetes RBAC. The answer is a pure function of facts, so that every route asks the same one and tests can table it.

It must not: look anything up, know about requests, or allow by default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol


class Subject(Protocol):
    """What is asked of an identity; `authn.identity.Identity` has it."""

    @property
    def token_cluster(self) -> str | None:
        """The id of the only cluster that the token is good for, or None."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, and a sentence that says why; `reason` is shown to the user when the answer is no."""

    allowed: bool
    reason: str


_SCOPED: Final = Decision(False, "this token is good for another cluster only; use one that is not bound to a cluster")
_MEMBER: Final = Decision(True, "the user has a membership or a role in this cluster")
_STRANGER: Final = Decision(
    False, "you have no membership and no role in this cluster; ask an administrator (mooring membership create)"
)


def decide(identity: Subject, cluster_id: str, member: bool) -> Decision:
    """Whether `identity` may enter the cluster.

    `member` says whether the user, or a group of the user, has a membership there or a binding that reaches it. That
    is so for administrators too: their group is bound everywhere. The scope of a token is asked first.
    """
    if identity.token_cluster is not None and identity.token_cluster != cluster_id:
        return _SCOPED
    if member:
        return _MEMBER
    return _STRANGER
