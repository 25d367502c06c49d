"""Keys and signatures against OpenSSL and RFC 8032, and the stand-alone verifier's own arithmetic against both."""

import base64
import random
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headend.errors import ConfigError
from headend.ledger.signing import PublicKey, SigningKey, make_keys
from tests.headend.ledger.verifier import verify_feed

# RFC 8032, 7.1: secret key, public key, message, signature.
VECTORS = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("secret", "public", "message", "signature"), VECTORS)
def test_signatures_are_those_of_rfc_8032(secret: str, public: str, message: str, signature: str) -> None:
    key = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)))
    text, wire = base64.b64encode(bytes.fromhex(signature)).decode(), bytes.fromhex(message)
    assert key.sign(wire) == text
    assert key.public.is_right(text, wire)
    assert not key.public.is_right(text, wire + b"!")
    assert verify_feed.is_signed(bytes.fromhex(public), wire, bytes.fromhex(signature))
    assert not verify_feed.is_signed(bytes.fromhex(public), wire + b"!", bytes.fromhex(signature))


def test_the_verifiers_own_arithmetic_refuses_every_damaged_signature() -> None:
    dice = random.Random(4)
    key = SigningKey(Ed25519PrivateKey.from_private_bytes(dice.randbytes(32)))
    public = verify_feed.public_key(key.public.pem)
    for size in range(40):
        message = dice.randbytes(size)
        signature = bytearray(base64.b64decode(key.sign(message)))
        assert verify_feed.is_signed(public, message, bytes(signature))
        signature[dice.randrange(64)] ^= 1 << dice.randrange(8)
        assert not verify_feed.is_signed(public, message, bytes(signature))
    for signature_ in (b"", bytes(64), b"\xff" * 64, bytes(63)):
        assert not verify_feed.is_signed(public, b"", signature_)
        assert not verify_feed.is_signed(b"", b"", signature_)


def test_openssl_takes_our_keys_and_makes_keys_for_us(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to compare with")
    private, public = make_keys(tmp_path)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        make_keys(tmp_path)

    def openssl(*arguments: str) -> bytes:
        return subprocess.run(["openssl", *arguments], capture_output=True, check=True, cwd=tmp_path).stdout

    assert openssl("pkey", "-in", private.name, "-pubout").decode() == public.read_text()
    message, signature = tmp_path / "message", tmp_path / "signature"
    message.write_bytes(b"headend.manifest.v1\n{}")
    key = SigningKey.from_pem(private.read_text())
    signature.write_bytes(base64.b64decode(key.sign(message.read_bytes())))
    checked = openssl(
        "pkeyutl", "-verify", "-pubin", "-inkey", public.name, "-rawin", "-in", "message", "-sigfile", "signature"
    )
    assert b"Verified Successfully" in checked
    theirs = SigningKey.from_pem(openssl("genpkey", "-algorithm", "ed25519").decode())
    assert PublicKey.from_pem(theirs.public.pem).id == theirs.public.id != key.public.id


def test_an_unusable_key_is_refused_and_never_shown(tmp_path: Path) -> None:
    for text in ("secret stuff", "", "-----BEGIN PRIVATE KEY-----\nc2VjcmV0IHN0dWZm\n-----END PRIVATE KEY-----\n"):
        with pytest.raises(ConfigError, match="Ed25519") as caught:
            SigningKey.from_pem(text)
        assert "secret" not in str(caught.value)
        assert "c2Vjcm" not in str(caught.value)
        with pytest.raises(ConfigError, match="PEM"):
            PublicKey.from_pem(text)
        with pytest.raises(ValueError, match=r"PEM|padding"):
            verify_feed.public_key(text)
    assert "PRIVATE" not in repr(SigningKey.new())
