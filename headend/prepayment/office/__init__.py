"""The door to prepaid supply, and what it does by itself."""
