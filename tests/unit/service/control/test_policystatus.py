# SPDX-License-Identifier: Apache-2.0
"""What an agent says of its policy is cut and cleaned; how a cluster stands follows from it."""

from __future__ import annotations

from typing import Any

import pytest
from mooring.control.policystatus import MAX_DRIFT, MAX_ERRORS, read
from mooring.policy.standing import stand
from mooring.store.policies import PolicyFault, PolicyStatus

ONE, TWO = "1" * 64, "2" * 64


def test_a_message_is_read() -> None:
    said = read(
        {
            "kind": "policy-status",
            "desired": 8,
            "applied": 7,
            "digest": ONE,
            "applied_at": 1_700_000_000.5,
            "profile": "admin",
            "errors": [{"object": "RoleBinding shop/mooring:x", "reason": "forbidden"}],
            "healed": 3,
            "drift": [{"object": "ClusterRole mooring:y", "what": "deleted", "at": 1_700_000_001}],
            "later": {"than": "this version"},
        }
    )
    assert (said.applied, said.digest, said.applied_at, said.profile) == (7, ONE, 1_700_000_000.5, "admin")
    assert said.errors == (PolicyFault("RoleBinding shop/mooring:x", "forbidden"),)
    assert (said.healed, said.drift[0].object, said.drift[0].what) == (3, "ClusterRole mooring:y", "deleted")


def test_a_message_cannot_be_large_or_write_on_a_terminal() -> None:
    said = read(
        {
            "applied": 2**60,
            "digest": "x" * 64,
            "applied_at": 1e300,
            "profile": "root",
            "errors": [{"object": "\x1b[2J" + "o" * 9_000, "reason": "r\n" * 9_000}] * 999,
            "healed": -5,
            "drift": [{"object": "o", "what": "\x00", "at": -1}] * 999,
        }
    )
    assert (said.applied, said.digest, said.profile, said.healed) == (2**53, "", "", 0)
    assert said.applied_at == 1e11
    assert (len(said.errors), len(said.drift)) == (MAX_ERRORS, MAX_DRIFT)
    assert said.errors[0].object.startswith(" [2Joo")
    assert (len(said.errors[0].object), len(said.errors[0].reason)) == (512, 1024)
    assert "\n" not in said.errors[0].reason
    assert (said.drift[0].what, said.drift[0].at) == (" ", 0.0)


@pytest.mark.parametrize(
    "message",
    [{"applied": "7"}, {"errors": "none"}, {"errors": [{"reason": "no object"}]}, {"drift": [7]}, {"healed": None}],
)
def test_a_message_of_another_form_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Expected|missing"):
        read(message)


@pytest.mark.parametrize(
    ("facts", "state", "lag"),
    [
        ({}, "unknown", None),
        ({"desired_digest": ONE}, "pending", 60.0),
        ({"desired_digest": ONE, "applied_digest": TWO}, "pending", 60.0),
        ({"desired_digest": ONE, "applied_digest": ONE}, "applied", 0.0),
        ({"desired_digest": ONE, "applied_digest": ONE, "errors": (PolicyFault("o", "r"),)}, "failing", 0.0),
        ({"desired_digest": ONE, "profile": "proxy-only"}, "unmanaged", None),
    ],
)
def test_how_a_cluster_stands(facts: dict[str, Any], state: str, lag: float | None) -> None:
    found = stand(PolicyStatus(cluster_id="c-1", cluster_name="prod", **facts), 1_000.0, 1_060.0)
    assert (found.state, found.lag) == (state, lag)
