"""Meters behind MQTT concentrators: what is pushed goes into the store before the broker hears that we have it."""
