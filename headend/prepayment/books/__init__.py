"""Money: the books, and everything that books something: payments, debits, corrections, points."""
