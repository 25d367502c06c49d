"""Disconnection and reconnection: what happens to an account whose balance runs out."""
