"""Fills what is said over HTTP from a value that has the same names."""

import enum
from decimal import Decimal
from typing import Any, TypeVar

from msgspec import Struct

from headend.feed.envelope import plain

__all__ = ["shaped"]

T = TypeVar("T", bound=Struct)


def shaped(shape: type[T], found: object, **more: object) -> T:
    """A `shape` with the values of `found`, and those in `more` in their place.

    Words of an enum are told as they are published, amounts as decimal text without an exponent. Raises AttributeError for a name
    that neither has.
    """
    values: dict[str, Any] = {
        name: more[name] if name in more else _shown(getattr(found, name)) for name in shape.__struct_fields__
    }
    return shape(**values)


def _shown(value: object) -> object:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Decimal):
        return plain(value)
    return list(value) if isinstance(value, tuple) else value
