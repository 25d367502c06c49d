"""Shells around the protocol sessions: transports, lines with one owner each, one driver per protocol."""
