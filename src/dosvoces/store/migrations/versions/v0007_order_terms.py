"""
What an order may say for itself: its own limits, language, lead data and metadata.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("connection", sa.Column("lead_more", sa.JSON))
    op.add_column("connection", sa.Column("ring_timeout_s", sa.Integer))
    op.add_column("connection", sa.Column("talk_limit_s", sa.Integer))
    op.add_column("connection", sa.Column("locale", sa.String(8), nullable=False, server_default=""))
    op.add_column("connection", sa.Column("metadata", sa.JSON))
