"""Under which agreement a debit was asked for; what is due for settlement, by day. A table that nothing used goes."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("debits", sa.Column("agreement", sa.Text(), nullable=False, server_default=""))
    # Of those that were asked for: as far as anybody knows, under the one that the account has.
    op.execute(
        "UPDATE debits SET agreement = coalesce((SELECT bank FROM accounts WHERE accounts.id = debits.account), '') "
        "WHERE tries > 0"
    )
    op.create_index("touched_by_day", "touched", ["day"])
    op.execute("DROP TABLE IF EXISTS notices")  # an early 0001 made it
