# SPDX-License-Identifier: Apache-2.0
"""The tables, as the newest migration leaves them (a test compares the two).

Columns hold what both databases store alike: text, whole numbers, doubles (times in Unix seconds) and bytes. Rows never
leave this package; the repositories turn them into records.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Double, ForeignKey, Index, LargeBinary, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# Byte order, as SQLite has it: names then sort alike everywhere, whatever the locale of the PostgreSQL server.
SORTED = Text().with_variant(Text(collation="C"), "postgresql")


class Base(DeclarativeBase):
    type_annotation_map = {float: Double, str: Text, bytes: LargeBinary}  # noqa: RUF012 - SQLAlchemy's name and form


def _in_cluster(*, primary: bool = False) -> Mapped[str]:
    return mapped_column(ForeignKey("clusters.id", ondelete="CASCADE"), primary_key=primary, index=not primary)


class SettingRow(Base):
    __tablename__ = "settings"

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class ClusterRow(Base):
    __tablename__ = "clusters"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(SORTED, unique=True)
    description: Mapped[str]
    created_at: Mapped[float]
    updated_at: Mapped[float]
    version: Mapped[int]
    state: Mapped[str]
    state_reason: Mapped[str]
    conditions: Mapped[str]  # JSON list of conditions
    last_seen_at: Mapped[float | None]
    connected_at: Mapped[float | None]
    registered_at: Mapped[float | None]
    kubernetes_version: Mapped[str]
    node_count: Mapped[int | None]
    nodes_ready: Mapped[int | None]
    api_server_healthy: Mapped[bool | None]
    agent_version: Mapped[str]
    cluster_uid: Mapped[str | None] = mapped_column(unique=True)
    public_key: Mapped[bytes | None]
    profile: Mapped[str] = mapped_column(server_default="proxy-only")
    endpoint: Mapped[str | None]  # JSON of EndpointSettings
    endpoint_status: Mapped[str | None]  # JSON of EndpointStatus
    endpoint_revision: Mapped[int] = mapped_column(BigInteger, server_default="0")  # up to which they are given out


class LabelRow(Base):
    """A label of a cluster; a table of its own so that both databases can select by it."""

    __tablename__ = "cluster_labels"
    __table_args__ = (Index("ix_cluster_labels_key_value", "key", "value"),)

    cluster_id: Mapped[str] = _in_cluster(primary=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class JoinTokenRow(Base):
    __tablename__ = "join_tokens"

    id: Mapped[str] = mapped_column(primary_key=True)
    cluster_id: Mapped[str] = _in_cluster()
    hash: Mapped[bytes]
    created_at: Mapped[float]
    expires_at: Mapped[float]
    used_at: Mapped[float | None]
    used_public_key: Mapped[bytes | None]


class UserRow(Base):
    __tablename__ = "users"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(SORTED, unique=True)
    uid: Mapped[str] = mapped_column(unique=True)
    display_name: Mapped[str]
    enabled: Mapped[bool]
    password_hash: Mapped[str | None]
    created_at: Mapped[float]
    updated_at: Mapped[float]
    version: Mapped[int]


class GroupRow(Base):
    __tablename__ = "groups"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(SORTED, unique=True)
    description: Mapped[str]
    builtin: Mapped[bool]
    created_at: Mapped[float]
    updated_at: Mapped[float]
    version: Mapped[int]


class GroupMemberRow(Base):
    __tablename__ = "group_members"

    group_id: Mapped[str] = mapped_column(ForeignKey("groups.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True)


class TokenRow(Base):
    __tablename__ = "tokens"
    __table_args__ = (Index("ix_tokens_created_at_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    hash: Mapped[bytes]
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    description: Mapped[str]
    cluster_id: Mapped[str | None] = mapped_column(ForeignKey("clusters.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    last_used_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
    audience: Mapped[str] = mapped_column(server_default="server")


class MembershipRow(Base):
    __tablename__ = "memberships"
    __table_args__ = (
        CheckConstraint("(user_id IS NULL) <> (group_id IS NULL)", name="ck_memberships_one_subject"),
        # NULLs are distinct in both databases, so each of the two counts only where its column is set.
        Index("uq_memberships_cluster_user", "cluster_id", "user_id", unique=True),
        Index("uq_memberships_cluster_group", "cluster_id", "group_id", unique=True),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    cluster_id: Mapped[str] = mapped_column(ForeignKey("clusters.id", ondelete="CASCADE"))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    group_id: Mapped[str | None] = mapped_column(ForeignKey("groups.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[float]


class GlobalRoleRow(Base):
    __tablename__ = "global_roles"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(SORTED, unique=True)
    display_name: Mapped[str]
    description: Mapped[str]
    rules: Mapped[str]  # JSON list of rules
    cluster_rules: Mapped[str]  # JSON list of rules
    cluster_selector: Mapped[str]  # JSON object
    new_user_default: Mapped[bool]
    builtin: Mapped[bool]
    created_at: Mapped[float]
    updated_at: Mapped[float]
    version: Mapped[int]


class TemplateRow(Base):
    __tablename__ = "role_templates"
    __table_args__ = (CheckConstraint("context IN ('cluster', 'project')", name="ck_role_templates_context"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(SORTED, unique=True)
    display_name: Mapped[str]
    description: Mapped[str]
    context: Mapped[str]
    rules: Mapped[str]  # JSON list of rules
    external: Mapped[str]
    locked: Mapped[bool]
    hidden: Mapped[bool]
    creator_default: Mapped[bool]
    builtin: Mapped[bool]
    created_at: Mapped[float]
    updated_at: Mapped[float]
    version: Mapped[int]


class ParentRow(Base):
    """`template_id` inherits `parent_id`."""

    __tablename__ = "role_template_parents"

    template_id: Mapped[str] = mapped_column(ForeignKey("role_templates.id", ondelete="CASCADE"), primary_key=True)
    parent_id: Mapped[str] = mapped_column(
        ForeignKey("role_templates.id", ondelete="RESTRICT"), primary_key=True, index=True
    )


class ProjectRow(Base):
    __tablename__ = "projects"
    __table_args__ = (Index("uq_projects_cluster_name", "cluster_id", "name", unique=True),)

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(SORTED)
    cluster_id: Mapped[str] = mapped_column(ForeignKey("clusters.id", ondelete="CASCADE"))
    description: Mapped[str]
    quota: Mapped[str]  # JSON objects, these four
    namespace_quota: Mapped[str]
    container_limits: Mapped[str]
    container_requests: Mapped[str]
    pod_security: Mapped[str | None]
    isolated: Mapped[bool]
    created_at: Mapped[float]
    updated_at: Mapped[float]
    version: Mapped[int]


class NamespaceRow(Base):
    """A namespace of a project; the key says that it is in one project of its cluster."""

    __tablename__ = "project_namespaces"

    cluster_id: Mapped[str] = _in_cluster(primary=True)
    name: Mapped[str] = mapped_column(SORTED, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    made_here: Mapped[bool]
    quota: Mapped[str]  # JSON object


class BindingRow(Base):
    __tablename__ = "bindings"
    __table_args__ = (
        CheckConstraint(
            "(kind = 'global' AND global_role_id IS NOT NULL AND template_id IS NULL AND cluster_id IS NULL"
            " AND project_id IS NULL)"
            " OR (kind = 'cluster' AND global_role_id IS NULL AND template_id IS NOT NULL AND cluster_id IS NOT NULL"
            " AND project_id IS NULL)"
            " OR (kind = 'project' AND global_role_id IS NULL AND template_id IS NOT NULL AND cluster_id IS NOT NULL"
            " AND project_id IS NOT NULL)",
            name="ck_bindings_kind",
        ),
        Index("uq_bindings_kind_name", "kind", "name", unique=True),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str] = mapped_column(SORTED)
    global_role_id: Mapped[str | None] = mapped_column(ForeignKey("global_roles.id", ondelete="RESTRICT"), index=True)
    template_id: Mapped[str | None] = mapped_column(ForeignKey("role_templates.id", ondelete="RESTRICT"), index=True)
    cluster_id: Mapped[str | None] = mapped_column(ForeignKey("clusters.id", ondelete="CASCADE"), index=True)
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    expires_at: Mapped[float | None]
    reason: Mapped[str]
    builtin: Mapped[bool]
    created_by: Mapped[str]
    created_at: Mapped[float]
    updated_at: Mapped[float]
    version: Mapped[int]


class SubjectRow(Base):
    """Who is bound. `key` is the id of the user or group, or `namespace/name` of a service account."""

    __tablename__ = "binding_subjects"
    __table_args__ = (
        CheckConstraint("user_id IS NULL OR group_id IS NULL", name="ck_binding_subjects_one"),
        CheckConstraint(
            "coalesce(user_id, group_id) IS NULL OR coalesce(user_id, group_id) = key", name="ck_binding_subjects_key"
        ),
    )

    binding_id: Mapped[str] = mapped_column(ForeignKey("bindings.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    group_id: Mapped[str | None] = mapped_column(ForeignKey("groups.id", ondelete="CASCADE"), index=True)


class PolicyStatusRow(Base):
    __tablename__ = "policy_status"

    cluster_id: Mapped[str] = _in_cluster(primary=True)
    desired_revision: Mapped[int]
    desired_digest: Mapped[str]
    applied_revision: Mapped[int]
    applied_digest: Mapped[str]
    applied_at: Mapped[float | None]
    profile: Mapped[str]
    errors: Mapped[str]  # JSON list of faults
    healed: Mapped[int]
    reported_at: Mapped[float | None]
