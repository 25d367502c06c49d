"""Real processes: the head-end and the simulators as a user starts them."""
