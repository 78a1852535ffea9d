"""
Whose calls were these, and which mails are old, found without a look at all: ix_leg_number, ix_mail_kept_at.
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_leg_number", "leg", ["number", "connection_id"])
    op.create_index("ix_mail_kept_at", "mail", ["kept_at"])
