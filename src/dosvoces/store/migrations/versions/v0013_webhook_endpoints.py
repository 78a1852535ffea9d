"""
How the receivers of webhooks fare: webhook_endpoint.
"""

import sqlalchemy as sa
from alembic import op

from dosvoces.store.tables import Moment

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "webhook_endpoint",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("failing_since", Moment, nullable=False),
        sa.Column("disabled_at", Moment),
        sa.Column("why", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
