"""
Where a node runs, so that a dead one is known by its process where that can be seen, and until when it drains.
"""

import sqlalchemy as sa
from alembic import op

from dosvoces.store.tables import Moment

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("node", sa.Column("place", sa.Text, nullable=False, server_default=""))
    op.add_column("node", sa.Column("born", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("node", sa.Column("drain_until", Moment))
