"""API keys: how they are made, recognised, stored and shown.

A key is `plm_`, 43 base62 digits of 256 random bits, `_`, and 6 base62 digits of the CRC-32 of all before the
last `_` (the shape of GitHub's tokens): scanners find it, and a mistyped one is refused without a look-up.
Only the digest is stored. Pure.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from string import ascii_lowercase, ascii_uppercase, digits
from zlib import crc32

PREFIX = "plm_"

KEY_PATTERN = r"plm_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}"
"""For secret scanners."""

_KEY = re.compile(KEY_PATTERN)
_BASE62 = digits + ascii_uppercase + ascii_lowercase
_RANDOM_BYTES = 32
_RANDOM_DIGITS = 43  # the fewest that hold 256 bits
_CHECK_DIGITS = 6  # the fewest that hold 32 bits


def new_key() -> str:
    """A key that nobody has: 54 ASCII characters."""
    number = int.from_bytes(secrets.token_bytes(_RANDOM_BYTES), "big")
    body = PREFIX + _base62(number, _RANDOM_DIGITS)
    return f"{body}_{checksum(body)}"


def well_formed(text: str) -> bool:
    """Whether `text` has the shape and the checksum of a key; says nothing of whether anyone holds it."""
    if _KEY.fullmatch(text) is None:
        return False
    body, _, check = text.rpartition("_")
    return checksum(body) == check


def digest(key: str) -> bytes:
    """What is stored of a key: its SHA-256, 32 bytes. No salt, no slow hash: the key is 256 random bits."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def hint(key: str) -> str:
    """Such as `plm_Ab12…Wx9z`: tells a user's keys apart, leaves over 200 bits unknown."""
    start = len(PREFIX) + 4
    return f"{key[:start]}…{key[-4:]}"


def checksum(body: str) -> str:
    """The checksum of what stands before the last `_`: 6 base62 digits of its CRC-32."""
    # CRC-32 catches every burst of up to 32 bits, so every change of one character
    return _base62(crc32(body.encode("ascii")), _CHECK_DIGITS)


def _base62(number: int, width: int) -> str:
    text = ""
    for _ in range(width):
        number, digit = divmod(number, 62)
        text = _BASE62[digit] + text
    return text
