"""Server-sent events, as dialects stream them (WHATWG HTML, section 9.2; one `data:` line an event), and both heads.

JSON has no raw newline, so an event is whole on its line; U+2028 and U+0085 end no line here and stay as they are.
"""

from __future__ import annotations

from typing import Any

import orjson

from parallama.gateway.api import Head

SSE = Head(200, (("Content-Type", "text/event-stream; charset=utf-8"), ("Cache-Control", "no-cache")))
"""The head of a stream of events."""

JSON = Head(200, (("Content-Type", "application/json"),))
"""The head of the one document that clients get who want no stream."""

COMMENT = b": ping\n\n"
"""A heartbeat that no client takes for an event."""


def event(value: Any, name: str = "") -> bytes:
    """`value` as the JSON of one event; `name` goes into its `event:` line, without one there is none."""
    data = orjson.dumps(value)
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data) if name else b"data: %b\n\n" % data
