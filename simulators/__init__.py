"""The other end of the wire: simulated meters, lines and time, deterministic from one seed."""
