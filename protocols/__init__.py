"""Bytes to values and back. Pure: no I/O, no clocks, no randomness; time comes in as an argument."""
