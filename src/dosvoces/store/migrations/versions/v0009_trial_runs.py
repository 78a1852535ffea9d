"""
Which connections are trial runs: those asked for with a test key.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("connection", sa.Column("test", sa.Boolean, nullable=False, server_default=sa.false()))
