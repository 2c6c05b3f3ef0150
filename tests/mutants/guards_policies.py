# SPDX-License-Identifier: Apache-2.0
"""Guards of policies: what a cluster is given, how it gets there, and in which order."""

from __future__ import annotations

from mutants.guard import UNIT, Guard, off

BUNDLE = UNIT + "wire/test_bundle.py"
RENDER = UNIT + "policy/test_render.py"
TRANSITION = UNIT + "kube/test_transition.py"

SIGNED = BUNDLE + "::test_what_is_signed_is_checked_all_the_same"
OTHERS = BUNDLE + "::test_a_bundle_for_others_is_refused"

GUARDS: tuple[Guard, ...] = (
    off("bundle-signature", 12, "wire/sealed.py",
        "        key.verify(data[end : end + _SIGNATURE], data[:end])\n", "        pass\n",
        BUNDLE + "::test_a_bundle_of_another_key_is_refused"),
    off("bundle-cluster", 12, "wire/sealed.py", "if header.cluster_id != cluster_id:", "if False:", OTHERS),
    off("bundle-uid", 12, "wire/sealed.py",
        "if not cluster_uid or header.cluster_uid != cluster_uid:", "if False:", OTHERS),
    off("bundle-of-no-cluster", 12, "wire/sealed.py", "if not cluster_uid or header", "if header",
        BUNDLE + "::test_a_bundle_that_no_cluster_is_named_in_fits_none"),
    off("bundle-content", 12, "wire/sealed.py", "if digest_of(body) != header.sha256:", "if False:", SIGNED),
    off("bundle-size", 12, "wire/sealed.py", "if not 0 <= header.size <= limit:", "if False:", OTHERS),
    off("bundle-unpacks-no-more", 12, "wire/sealed.py",
        "unpacker.decompress(packed, size + 1)", "unpacker.decompress(packed)[: size + 1]",
        BUNDLE + "::test_no_more_is_unpacked_than_was_signed"),
    off("bundle-ends", 12, "wire/sealed.py", "if unpacker.unused_data:", "if False:",
        BUNDLE + "::test_nothing_may_follow"),
    off("own-rules-stay-here", 12, "policy/render.py", "if group != OWN_GROUP", "if group",
        RENDER + "::test_a_role_is_named_after_its_rules"),
    off("rules-of-other-clusters", 12, "policy/render.py", "if binding.cluster_id != self._cluster.id:", "if False:",
        RENDER + "::test_what_is_gone_or_elsewhere_gives_nothing"),
    off("selectors-choose-clusters", 12, "policy/render.py",
        "not fits(role.cluster_selector, self._cluster.labels)", "False",
        RENDER + "::test_a_global_role_holds_where_its_selector_fits"),
    off("ended-bindings-give-nothing", 12, "policy/render.py",
        "if not live(binding, self._now):", "if False:",
        RENDER + "::test_a_binding_that_has_ended_is_not_rendered"),
    off("disabled-users-are-left-out", 12, "policy/subjects.py",
        "        ids.difference_update(self._left_out)\n", "",
        RENDER + "::test_a_user_who_is_left_out_is_in_no_binding"),
    off("no-names-of-kubernetes", 12, "policy/subjects.py",
        'return name.startswith("system:")', "return False",
        RENDER + "::test_no_name_of_kubernetes_is_ever_bound"),
    off("a-namespace-is-of-one-project", 12, "policy/render.py",
        "owners.setdefault(namespace.name, project)", "owners[namespace.name] = project",
        RENDER + "::test_a_namespace_of_two_projects_is_of_one"),
    off("a-loss-waits-for-its-replacement", 12, "kube/transition.py",
        "replaced = {who for who in lost if gains.replaces(who, at[1])}", "replaced: set[Subject] = set()",
        TRANSITION + "::test_who_moves_has_the_new_before_the_old_goes"),
    off("groups-replace-members", 12, "kube/transition.py",
        'return who[0] == "User" and _meet(self.by_group, where)', "return False",
        TRANSITION + "::test_a_group_may_replace_what_its_members_lose"),
    off("bindings-that-were-turned-go", 12, "kube/transition.py",
        "_role_of(have) == _role_of(want) and subjects(have)", "subjects(have)",
        TRANSITION + "::test_a_binding_that_was_turned_to_another_role_is_made_anew"),
    off("edited-roles-are-mended", 12, "kube/transition.py",
        'return _rules(have) == _rules(want) and not have.get("aggregationRule")', "return True",
        TRANSITION + "::test_a_role_that_was_edited_is_mended_first"),
    off("over-goes-first", 12, "kube/transition.py", "if over or turned:", "if turned:",
        TRANSITION + "::test_a_binding_whose_time_is_over_goes_before_anything_else"),
)  # fmt: skip
