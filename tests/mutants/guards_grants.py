# SPDX-License-Identifier: Apache-2.0
"""Guards of what may be written into a policy: nobody gives what they do not hold."""

from __future__ import annotations

from mutants.guard import UNIT, Guard, off

RULES = UNIT + "policy/test_rules.py"
CHECK = UNIT + "policy/test_check.py"
PROJECT = UNIT + "policy/test_check_project.py"
EFFECTIVE = UNIT + "policy/test_effective.py"
BOOK = UNIT + "policy/test_book.py"
NAMES = UNIT + "lib/test_names.py"

PARTS = RULES + "::test_the_part_that_is_too_much_is_named"
MEANT = RULES + "::test_what_means_nothing_or_something_else_than_meant_is_refused"
BUILTIN = CHECK + "::test_built_in_things_stay_as_they_are_but_for_what_administrators_set"
ACCOUNTS = CHECK + "::test_service_accounts_of_other_projects_and_of_the_agent_are_refused"
OUTSIDE = CHECK + "::test_a_cluster_role_of_the_cluster_itself_is_for_those_who_hold_everything"
ACTING = CHECK + "::test_nobody_acts_for_somebody_who_holds_more"
CONTEXTS = CHECK + "::test_contexts_do_not_mix"
ADOPTED = PROJECT + "::test_a_project_owner_has_new_namespaces_made_and_cannot_pull_in_what_is_there"

