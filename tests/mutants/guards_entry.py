# SPDX-License-Identifier: Apache-2.0
"""Guards of the way into a cluster by a binding: it ends with the binding, its role's reach, the cluster's labels."""

from __future__ import annotations

from mutants.guard import UNIT, Guard, off

MEMBERS = UNIT + "store/test_members.py"

GUARDS: tuple[Guard, ...] = (
    off(
        "a-binding-ends",
        13,
        "authn/index.py",
        "        if members.until:\n",
        "        if False:\n",
        UNIT + "authn/test_index.py::test_a_binding_lets_in_until_its_second_and_not_longer",
    ),
    off(
        "ends-are-looked-for",
        13,
        "proxy/registry.py",
        "        self._index.lapse(now)",
        "        pass",
        UNIT + "proxy/test_registry.py::test_a_binding_that_ends_ends_what_was_open_by_it_at_that_second[websocket]",
    ),
    off(
        "labels-move-the-way-in",
        13,
        "store/sql/clusters.py",
        "self.touched.members.add(cluster_id)  # of bindings that choose",
        "pass  # of bindings that choose",
        MEMBERS + "::test_a_global_binding_reaches_the_clusters_that_its_role_chooses[sqlite]",
    ),
    off(
        "roles-move-the-way-in",
        13,
        "store/sql/roles.py",
        "if bound is not None and before != after:",
        "if False:",
        MEMBERS + "::test_a_role_that_is_edited_reaches_other_clusters[sqlite]",
    ),
    off(
        "subjects-move-the-way-in",
        13,
        "store/sql/bindings.py",
        "            await self._changed(row, now, joining.keys() | leaving)\n            await self._reached(row)\n",
        "            await self._changed(row, now, joining.keys() | leaving)\n",
        MEMBERS + "::test_what_is_taken_away_is_told[sqlite]",
    ),
)
