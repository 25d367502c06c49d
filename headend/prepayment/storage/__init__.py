"""The database of prepaid supply: its tables, and how they came about."""
