"""Packed BCD, low byte first, as DL/T 645 sends it (offset 33H already removed)."""

from protocols.errors import BadDigit, EncodeError

__all__ = ["decode_digits", "decode_magnitude", "encode_digits", "is_all_ff"]

SIGN = 0x80  # top bit of the highest byte; never two's complement (DL/T 645-2007, data formats)


def decode_digits(data: bytes) -> str:
    """Digits high first: 78 56 34 12 is "12345678". Raises BadDigit on a nibble above 9."""
    digits = data[::-1].hex()
    if not digits.isdecimal():
        raise BadDigit(f"{data.hex(' ').upper()} is not BCD", data)
    return digits


def decode_magnitude(data: bytes, *, signed: bool) -> int:
    """The number, negative when `signed` and the top bit is set. Raises BadDigit."""
    if signed and data and data[-1] & SIGN:
        return -int(decode_digits(data[:-1] + bytes([data[-1] & ~SIGN & 0xFF])))
    return int(decode_digits(data))


def encode_digits(digits: str, size: int) -> bytes:
    """Inverse of decode_digits, left-padded with zeros to `size` bytes. Raises EncodeError when it does not fit."""
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > 2 * size:
        raise EncodeError(f"{digits!r} does not fit {2 * size} BCD digits")
    return bytes.fromhex(digits.zfill(2 * size))[::-1]


def is_all_ff(data: bytes) -> bool:
    """FFH in every byte: the meter has no such measurement (seen on phases B, C of single-phase meters)."""
    return len(data) > 0 and data.count(0xFF) == len(data)
