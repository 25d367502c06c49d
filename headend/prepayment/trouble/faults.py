"""Whose fault an error is: that of the one account, message or row at work, which holds up no other, or everybody's."""

from sqlalchemy.exc import DataError, SQLAlchemyError

from headend.errors import ItemRefused, StoreError

__all__ = ["is_own_fault"]


def is_own_fault(error: Exception) -> bool:
    """False of what the database does wrong, also inside a transaction, where its errors have not been given our names yet. But a
    value that it cannot hold is the fault of whoever has it."""
    if isinstance(error, SQLAlchemyError):
        return isinstance(error, DataError)
    return isinstance(error, ItemRefused) or not isinstance(error, StoreError)
