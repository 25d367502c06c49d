"""MQTT concentrators: topics and payloads to values and back. Pure: no broker, no clock, no files."""
