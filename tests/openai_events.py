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


def read_responses(data: bytes) -> list[Any]:
    """As `read_events`, for the Responses API: the two events that tell a failure are taken for one."""
    found: list[Any] = []
    for one in read_events(data):
        failed = bool(found) and found[-1]["type"] == "response.failed" and "error" not in found[-1]
        if failed != (one["type"] == "error"):
            raise ValueError(f"{one['type']} follows {found[-1]['type'] if found else 'nothing'}")
        if failed:
            numbers = one["sequence_number"], found[-1]["sequence_number"] + 1
            if numbers[0] != numbers[1] or one["message"] != found[-1]["response"]["error"]["message"]:
                raise ValueError("the two events do not tell the same")
            found[-1] = {**found[-1], "error": one["error"]}
        else:
            found.append(one)
    return found


def is_error(event: Any) -> bool:
    """Whether SDKs raise this event."""
    return isinstance(event, dict) and bool(event.get("error"))
