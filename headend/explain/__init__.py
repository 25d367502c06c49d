"""Frames and messages, byte by byte and in words."""
