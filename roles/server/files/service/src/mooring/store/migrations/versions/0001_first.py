# SPDX-License-Identifier: Apache-2.0
"""The first schema, with the built-in group of administrators."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SORTED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _key(table: str, column: str, *, primary: bool = False, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(
        column, sa.Text, sa.ForeignKey(f"{table}.id", ondelete="CASCADE"), primary_key=primary, nullable=nullable
    )


def _time(name: str, *, nullable: bool = False) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=nullable)


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable)


def upgrade() -> None:
    op.create_table("settings", sa.Column("key", sa.Text, primary_key=True), _text("value"))
    op.create_table(
        "clusters",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", _SORTED, nullable=False, unique=True),
        _text("description"),
        _time("created_at"),
        _time("updated_at"),
        sa.Column("version", sa.Integer, nullable=False),
        _text("state"),
        _text("state_reason"),
        _text("conditions"),
        _time("last_seen_at", nullable=True),
        _time("connected_at", nullable=True),
        _time("registered_at", nullable=True),
        _text("kubernetes_version"),
        sa.Column("node_count", sa.Integer),
        sa.Column("nodes_ready", sa.Integer),
        sa.Column("api_server_healthy", sa.Boolean),
        _text("agent_version"),
        sa.Column("cluster_uid", sa.Text, unique=True),
        sa.Column("public_key", sa.LargeBinary),
    )
    op.create_table(
        "cluster_labels",
        _key("clusters", "cluster_id", primary=True),
        sa.Column("key", sa.Text, primary_key=True),
        _text("value"),
    )
    op.create_index("ix_cluster_labels_key_value", "cluster_labels", ["key", "value"])
    op.create_table(
        "join_tokens",
        sa.Column("id", sa.Text, primary_key=True),
        _key("clusters", "cluster_id"),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        _time("created_at"),
        _time("expires_at"),
        _time("used_at", nullable=True),
        sa.Column("used_public_key", sa.LargeBinary),
    )
    op.create_index("ix_join_tokens_cluster_id", "join_tokens", ["cluster_id"])
    op.create_table(
        "users",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", _SORTED, nullable=False, unique=True),
        sa.Column("uid", sa.Text, nullable=False, unique=True),
        _text("display_name"),
        sa.Column("enabled", sa.Boolean, nullable=False),
        _text("password_hash", nullable=True),
        _time("created_at"),
        _time("updated_at"),
        sa.Column("version", sa.Integer, nullable=False),
    )
    groups = op.create_table(
        "groups",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", _SORTED, nullable=False, unique=True),
        _text("description"),
        sa.Column("builtin", sa.Boolean, nullable=False),
        _time("created_at"),
        _time("updated_at"),
        sa.Column("version", sa.Integer, nullable=False),
    )
    op.create_table("group_members", _key("groups", "group_id", primary=True), _key("users", "user_id", primary=True))
    op.create_index("ix_group_members_user_id", "group_members", ["user_id"])
    op.create_table(
        "tokens",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        _key("users", "user_id"),
        _text("description"),
        _key("clusters", "cluster_id", nullable=True),
        _time("created_at"),
        _time("expires_at", nullable=True),
        _time("last_used_at", nullable=True),
        _time("revoked_at", nullable=True),
    )
    op.create_index("ix_tokens_user_id", "tokens", ["user_id"])
    op.create_index("ix_tokens_cluster_id", "tokens", ["cluster_id"])
    op.create_index("ix_tokens_created_at_id", "tokens", ["created_at", "id"])
    op.create_table(
        "memberships",
        sa.Column("id", sa.Text, primary_key=True),
        _key("clusters", "cluster_id"),
        _key("users", "user_id", nullable=True),
        _key("groups", "group_id", nullable=True),
        _time("created_at"),
        sa.CheckConstraint("(user_id IS NULL) <> (group_id IS NULL)", name="ck_memberships_one_subject"),
    )
    op.create_index("uq_memberships_cluster_user", "memberships", ["cluster_id", "user_id"], unique=True)
    op.create_index("uq_memberships_cluster_group", "memberships", ["cluster_id", "group_id"], unique=True)
    op.create_index("ix_memberships_user_id", "memberships", ["user_id"])
    op.create_index("ix_memberships_group_id", "memberships", ["group_id"])

    now = time.time()
    op.bulk_insert(
        groups,
        [
            {
                "id": "g-adminsadmins",
                "name": "admins",
                "description": "May do everything on this server and enter every cluster.",
                "builtin": True,
                "created_at": now,
                "updated_at": now,
                "version": 1,
            }
        ],
    )


def downgrade() -> None:
    for table in (
        "memberships",
        "tokens",
        "group_members",
        "groups",
        "users",
        "join_tokens",
        "cluster_labels",
        "clusters",
        "settings",
    ):
        op.drop_table(table)
