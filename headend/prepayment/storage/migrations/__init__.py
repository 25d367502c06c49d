"""Schema history. Run by `headend.prepayment.storage.database`, never by hand; a released revision is never edited."""
