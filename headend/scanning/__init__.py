"""Finding out what hangs on a line nobody has described: rate, parity, dialect and addresses."""
