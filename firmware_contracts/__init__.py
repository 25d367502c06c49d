"""What each meter model and firmware promises: TOML data with provenance."""
