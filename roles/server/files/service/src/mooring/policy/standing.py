# SPDX-License-Identifier: Apache-2.0
"""How a cluster stands to its policy: what is wanted there, what its agent says is there, and for how long they differ.

Pure. It must not: doubt or correct what the agent said; whoever read it has cleaned it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from mooring.store.policies import PolicyStatus

State = Literal["unknown", "pending", "applied", "failing", "unmanaged"]
STATES: Final[tuple[State, ...]] = ("unknown", "pending", "applied", "failing", "unmanaged")
"""`unknown`: no agent has registered, or nothing is rendered yet. `pending`: the agent has not applied what is wanted.
`applied`: it has, as a whole. `failing`: it has, but for some objects. `unmanaged`: its profile forbids."""


@dataclass(frozen=True, slots=True)
class Standing:
    """`lag`: seconds for which what is wanted has not been there; 0 when it is, None when nobody can tell (`unknown`,
    `unmanaged`)."""

    status: PolicyStatus
    state: State
    lag: float | None


def stand(status: PolicyStatus, wanted_since: float, now: float, waiting_since: float | None = None) -> Standing:
    """How the cluster stands whose wanted policy is what it is since `wanted_since` (Unix seconds). `waiting_since`:
    something was changed then whose effect on the wanted policy is not known yet; None: nothing was."""
    if status.profile == "proxy-only":
        return Standing(status, "unmanaged", None)
    if not status.desired_digest and not status.errors:
        return Standing(status, "unknown", None)
    if status.applied_digest != status.desired_digest:
        return Standing(status, "pending", max(0.0, now - wanted_since))
    if waiting_since is not None:
        return Standing(status, "pending", max(0.0, now - waiting_since))
    return Standing(status, "failing" if status.errors else "applied", 0.0)
