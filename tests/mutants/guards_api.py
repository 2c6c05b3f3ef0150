# SPDX-License-Identifier: Apache-2.0
"""Guards of the REST API against role escalation: where a right counts, and what one must hold to pass on."""

from __future__ import annotations

from mutants.guard import UNIT, Guard, off

POLICIES = UNIT + "api/test_policies.py::"
ACCESS = UNIT + "api/test_access.py::test_each_route_is_opened_by_its_right_and_by_no_other"
USERS = POLICIES + "test_a_manager_of_users_cannot_become_more"
OWNERS = POLICIES + "test_an_owner_of_a_project_cannot_pull_a_namespace_in"
BINDINGS = POLICIES + "test_a_manager_of_bindings_cannot_grant_owner"

GUARDS: tuple[Guard, ...] = (
    off("rights-are-of-their-cluster", 12, "api/access.py",
        "allowed = held.may(verb, resource, cluster=cluster.id, name=cluster.name)",
        "allowed = held.somewhere(verb, resource)", ACCESS),
    off("rights-everywhere-are-not-somewhere", 12, "api/access.py",
        "allowed = held.may(verb, resource, name=ref)", "allowed = held.somewhere(verb, resource)", ACCESS),
    off("passwords-of-who-holds-more", 12, "api/users.py",
        "            require_all_of(services, caller, field, user.id,",
        "            _unused = (field, user.id,", USERS),
    off("groups-of-a-user", 12, "api/users.py",
        '                require_all_of(services, caller, "groups", "", joining)\n', "", USERS),
    off("groups-of-a-new-user", 12, "api/users.py",
        '            require_all_of(services, caller, "groups", "", group_ids)\n', "", USERS),
    off("members-of-a-group", 12, "api/groups.py",
        '            require_all_of(services, caller, "members", "", [group.id])\n', "            pass\n", USERS),
    off("entry-is-held-too", 12, "api/access.py",
        "        if not may_enter(services, caller, cluster_id):\n", "        if False:\n", USERS),
    off("limits-of-a-project", 12, "api/projects.py",
        "    if (why or present) and not may(", "    if False and not may(", OWNERS),
    off("bindings-are-checked", 12, "api/policies.py",
        "                    thing = check.binding(self.policy, held, thing, self.now, before)\n",
        "                    pass\n", BINDINGS),
    off("roles-are-checked", 12, "api/policies.py",
        "                    thing = check.global_role(self.policy, held, thing, before)\n",
        "                    pass\n",
        POLICIES + "test_a_bound_role_cannot_be_widened_by_who_does_not_hold_it"),
    off("templates-are-checked", 12, "api/policies.py",
        "                    thing = check.template(self.policy, held, thing, before)\n", "                    pass\n",
        POLICIES + "test_inheritance_that_comes_later_has_to_be_held"),
    off("labels-ask-what-is-held", 12, "api/clusters.py",
        "            _check_labels_held(services, caller, cluster.id, labels)\n", "            pass\n",
        POLICIES + "test_labels_do_not_give_what_is_not_held"),
    off("profiles-are-asked", 12, "api/policies.py",
        "        await profiles.check(self.tx, self.policy, thing)\n", "",
        POLICIES + "test_a_profile_refuses_what_the_agent_cannot_do"),
    off("simulation-writes-nothing", 12, "api/simulation.py",
        "Change(services, caller, commit=False)", "Change(services, caller)",
        POLICIES + "test_why_and_what_would_happen"),
    off("explanations-are-for-some", 12, "api/explain.py",
        '        if not sees_all:\n            raise refused("globalbindings", "list")\n        found',
        "        found", POLICIES + "test_why_and_what_would_happen"),
)  # fmt: skip
