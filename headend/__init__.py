"""The head-end: polls meters, keeps every read, and tells upstream nothing untrue."""
