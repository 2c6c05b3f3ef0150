# SPDX-License-Identifier: Apache-2.0
"""Who may enter a cluster, as a table."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from mooring.policy.decide import decide


@dataclass
class Who:
    token_cluster: str | None = None


@pytest.mark.parametrize(
    ("who", "member", "allowed"),
    [
        (Who(), False, False),
        (Who(), True, True),
        (Who(token_cluster="c-here"), True, True),
        (Who(token_cluster="c-here"), False, False),
        (Who(token_cluster="c-there"), True, False),
        (Who(token_cluster="c-there"), False, False),
        (Who(token_cluster=""), True, False),
    ],
)
def test_table(who: Who, member: bool, allowed: bool) -> None:
    decision = decide(who, "c-here", member)
    assert decision.allowed is allowed
    assert decision.reason
