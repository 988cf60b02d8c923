"""The conversation that is measured: what the client says, and the answers of the fake node.

The model's name says how the node answers: `bench:20x50000us` streams 20 chunks, one every 50 ms. A chunk carries its
number and the node's monotonic clock, so that whoever reads it knows that none is lost and how old it is.
"""

from __future__ import annotations

import re

PATH = "/api/chat"

_MODEL = re.compile(rb'"model":"(bench:(\d+)x(\d+)us)"')
HISTORY = (
    ("system", "You are a helpful assistant of the physics department. " * 4),
    ("user", "Why is the sky blue, and why is it red in the evening? " * 4),
    ("assistant", "Air scatters short waves of light more than long ones. " * 3),
    ("user", "Explain it to a child of six, in three short sentences."),
)
"""Role and text of each message."""
PROMPT_TOKENS = 224
"""What the node counts for it."""
_CREATED = b'"created_at":"2026-11-21T01:55:54.061365998Z"'
_COUNTS = (
    b'"done":true,"done_reason":"stop","total_duration":20274322,"load_duration":2647633,'
    b'"prompt_eval_count":%d,"prompt_eval_duration":3383000,"eval_count":%d,"eval_duration":9789000}'
)
_TEXT = " It is the light of the sun that the air throws about, and blue is thrown the most."


def model(chunks: int, interval_us: int) -> str:
    """The model that answers in so many chunks, so many microseconds apart."""
    return f"bench:{chunks}x{interval_us}us"


def asked(body: bytes) -> tuple[bytes, int, int]:
    """The model that a body names, its chunks, and the microseconds between them. ValueError: it is not one of ours."""
    found = _MODEL.search(body)
    if found is None:
        raise ValueError("the request names no model of the bench")
    named, chunks, interval_us = found.groups()
    return named, int(chunks), int(interval_us)


def document(named: bytes, chunks: int) -> bytes:
    """The answer in one document, about 400 bytes."""
    message = b'"message":{"role":"assistant","content":"%s"}' % _TEXT.encode()
    return b'{"model":"%s",%s,%s,%s' % (named, _CREATED, message, _COUNTS % (PROMPT_TOKENS, chunks))


def line(named: bytes, number: int, now_ns: int) -> bytes:
    """One line of a stream."""
    message = b'"message":{"role":"assistant","content":" %07d %018d"}' % (number, now_ns)
    return b'{"model":"%s",%s,%s,"done":false}\n' % (named, _CREATED, message)


def last_line(named: bytes, chunks: int) -> bytes:
    """The line that ends a stream."""
    message = b'"message":{"role":"assistant","content":""}'
    return b'{"model":"%s",%s,%s,%s\n' % (named, _CREATED, message, _COUNTS % (PROMPT_TOKENS, chunks))
