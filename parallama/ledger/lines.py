"""Rows as the journal has them, JSON of the columns in their order, on their way into the database. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from operator import itemgetter

import orjson

_DAY_S, _DAY_MS = 86_400, 86_400_000


_start = itemgetter(slice(2, 10))
"""Of an id: the first 32 of 48 bits of milliseconds."""


def storable(rows: Sequence[bytes]) -> Sequence[bytes]:
    """The rows without NUL, which PostgreSQL cannot hold and a model's name may bring."""
    return [_without_nul(row) for row in rows] if rb"\u0000" in b"".join(rows) else rows


def _without_nul(row: bytes) -> bytes:
    if rb"\u0000" not in row:
        return row
    clean = [value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in orjson.loads(row)]
    return orjson.dumps(clean)


def id_of(row: bytes) -> str:
    """For a log, whatever stands in its place."""
    return row[2:38].decode("ascii", "replace")


def days_of(rows: Iterable[bytes]) -> set[int]:
    """The days since 1970 in which the ids may have been made, which decide the rows' partitions. Raises ValueError for
    an id that is no UUIDv7."""
    # some 65 s have the same start, in which few days begin
    starts = [int(start, 16) << 16 for start in set(map(_start, rows))]
    return {moment // _DAY_MS for start in starts for moment in (start, start + 0xFFFF)}


def begin_of(day: int) -> datetime:
    """Its first moment, UTC. Raises ValueError or OverflowError for one that is far away."""
    return datetime.fromtimestamp(day * _DAY_S, UTC)
