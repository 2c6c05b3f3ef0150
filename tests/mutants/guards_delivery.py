# SPDX-License-Identifier: Apache-2.0
"""Guards of the way of a policy to its cluster: who gets it, when it is rendered anew, and what is believed."""

from __future__ import annotations

from mutants.guard import UNIT, Guard, off

AFFECTED = UNIT + "control/test_affected.py::test_the_clusters_of_a_change"
CONTROL = UNIT + "control/test_policies.py::"
STATUS = UNIT + "control/test_policystatus.py::test_a_message_cannot_be_large_or_write_on_a_terminal"
DRIFT = CONTROL + "test_drift_is_recorded_once_and_not_without_end"

GUARDS: tuple[Guard, ...] = (
    off(
        "policy-jwt-once",
        7,
        "authn/agents.py",
        "if not self._first_use(identity):",
        "if False:",
        UNIT + "authn/test_agents.py::test_a_jwt_that_another_process_took_lets_nobody_in",
    ),
    off("drift-is-bounded", 20, "control/drift.py", "if self._rate.take(cluster.id, now) > 0:", "if False:", DRIFT),
    off("drift-once", 20, "control/drift.py", "if drift in seen:", "if False:", DRIFT),
    off("policy-status-is-cut", 20, "control/policystatus.py", "said.errors[:MAX_ERRORS]", "said.errors", STATUS),
    off(
        "policy-status-is-clean",
        19,
        "control/policystatus.py",
        "clean(fault.reason, MAX_MESSAGE)",
        "fault.reason",
        STATUS,
    ),
    off(
        "disabled-users-are-rendered-anew",
        13,
        "control/policies.py",
        "if user is None or disabled != (user_id in self._disabled):",
        "if False:",
        CONTROL + "test_a_disabled_user_loses_the_rights_and_gets_them_back",
    ),
    off(
        "ended-bindings-are-rendered-anew",
        13,
        "control/policies.py",
        "if binding.expires_at is not None and before < binding.expires_at <= now:",
        "if False:",
        CONTROL + "test_a_binding_that_ends_is_not_wanted_any_more",
    ),
    off(
        "heirs-change-with-their-template",
        13,
        "control/affected.py",
        "templates = _with_heirs(set(delta.templates), (before, after))",
        "templates = set(delta.templates)",
        AFFECTED,
    ),
    off(
        "clusters-that-lose-a-global-role",
        13,
        "control/affected.py",
        "    for policy in (before, after):\n        for binding in",
        "    for policy in (after,):\n        for binding in",
        AFFECTED,
    ),
    off(
        "clusters-that-lose-a-project",
        13,
        "control/affected.py",
        "        for policy in (before, after)\n        if (project",
        "        for policy in (after,)\n        if (project",
        AFFECTED,
    ),
    off(
        "agents-of-a-restored-server",
        13,
        "control/policies.py",
        "if now.applied_revision > now.desired_revision and",
        "if False and",
        CONTROL + "test_a_restored_database_does_not_leave_agents_with_what_they_have",
    ),
)
