# SPDX-License-Identifier: Apache-2.0
"""Policies: roles, projects, bindings, and what of them is in each cluster.

What is built in is not made here: the control process brings it in line at each start. The agents of clusters that are
there already were given no right to manage roles, so their profile is `proxy-only`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SORTED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _key(
    table: str, column: str, *, primary: bool = False, nullable: bool = False, ondelete: str = "CASCADE"
) -> sa.Column[str]:
    return sa.Column(
        column, sa.Text, sa.ForeignKey(f"{table}.id", ondelete=ondelete), primary_key=primary, nullable=nullable
    )


def _text(*names: str, nullable: bool = False) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=nullable) for name in names]


def _flags(*names: str) -> list[sa.Column[bool]]:
    return [sa.Column(name, sa.Boolean, nullable=False) for name in names]


def _history() -> list[sa.Column[float] | sa.Column[int]]:
    return [
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("updated_at", sa.Double, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
    ]


def upgrade() -> None:
    op.add_column("clusters", sa.Column("profile", sa.Text, nullable=False, server_default="proxy-only"))
    op.create_table(
        "global_roles",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", _SORTED, nullable=False, unique=True),
        *_text("display_name", "description", "rules", "cluster_rules", "cluster_selector"),
        *_flags("new_user_default", "builtin"),
        *_history(),
    )
    op.create_table(
        "role_templates",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", _SORTED, nullable=False, unique=True),
        *_text("display_name", "description", "context", "rules", "external"),
        *_flags("locked", "hidden", "creator_default", "builtin"),
        *_history(),
        sa.CheckConstraint("context IN ('cluster', 'project')", name="ck_role_templates_context"),
    )
    op.create_table(
        "role_template_parents",
        _key("role_templates", "template_id", primary=True),
        _key("role_templates", "parent_id", primary=True, ondelete="RESTRICT"),
    )
    op.create_index("ix_role_template_parents_parent_id", "role_template_parents", ["parent_id"])
    op.create_table(
        "projects",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", _SORTED, nullable=False),
        _key("clusters", "cluster_id"),
        *_text("description", "quota", "namespace_quota", "container_limits", "container_requests"),
        *_text("pod_security", nullable=True),
        *_flags("isolated"),
        *_history(),
    )
    op.create_index("uq_projects_cluster_name", "projects", ["cluster_id", "name"], unique=True)
    op.create_table(
        "project_namespaces",
        _key("clusters", "cluster_id", primary=True),
        sa.Column("name", _SORTED, primary_key=True),
        _key("projects", "project_id"),
        *_flags("made_here"),
        *_text("quota"),
    )
    op.create_index("ix_project_namespaces_project_id", "project_namespaces", ["project_id"])
    op.create_table(
        "bindings",
        sa.Column("id", sa.Text, primary_key=True),
        *_text("kind"),
        sa.Column("name", _SORTED, nullable=False),
        _key("global_roles", "global_role_id", nullable=True, ondelete="RESTRICT"),
        _key("role_templates", "template_id", nullable=True, ondelete="RESTRICT"),
        _key("clusters", "cluster_id", nullable=True),
        _key("projects", "project_id", nullable=True),
        sa.Column("expires_at", sa.Double),
        *_text("reason"),
        *_flags("builtin"),
        *_text("created_by"),
        *_history(),
        sa.CheckConstraint(
            "(kind = 'global' AND global_role_id IS NOT NULL AND template_id IS NULL AND cluster_id IS NULL"
            " AND project_id IS NULL)"
            " OR (kind = 'cluster' AND global_role_id IS NULL AND template_id IS NOT NULL AND cluster_id IS NOT NULL"
            " AND project_id IS NULL)"
            " OR (kind = 'project' AND global_role_id IS NULL AND template_id IS NOT NULL AND cluster_id IS NOT NULL"
            " AND project_id IS NOT NULL)",
            name="ck_bindings_kind",
        ),
    )
    op.create_index("uq_bindings_kind_name", "bindings", ["kind", "name"], unique=True)
    for column in ("global_role_id", "template_id", "cluster_id", "project_id"):
        op.create_index(f"ix_bindings_{column}", "bindings", [column])
    op.create_table(
        "binding_subjects",
        _key("bindings", "binding_id", primary=True),
        sa.Column("key", sa.Text, primary_key=True),
        _key("users", "user_id", nullable=True),
        _key("groups", "group_id", nullable=True),
        sa.CheckConstraint("user_id IS NULL OR group_id IS NULL", name="ck_binding_subjects_one"),
        sa.CheckConstraint(
            "coalesce(user_id, group_id) IS NULL OR coalesce(user_id, group_id) = key", name="ck_binding_subjects_key"
        ),
    )
    op.create_index("ix_binding_subjects_user_id", "binding_subjects", ["user_id"])
    op.create_index("ix_binding_subjects_group_id", "binding_subjects", ["group_id"])
    op.create_table(
        "policy_status",
        _key("clusters", "cluster_id", primary=True),
        sa.Column("desired_revision", sa.Integer, nullable=False),
        *_text("desired_digest"),
        sa.Column("applied_revision", sa.Integer, nullable=False),
        *_text("applied_digest"),
        sa.Column("applied_at", sa.Double),
        *_text("profile", "errors"),
        sa.Column("healed", sa.Integer, nullable=False),
        sa.Column("reported_at", sa.Double),
    )


def downgrade() -> None:
    for table in (
        "policy_status",
        "binding_subjects",
        "bindings",
        "project_namespaces",
        "projects",
        "role_template_parents",
        "role_templates",
        "global_roles",
    ):
        op.drop_table(table)
    op.drop_column("clusters", "profile")
