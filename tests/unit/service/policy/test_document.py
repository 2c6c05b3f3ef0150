# SPDX-License-Identifier: Apache-2.0
"""docs/roles.md is what `make roles` writes."""

from __future__ import annotations

from pathlib import Path

from mooring.policy import builtin
from mooring.policy.document import document

_PAGE = Path(__file__).parents[4] / "docs" / "roles.md"


def test_the_page_of_the_roles_is_current() -> None:
    assert _PAGE.read_text() == document(), "run 'make roles'"


def test_each_role_is_on_the_page_with_all_its_rules() -> None:
    page = document()
    for role in (*builtin.GLOBAL_ROLES, *builtin.TEMPLATES):
        assert f"\n### {role.name}\n" in page
        assert role.description in page
