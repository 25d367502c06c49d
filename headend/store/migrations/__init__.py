"""Schema history. Run by `headend.store.migrate`, never by hand; a released revision is never edited."""
