# SPDX-License-Identifier: Apache-2.0
"""What an agent says of the policy in its cluster, read. Pure: no clock, no store, no bus.

As in `mooring.control.status`: an agent is believed about its own cluster only, and what it says is cut to size and
cleaned, since people read it on their terminals and it goes into the audit log.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from mooring.control.status import MAX_MESSAGE, clean
from mooring.lib.profiles import PROFILES
from mooring.store.policies import PolicyFault

MAX_ERRORS: Final = 32
MAX_DRIFT: Final = 32
"""Of one message, as the protocol says (docs/protocol/tunnel.md); what is over is passed over."""
MAX_OBJECT: Final = 512  # characters: kind, namespace and name
MAX_WHAT: Final = 256
_MOST: Final = 2**53  # of a number that JSON carries exactly
_LAST_TIME: Final = 1e11  # Unix seconds: beyond the year 5000
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class _Fault(msgspec.Struct, frozen=True):
    object: str
    reason: str = ""


class _Drift(msgspec.Struct, frozen=True):
    object: str
    what: str = ""
    at: float = 0.0


class _Message(msgspec.Struct, frozen=True):
    applied: int = 0
    digest: str = ""
    applied_at: float | None = None
    profile: str = ""
    errors: list[_Fault] = msgspec.field(default_factory=list)
    healed: int = 0
    drift: list[_Drift] = msgspec.field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Drift:
    """An object of ours that somebody changed or deleted in the cluster; the agent put it right `at` (Unix seconds)."""

    object: str
    what: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The control message of kind `policy-status`, cleaned."""

    applied: int
    digest: str
    applied_at: float | None
    profile: str
    errors: tuple[PolicyFault, ...]
    healed: int
    drift: tuple[Drift, ...]


def read(message: dict[str, Any]) -> Report:
    """An agent's message. Raises ValueError if it does not have the form."""
    try:
        said = msgspec.convert(message, _Message)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    return Report(
        applied=_number(said.applied),
        digest=said.digest if _DIGEST.fullmatch(said.digest) else "",
        applied_at=None if said.applied_at is None else _time(said.applied_at),
        profile=said.profile if said.profile in PROFILES else "",
        errors=tuple(
            PolicyFault(clean(fault.object, MAX_OBJECT), clean(fault.reason, MAX_MESSAGE))
            for fault in said.errors[:MAX_ERRORS]
        ),
        healed=_number(said.healed),
        drift=tuple(
            Drift(clean(drift.object, MAX_OBJECT), clean(drift.what, MAX_WHAT), _time(drift.at))
            for drift in said.drift[:MAX_DRIFT]
        ),
    )


def _number(value: int) -> int:
    return max(0, min(value, _MOST))


def _time(value: float) -> float:
    return max(0.0, min(value, _LAST_TIME)) if math.isfinite(value) else 0.0
