"""Reads server-sent events as OpenAI's SDKs do, for `check_codec` and for tests that look at the chunks."""

from __future__ import annotations

import json
from typing import Any

DONE = "[DONE]"


def read_events(data: bytes) -> list[Any]:
    """The JSON of each event, and DONE. Raises ValueError for what no SDK reads to its end."""
    *events, rest = data.split(b"\n\n")
    if rest:
        raise ValueError("the last event has no end")
    return [_read(event) for event in events if not event.startswith(b":")]


def _read(event: bytes) -> Any:
    lines = event.split(b"\n")
    if lines[0].startswith(b"event: "):
        del lines[0]
    if len(lines) != 1 or not lines[0].startswith(b"data: "):
        raise ValueError("an event is one line of data, with its name before it at most")
    data = lines[0].removeprefix(b"data: ")
    return DONE if data == DONE.encode() else json.loads(data)


def is_error(event: Any) -> bool:
    """Whether SDKs raise this event."""
    return isinstance(event, dict) and bool(event.get("error"))
