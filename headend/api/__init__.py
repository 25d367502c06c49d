"""The HTTP interface: the feed, meters and lines, reads on demand. Only /healthz answers without a token."""

from headend.api.app import create_app
from headend.api.deps import ApiDeps, Health, LineStatus, MeterStatus, ReadNow, StatusProvider
from headend.api.server import Listening, serve

__all__ = [
    "ApiDeps",
    "Health",
    "LineStatus",
    "Listening",
    "MeterStatus",
    "ReadNow",
    "StatusProvider",
    "create_app",
    "serve",
]
