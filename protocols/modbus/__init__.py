"""Modbus over RTU and TCP: PDUs, frames, framers, points and session."""
