"""Batches of real events, as the store would give them."""

from headend.feed.envelope import encode_read
from headend.feed.sinks.sink import Batch
from tests.headend.support import a_read

SIGNING_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # the example of the specification's libraries


def a_batch(count: int, *, first: int = 1, meters: int = 10) -> Batch:
    events = [
        encode_read(
            a_read(f"M{number % meters:06d}", slot=number // meters, amount=f"{number}.50"),
            source="/headend/west",
            sequence=number,
        )
        for number in range(first, first + count)
    ]
    return Batch(first, events)


def resolve(reference: str) -> str:
    """Stands in for the environment."""
    return {"env:SECRET": SIGNING_SECRET, "env:TOKEN": "hdt_token", "env:PASSWORD": "wrong"}[reference]
