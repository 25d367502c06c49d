"""Proofs of the tree, as RFC 6962 defines it."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headend.audit.tree import proof_of, root_from, root_of
from tests.headend.audit.support import verify_audit

HASHES = st.lists(st.binary(min_size=32, max_size=32).map(bytes.hex), min_size=1, max_size=40)


def test_the_root_is_that_of_rfc_6962() -> None:
    """The same as certificate transparency computes; leaves of our records are their 32 bytes."""

    def sha(data: bytes) -> bytes:
        return hashlib.sha256(data).digest()

    a, b, c = (bytes([number]) * 32 for number in (1, 2, 3))
    left = sha(b"\1" + sha(b"\0" + a) + sha(b"\0" + b))
    assert root_of([a.hex()]) == sha(b"\0" + a).hex()
    assert root_of([a.hex(), b.hex(), c.hex()]) == sha(b"\1" + left + sha(b"\0" + c)).hex()
    assert root_of([]) == sha(b"").hex()
    assert root_of(["no hash"]) == ""


@given(HASHES, st.data())
def test_every_proof_leads_to_the_root_and_no_other_record_does(hashes: list[str], data: st.DataObject) -> None:
    root = root_of(hashes)
    assert verify_audit.root_of(hashes) == root
    place = data.draw(st.integers(0, len(hashes) - 1))
    proof = proof_of(hashes, place)
    assert len(proof) <= (len(hashes) - 1).bit_length()
    assert root_from(hashes[place], proof) == root == verify_audit.root_from(hashes[place], proof)
    other = data.draw(st.binary(min_size=32, max_size=32).map(bytes.hex).filter(lambda one: one != hashes[place]))
    assert root_from(other, proof) != root != verify_audit.root_from(other, proof)


@given(HASHES.filter(lambda hashes: len(hashes) > 1), st.data())
def test_a_proof_that_was_changed_leads_elsewhere(hashes: list[str], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(hashes) - 1))
    proof = proof_of(hashes, place)
    step = data.draw(st.integers(0, len(proof) - 1))
    changed = data.draw(
        st.sampled_from(
            [
                [*proof[:step], *proof[step + 1 :]],
                [*proof[:step], ("L" if proof[step][0] == "R" else "R") + proof[step][1:], *proof[step + 1 :]],
                [*proof[:step], proof[step][0] + "00" * 32, *proof[step + 1 :]],
                [*proof, "R" + "11" * 32],
            ]
        )
    )
    if changed[step:] == proof[step:] or (len(set(hashes)) < len(hashes)):
        return
    assert root_from(hashes[place], changed) != root_of(hashes)


@pytest.mark.parametrize("proof", [["X" + "00" * 32], ["L00"], ["Lzz"], [""]])
def test_what_is_no_proof_is_told(proof: list[str]) -> None:
    with pytest.raises(ValueError, match=r"hexadecimal|expected L or R"):
        root_from("00" * 32, proof)
