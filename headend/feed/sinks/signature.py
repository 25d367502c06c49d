"""Standard Webhooks: the headers by which a receiver knows that a push is ours, whole and fresh. Pure.

github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md: HMAC-SHA256 over "id.timestamp.body" with the bytes behind
`whsec_`, base64, marked v1. Several secrets give several signatures, so that a secret can be changed without a gap.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence

__all__ = ["BadSigningSecret", "signed_headers", "signing_keys"]

PREFIX = "whsec_"
KEY_BYTES = (24, 64)  # what the specification allows


class BadSigningSecret(Exception):
    """Not `whsec_` and base64 of 24 to 64 bytes. The message does not repeat it."""


def signing_keys(text: str) -> tuple[bytes, ...]:
    """The keys of one or more secrets, separated by blanks; the first is the newest. Raises BadSigningSecret."""
    keys = []
    for secret in text.split():
        try:
            key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not secret.startswith(PREFIX) or not KEY_BYTES[0] <= len(key) <= KEY_BYTES[1]:
            raise BadSigningSecret(
                f"expected {PREFIX} and base64 of {KEY_BYTES[0]} to {KEY_BYTES[1]} bytes, for example from "
                f"`echo {PREFIX}$(openssl rand -base64 32)`"
            )
        keys.append(key)
    if not keys:
        raise BadSigningSecret("it is empty")
    return tuple(keys)


def signed_headers(body: bytes, *, keys: Sequence[bytes], timestamp: int) -> dict[str, str]:
    """body: before compression. timestamp: Unix seconds. Without keys there is no signature.

    The id comes from the body, so that the same batch has the same id at every try, and another batch another one, whichever
    head-end it is from.
    """
    identity = f"msg_{hashlib.sha256(body).hexdigest()[:32]}"
    headers = {"webhook-id": identity, "webhook-timestamp": str(timestamp)}
    if keys:
        signed = b"%b.%d.%b" % (identity.encode(), timestamp, body)
        signatures = (base64.b64encode(hmac.digest(key, signed, "sha256")).decode() for key in keys)
        headers["webhook-signature"] = " ".join(f"v1,{signature}" for signature in signatures)
    return headers
