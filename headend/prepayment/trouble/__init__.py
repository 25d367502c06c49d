"""What goes wrong with one account, and how it is kept from holding up the others."""
