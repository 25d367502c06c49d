"""Schema history. Run by `headend.prepayment.database`, never by hand; a released revision is never edited."""