GUARDS: tuple[Guard, ...] = (
    off("verbs-are-compared", 12, "policy/rules.py",
        "if ALL in h[1] or verb in h[1]]", "if h[1]]", PARTS),
    off("groups-are-compared", 12, "policy/rules.py",
        "of_group = [h for h in of_verb if _has(h[0].api_groups, group)]", "of_group = of_verb",
        RULES + "::test_what_is_covered_allows_no_request_that_the_holder_may_not_make"),
    off("names-are-narrower-than-none", 12, "policy/rules.py",
        "if any(not names for _rule, _verbs, names in fit):", "if fit:", PARTS),
    off("subresources-are-not-the-resource", 12, "policy/rules.py",
        'return bool(slash) and f"*/{subresource}" in held', "return _unused in held", PARTS),
    off("paths-are-compared", 12, "policy/rules.py",
        "return holder.endswith(ALL) and wanted.startswith(holder.rstrip(ALL))", "return True",
        RULES + "::test_one_request_against_one_rule"),
    off("our-rules-stand-alone", 12, "policy/rules.py",
        "if OWN_GROUP in rule.api_groups and len(rule.api_groups) > 1:", "if False:", MEANT),
    off("no-wildcards-in-names", 12, "policy/rules.py", ' and ALL not in entry and "/" not in entry', "", MEANT),
    off("rules-are-bounded", 12, "policy/rules.py", "if parts > MAX_PARTS:", "if False:",
        RULES + "::test_rules_are_bounded"),
    off("grant-what-you-hold", 12, "policy/check.py",
        "    if grows:\n        _grant(policy, author, checked)\n", "",
        CHECK + "::test_a_binding_manager_cannot_grant_owner_and_is_told_what_is_too_much"),
    off("a-later-end-is-more", 12, "policy/check.py", "    return longer or bool(set(", "    return bool(set(",
        CHECK + "::test_taking_subjects_away_or_ending_sooner_needs_no_rights_and_the_opposite_does"),
    off("new-subjects-are-more", 12, "policy/check.py",
        "    return longer or bool(set(map(_key, wish.subjects)) - set(map(_key, before.subjects)))\n",
        "    return longer\n",
        CHECK + "::test_taking_subjects_away_or_ending_sooner_needs_no_rights_and_the_opposite_does"),
    off("bind-has-names", 12, "policy/check.py",
        'author.may("bind", "roletemplates", cluster=cluster, project=project_id, name=given.name)',
        'author.somewhere("bind", "roletemplates")',
        CHECK + "::test_the_verb_bind_on_a_role_lets_grant_it_and_no_other"),
    off("escalate-has-names", 12, "policy/check.py",
        'not author.may("escalate", "roletemplates", name=checked.name)',
        'not author.somewhere("escalate", "roletemplates")',
        CHECK + "::test_escalate_lets_write_what_is_not_held_within_the_names_that_it_has"),
    off("inheritance-is-compared", 12, "policy/check.py",
        '(checked.rules, checked.inherits, checked.external) == (\n        before.rules,\n        before.inherits,\n',
        '(checked.rules, checked.external) == (\n        before.rules,\n',
        CHECK + "::test_inheritance_added_later_is_checked_with_all_that_it_brings"),
    off("defaults-are-grants", 12, "policy/check.py",
        "newly_default = checked.creator_default and not (before is not None and before.creator_default)",
        "newly_default = False",
        CHECK + "::test_a_change_that_gives_nothing_new_needs_no_rights_and_one_that_makes_it_a_default_does"),
    off("external-roles-are-everything", 12, "policy/check.py",
        "    if not flat.externals:\n        return\n", "    return\n", OUTSIDE),
    off("our-cluster-roles-are-not-external", 12, "policy/check.py",
        'if wish.external.startswith("mooring"):', "if False:", OUTSIDE),
    off("no-circles", 12, "policy/check.py", "        if way:\n", "        if False:\n",
        CHECK + "::test_a_circle_is_refused_with_the_way_it_goes"),
    off("contexts-of-parents", 12, "policy/check.py", "if parent.context != wish.context:", "if False:", CONTEXTS),
    off("contexts-of-bindings", 12, "policy/check.py",
        "if role is None or role.context != wish.kind:", "if role is None:", CONTEXTS),
    off("locked-roles", 12, "policy/check.py", "    if given.locked:\n", "    if False:\n",
        CHECK + "::test_a_locked_role_is_not_bound_and_gets_no_new_subjects_but_may_lose_some"),
    off("built-in-bindings", 12, "policy/check.py",
        "    if before is not None and before.builtin:\n        raise PolicyRefused(\"name\", f\"the binding",
        "    if False:\n        raise PolicyRefused(\"name\", f\"the binding", BUILTIN),
    off("built-in-roles", 12, "policy/check.py", "    if kept != before:\n", "    if False:\n", BUILTIN),
    off("accounts-of-the-project", 12, "policy/check.py",
        "if owner is not None and subject.namespace not in inside:", "if False:", ACCOUNTS),
    off("accounts-of-the-agent", 12, "policy/check.py", "if subject.namespace == DEFAULT_NAMESPACE:", "if False:",
        ACCOUNTS),
    off("labels-of-clusters-give", 12, "policy/check.py",
        "lacking = rules.uncovered(holder, role.cluster_rules)", "lacking = None",
        CHECK + "::test_labels_of_a_cluster_cannot_be_set_to_pull_in_a_role_that_gives_more"),
    off("acting-for-project-owners", 12, "policy/check.py",
        'in other.projects.items():\n        cluster', 'in ():\n        cluster', ACTING),
    off("acting-for-unknown-roles", 12, "policy/check.py", "in other.externals:", "in ():", ACTING),
    off("no-system-namespaces", 12, "policy/check_project.py", "        if is_system(name):\n", "        if False:\n",
        PROJECT + "::test_namespaces_of_the_cluster_itself_are_in_no_project"),
    off("one-project-for-a-namespace", 12, "policy/check_project.py",
        "        if name in taken:\n", "        if False:\n", PROJECT + "::test_a_namespace_is_in_one_project_only"),
    off("no-pulling-in", 12, "policy/check_project.py",
        "if known is None and not namespace.create:", "if False:", ADOPTED),
    off("no-accounts-left-behind", 12, "policy/check_project.py",
        'if subject.kind == "serviceaccount" and subject.namespace in gone:', "if False:",
        PROJECT + "::test_a_namespace_does_not_leave_while_its_service_accounts_are_bound_here"),
    off("quotas-fit", 12, "policy/check_project.py", "        if total > whole[name]:\n", "        if False:\n",
        PROJECT + "::test_quotas_of_namespaces_fit_into_the_project_s_exactly"),
    off("quotas-are-not-raised", 12, "policy/check_project.py",
        "if before is not None and _raised(before, wish)", "if False and _raised(wish, wish)",
        PROJECT + "::test_a_project_owner_cannot_raise_the_quota_and_may_divide_it"),
    off("pod-security-is-not-weakened", 12, "policy/check_project.py",
        'if wish.pod_security in (old, "restricted") or old == "privileged":', "if True:",
        PROJECT + "::test_a_project_owner_cannot_weaken_pod_security"),
    off("ended-bindings-are-no-rights", 12, "policy/effective.py",
        "        if not live(binding, now):\n", "        if False:\n",
        EFFECTIVE + "::test_a_binding_ends_to_the_second"),
    off("answers-end-with-bindings", 12, "policy/book.py",
        "if known is not None and now < known.until:", "if known is not None:",
        BOOK + "::test_a_binding_that_ends_is_gone_without_a_change"),
    off("answers-are-forgotten", 12, "policy/book.py", "        self._kept.clear()\n", "",
        BOOK + "::test_changes_are_seen_at_once_and_answers_are_kept_in_between"),
    off("twins-of-kubernetes-names", 12, "lib/names.py", "    plain = skeleton(value)\n",
        "    plain = value.casefold()\n",
        CHECK + "::test_subjects_that_are_or_look_like_kubernetes_own_are_refused"),
)  # fmt: skip
