"""Prepaid supply: pay first, then use. Reads the public feed and orders by the public command interface, so that it can be replaced."""
