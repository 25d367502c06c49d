"""What must survive: reads, the numbered feed, registered meters, tokens, cursors. One file, or one PostgreSQL."""

from headend.store.migrate import migrate
from headend.store.store import Store
from headend.store.tokens import Role, Token, Tokens
from headend.store.writer import Execute, Writer, WriterHealth

__all__ = ["Execute", "Role", "Store", "Token", "Tokens", "Writer", "WriterHealth", "migrate"]
