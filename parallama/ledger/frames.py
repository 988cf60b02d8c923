"""Records in a file that a crash may have cut anywhere: in front of each its length and a checksum. Pure.

A record: 4 bytes length, 4 bytes CRC-32 of what follows, both little-endian; then so many bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import compress
from operator import eq, itemgetter
from zlib import crc32

_HEAD = struct.Struct("<II")
_SIZE, _head = _HEAD.size, _HEAD.pack
_front, _rest = itemgetter(slice(_SIZE)), itemgetter(slice(_SIZE, None))
MAX_RECORD = 1 << 20
"""Bytes; what claims to be longer is no record."""


def framed(payload: bytes) -> bytes:
    """The record of a payload of 1 to MAX_RECORD bytes."""
    return _head(len(payload), crc32(payload)) + payload


def payloads(records: Sequence[bytes]) -> list[bytes]:
    """Of the records that are not damaged. Every row comes along here: nothing is done for one alone."""
    said = [*map(_rest, records)]
    heads = map(_head, map(len, said), map(crc32, said))
    return [*compress(said, map(eq, heads, map(_front, records)))]


def unframed(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Each payload with the offset at which its record ends; up to the first record that is cut off or damaged."""
    at, view = 0, memoryview(data)
    while at + _SIZE <= len(data):
        length, checksum = _HEAD.unpack_from(data, at)
        begin, end = at + _SIZE, at + _SIZE + length
        # a disk that lost power may have left zeros: they are no record, although their checksum is right
        if not 0 < length <= MAX_RECORD or end > len(data) or crc32(view[begin:end]) != checksum:
            return
        yield bytes(view[begin:end]), end
        at = end
