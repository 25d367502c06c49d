"""A year of prepaid supply in virtual time: households, meters, banks, a switch, and a checker that watches from outside."""
