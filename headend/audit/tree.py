"""A tree of hashes over the records that a checkpoint covers, so that one of them is proven without the others. Pure.

As in RFC 6962, 2.1: leaves and nodes are hashed with another byte before them, and an odd number is split at the largest power of
two. A leaf is the hash of a record, which binds everything before it, too. A proof names the hashes to be joined from the leaf up to
the root, each with the side it stands on: "L" and "R".
"""

import hashlib
from collections.abc import Sequence

__all__ = ["proof_of", "root_from", "root_of"]

EMPTY = hashlib.sha256(b"").hexdigest()


def root_of(hashes: Sequence[str]) -> str:
    """hashes: of the records, hex. Gives hex; "" when one of them is no hash, for no root is that."""
    try:
        return _joined([_leaf(one) for one in hashes]).hex() if hashes else EMPTY
    except (ValueError, TypeError):
        return ""


def proof_of(hashes: Sequence[str], place: int) -> list[str]:
    """That the record at this place is among them."""
    leaves = [_leaf(one) for one in hashes]
    proof: list[str] = []
    while len(leaves) > 1:
        half = _half(len(leaves))
        if place < half:
            proof.append("R" + _joined(leaves[half:]).hex())
            leaves = leaves[:half]
        else:
            proof.append("L" + _joined(leaves[:half]).hex())
            leaves, place = leaves[half:], place - half
    return proof[::-1]


def root_from(hash_: str, proof: Sequence[str]) -> str:
    """The root that this record and this proof lead to. Raises ValueError for what is no proof."""
    node = _leaf(hash_)
    for step in proof:
        side, other = step[:1], bytes.fromhex(step[1:])
        if side not in ("L", "R") or len(other) != 32:
            raise ValueError(f"expected L or R and 64 hex digits, found {step[:70]!r}")
        node = _node(other, node) if side == "L" else _node(node, other)
    return node.hex()


def _leaf(hash_: str) -> bytes:
    return hashlib.sha256(b"\0" + bytes.fromhex(hash_)).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _half(count: int) -> int:
    """The largest power of two below it."""
    return 1 << (count - 1).bit_length() - 1


def _joined(leaves: Sequence[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    half = _half(len(leaves))
    return _node(_joined(leaves[:half]), _joined(leaves[half:]))
