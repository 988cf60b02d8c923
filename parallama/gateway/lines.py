"""Lines of JSON: whole ones from bytes that come in any cut, and written so that every reader takes them for one."""

from __future__ import annotations

from typing import Any

import orjson

from parallama.errors import UpstreamFailed

MAX_LINE = 16 * 1024 * 1024
"""Bytes of one line that are held; Ollama's own client takes 8 MB."""

NDJSON = "application/x-ndjson"

# what Python's str.splitlines, and with it httpx's iter_lines, takes for the end of a line and orjson writes raw
_LINE_ENDS = (
    ("\x85".encode(), rb"\u0085"),
    ("\u2028".encode(), rb"\u2028"),
    ("\u2029".encode(), rb"\u2029"),
)


class LineTooLong(UpstreamFailed):
    """The node sent a line over the limit."""


class OpenLine:
    """Keeps the line that has not ended yet, and nothing else, of bytes that come in any cut."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self.rest = bytearray()
        """The bytes since the last newline."""
        self._limit = limit

    def push(self, chunk: bytes) -> bytes:
        """The lines that `chunk` completes, in one piece, each with its newline. Raises LineTooLong."""
        cut = chunk.rfind(b"\n") + 1
        if not self.rest and cut == len(chunk):
            return chunk
        if (len(chunk) - cut if cut else len(self.rest) + len(chunk)) > self._limit:
            raise LineTooLong(f"the node sent a line of more than {self._limit} bytes")
        if not cut:
            self.rest += chunk
            return b""
        whole = bytes(self.rest) + chunk[:cut]
        self.rest[:] = chunk[cut:]
        return whole


def json_line(value: Any) -> bytes:
    """`value` as one line of JSON that every reader takes for one: U+0085, U+2028 and U+2029 are escaped."""
    line = orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
    for raw, escaped in _LINE_ENDS:
        if raw in line:
            line = line.replace(raw, escaped)
    return line


def read_object(data: bytes | bytearray) -> dict[str, Any] | None:
    """The JSON object that `data` is; None: it is none."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
