"""Who has an account, since when, and what was changed of it."""
