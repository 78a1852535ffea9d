"""
The address that a connection names for itself to be told of it: webhook_url.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("connection", sa.Column("webhook_url", sa.Text))
