# SPDX-License-Identifier: Apache-2.0
"""Endpoints of clusters: how they may be reached without this server, and tokens that are good there and not here.

The tokens that are there already are all for this server.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("clusters", sa.Column("endpoint", sa.Text))
    op.add_column("clusters", sa.Column("endpoint_status", sa.Text))
    op.add_column("clusters", sa.Column("endpoint_revision", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("tokens", sa.Column("audience", sa.Text, nullable=False, server_default="server"))


def downgrade() -> None:
    op.execute("DELETE FROM tokens WHERE audience <> 'server'")
    op.drop_column("tokens", "audience")
    for column in ("endpoint_revision", "endpoint_status", "endpoint"):
        op.drop_column("clusters", column)
