# SPDX-License-Identifier: Apache-2.0
"""Guards of the agent that applies policies: what it believes, what it touches, and what it holds."""

from __future__ import annotations

from mutants.guard import UNIT, Guard, off

APPLIER = UNIT + "agent/policy/test_applier.py"
DESIRED = UNIT + "agent/policy/test_desired.py"
KEPT = UNIT + "agent/policy/test_kept.py"
SERVICE = UNIT + "agent/policy/test_service.py"
MANIFEST = UNIT + "kube/test_manifest.py"

ELSE = DESIRED + "::test_anything_else_is_refused_with_all_that_came_with_it"
SPACES = DESIRED + "::test_a_namespace_that_no_project_can_have_is_refused"

GUARDS: tuple[Guard, ...] = (
    off("policy-kinds", 12, "agent/policy/desired.py",
        'item.get("apiVersion") != kind.version', "False", ELSE),
    off("policy-names", 12, "agent/policy/desired.py", "_NAMES[kind.name].fullmatch(name) is None", "False", ELSE),
    off("policy-namespaces", 12, "agent/policy/desired.py",
        "(kind.namespaced and namespace not in spaces)", "False", ELSE),
    off("policy-no-own-namespace", 12, "agent/policy/desired.py", " and name != own", "", SPACES),
    off("policy-no-kube-namespace", 12, "agent/policy/desired.py",
        ' and not name.startswith("kube-")', "", SPACES),
    off("policy-no-system-subjects", 12, "agent/policy/desired.py",
        'kind != "ServiceAccount" and name.startswith("system:")', "False", ELSE),
    off("policy-no-own-accounts", 12, "agent/policy/desired.py",
        'kind == "ServiceAccount" and one.get("namespace") == own', "False", ELSE),
    off("policy-no-other-content", 12, "agent/policy/desired.py",
        'set(item) - {"kind", "apiVersion", "metadata"} - _CONTENT[kind.name]', "False", ELSE),
    off("policy-revision-does-not-fall", 12, "agent/policy/service.py",
        "bundle.revision < self._revision and", "False and",
        SERVICE + "::test_a_lower_revision_is_taken_after_a_new_registration_only"),
    off("policy-key-is-pinned", 12, "agent/policy/service.py",
        "elif key and key != identity.policy_key:", "elif False:",
        SERVICE + "::test_the_first_key_is_pinned_and_another_is_not_taken"),
    off("policy-is-kept-before-it-is-applied", 12, "agent/policy/service.py",
        "        await self._agent._vault.save(fetched.data, about)\n", "",
        SERVICE + "::test_a_policy_is_kept_before_it_is_applied"),
    off("policy-parts-are-whole", 12, "agent/policy/vault.py",
        "hashlib.sha256(data).hexdigest() == digest", "True",
        KEPT + "::test_what_was_changed_in_a_secret_is_not_read"),
    off("policy-last-parts-stay-until-the-next-is-whole", 12, "agent/policy/vault.py",
        "if slot not in self._used]", "]",
        KEPT + "::test_whatever_dies_while_a_bundle_is_written_one_whole_bundle_is_there"),
    off("policy-others-are-left", 12, "agent/policy/applier.py",
        "if there is not None and not self._is_ours(at, there):\n                raise",
        "if False:\n                raise",
        APPLIER + "::test_what_somebody_else_made_under_our_name_stays"),
    off("policy-prunes-its-own", 12, "agent/policy/applier.py",
        "return item.ours or self._uids.get(at) == item.metadata.uid", "return True",
        APPLIER + "::test_what_another_put_our_label_on_is_not_pruned"),
    off("policy-ends-bindings", 12, "agent/policy/applier.py",
        "wanted.expires_at is not None and wanted.expires_at <= self._time.now()", "False",
        APPLIER + "::test_a_binding_ends_at_its_time_and_not_before"),
    off("policy-takes-off-what-others-add", 12, "agent/policy/applier.py",
        "made = await self._cluster.replace(item, made.metadata.version)", "pass",
        APPLIER + "::test_what_somebody_adds_beside_our_fields_is_taken_off_where_it_widens"),
    off("policy-network-peers-are-exact", 12, "agent/policy/applier.py",
        'kind.name != "NetworkPolicy" or have.get("spec") == want.get("spec")', "True",
        APPLIER + "::test_an_open_network_policy_is_closed_again"),
    off("policy-does-not-take-namespaces", 12, "agent/policy/spaces.py",
        "wanted is not None and wanted.create and there is not None and not there.made", "False",
        APPLIER + "::test_a_namespace_is_made_once_and_one_of_somebody_else_is_not_taken"),
    off("policy-one-of-two-works", 12, "agent/lease.py",
        'holder not in ("", self._holder) and now - self._seen[1] < LIFE', "False",
        KEPT + "::test_one_works_and_the_next_begins_when_it_ends"),
    off("policy-time-does-not-go-back", 12, "agent/policy/timekeeper.py",
        "max(self._base + self._clock.monotonic() - self._since, self._clock.now() + self.offset)",
        "self._clock.now() + self.offset",
        KEPT + "::test_the_time_goes_on_by_the_monotonic_clock_and_never_falls_behind_the_other"),
    off("policy-time-is-bounded", 12, "agent/policy/timekeeper.py", " or abs(ahead) > MOST", "",
        KEPT + "::test_the_server_corrects_the_time_by_an_hour_at_most"),
    off("a-read-only-agent-cannot-escalate", 12, "kube/rights.py",
        'if profile == "admin":', 'if profile != "proxy-only":',
        MANIFEST + "::test_a_read_only_agent_holds_nothing_but_reading_and_cannot_give_away_more"),
    off("a-proxy-only-agent-manages-no-roles", 12, "kube/rights.py",
        'if profile == "read-only":', "if True:",
        MANIFEST + "::test_an_agent_that_is_only_a_proxy_touches_neither_roles_nor_namespaces"),
)  # fmt: skip
