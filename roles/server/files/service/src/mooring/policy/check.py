# SPDX-License-Identifier: Apache-2.0
"""What may be written into the policy, and by whom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mooring.policy.effective import Labels, Rights
from mooring.policy.rules import PolicyRefused
from mooring.store.policies import Binding, GlobalRole, Policy, Project, RoleTemplate

__all__ = ["PolicyRefused"]

AGENT_NAMESPACE: Final = "mooring-system"


def global_role(policy: Policy, author: Rights, role: GlobalRole, before: GlobalRole | None = None) -> GlobalRole:
    """The role as it may be written: checked and in normal form. `before` is what it takes the place of. Raises
    PolicyRefused."""
    raise PolicyRefused("", "not yet")


def template(
    policy: Policy, author: Rights, template: RoleTemplate, before: RoleTemplate | None = None
) -> RoleTemplate:
    """As `global_role`, for a template."""
    raise PolicyRefused("", "not yet")


def project(policy: Policy, author: Rights, project: Project, before: Project | None = None) -> Project:
    """As `global_role`, for a project with its namespaces."""
    raise PolicyRefused("", "not yet")


def binding(policy: Policy, author: Rights, binding: Binding, now: float, before: Binding | None = None) -> Binding:
    """As `global_role`, for a binding."""
    raise PolicyRefused("", "not yet")


def removal(policy: Policy, thing: GlobalRole | RoleTemplate | Project | Binding) -> None:
    """Whether the thing may be deleted. Raises PolicyRefused."""
    raise PolicyRefused("", "not yet")


def cluster_labels(policy: Policy, author: Rights, cluster_id: str, labels: Mapping[str, str]) -> None:
    """Whether the author may give a cluster these labels: global roles choose clusters by them. Raises
    PolicyRefused."""
    raise PolicyRefused("labels", "not yet")


def acting_for(author: Rights, other: Rights, labels: Labels, field: str) -> None:
    """Whether the author holds all that another holds, so that they may set the other's password, make tokens for them,
    or put somebody into the group. Raises PolicyRefused."""
    raise PolicyRefused(field, "not yet")
