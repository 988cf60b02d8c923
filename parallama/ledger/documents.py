"""Rows as documents that are written while they are read: one JSON array, or CSV. Without I/O."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import orjson

_PART = 64 * 1024
"""Bytes after which what was made is given away."""
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""Spreadsheets take what begins so for something to compute, or to run."""


async def json_array(rows: AsyncIterator[Any]) -> AsyncGenerator[bytes, None]:
    """One array, an object a line. Rows are what orjson takes."""
    part, before = bytearray(), b"[\n"
    async for row in rows:
        part += before + orjson.dumps(row)
        before = b",\n"
        if len(part) >= _PART:
            yield bytes(part)
            part.clear()
    yield bytes(part) + (b"[]\n" if before == b"[\n" else b"\n]\n")


async def csv_table(columns: Sequence[str], rows: AsyncIterator[Mapping[str, Any]]) -> AsyncGenerator[bytes, None]:
    """RFC 4180; true and false in words, an empty field where unknown. Text that a spreadsheet would take for a formula
    has an apostrophe before it."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    async for row in rows:
        writer.writerow(_cells(map(row.get, columns)))
        if text.tell() >= _PART:
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    yield text.getvalue().encode()


def _cells(values: Iterable[Any]) -> list[Any]:
    return [_cell(value) if isinstance(value, str | bool) else value for value in values]


def _cell(value: str | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}" if value.startswith(_FORMULAS) else value
