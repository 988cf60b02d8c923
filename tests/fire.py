"""A seeded plan of requests under fire: what each asks, what its node and its client do, and what must come of it.

A Shot is one request; `plan` draws them. Nothing here does I/O: fire_sides.py lets the node and the clients act, and
fire_truth.py says what rows and what sights of the client are right.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

import orjson
from asking import MODEL

from parallama.testing import Answer, Fault

BULK = 12 << 20
"""Bytes of a document that no buffers on the way can take."""


class Kind(Enum):
    """What is asked: method, path."""

    CHAT = ("POST", "/ollama/api/chat")
    GENERATE = ("POST", "/api/generate")
    SIMPLE = ("POST", "/ollama/v1/chat")
    UNARY = ("POST", "/api/chat")
    SIMPLE_UNARY = ("POST", "/ollama/v1/chat?")
    EMBED = ("POST", "/api/embed")
    BULK = ("POST", "/ollama/api/embed")
    TAGS = ("GET", "/api/tags")
    MODELS = ("GET", "/ollama/v1/models")
    UPLOAD = ("POST", "/ollama/api/blobs/sha256:")


STREAMS = (Kind.CHAT, Kind.GENERATE, Kind.SIMPLE)
LINES = (*STREAMS, Kind.SIMPLE_UNARY)
"""Those for which the node sends a stream."""
SIMPLE = (Kind.SIMPLE, Kind.SIMPLE_UNARY, Kind.MODELS)


class Conduct(Enum):
    """What the client does."""

    READS = "reads all"
    PAUSES = "reads nothing for a while, then all"
    UNSENT = "leaves before it sends the body"
    HALF_SENT = "leaves within the body"
    UNANSWERED = "leaves before the head"
    MIDSTREAM = "leaves within the stream"
    ANYTIME = "leaves at any time"
    STOPS = "stops reading for good"


class Way(Enum):
    """How a client leaves."""

    CLOSE = "close"
    RESET = "reset"
    HALF_CLOSE = "half-close"


class Ending(Enum):
    """What the client has got of its answer."""

    WHOLE = "all that it should"
    CUT = "a document as short as it was said to be"
    ERROR_LINE = "the beginning, and an error as the last line"
    BROKEN = "the connection closed on it"
    ODD = "something else"


@dataclass(slots=True)
class Shot:
    """One request."""

    number: int
    kind: Kind
    conduct: Conduct
    way: Way
    lines: int
    """Of a stream, the last one not counted."""
    steps: int
    """A number for whatever else is at random."""
    cue: Answer = field(default_factory=Answer)
    bad: int | None = None
    """The line that is no JSON."""
    takes: int | None = None
    """Bytes of an upload after which the node's fault strikes."""
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    """The node has the request."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """The node is done with it."""

    def __str__(self) -> str:
        told = f"{self.number}: {self.kind.name}, client {self.conduct.value} ({self.way.value}), lines {self.lines}"
        cue = {f.name: getattr(self.cue, f.name) for f in fields(self.cue)}
        odd = {name: value for name, value in cue.items() if value != getattr(Answer(), name)}
        return f"{told}, node {odd}, bad {self.bad}, takes {self.takes}"

    @property
    def counts(self) -> tuple[int, int]:
        """The tokens that the node will tell, no two neighbours the same."""
        return 1 + self.number % 997, 1 + self.number % 991

    @property
    def text(self) -> str:
        """What each line says: a token of four bytes."""
        return "x" * 32_000 if self.conduct is Conduct.STOPS else f"{self.number % 10_000:04}"


def asks(shot: Shot) -> Any:
    """The request's body: JSON, bytes, or None."""
    if shot.kind is Kind.UPLOAD:
        return shot.number.to_bytes(4, "big") * (1 + shot.steps * 500)
    if shot.kind in (Kind.TAGS, Kind.MODELS):
        return None
    if shot.kind in (Kind.EMBED, Kind.BULK):
        return {"model": "nomic-embed-text", "input": f"{shot.number} is the number"}
    if shot.kind is Kind.GENERATE:
        return {"model": MODEL, "prompt": f"{shot.number} is the number"}
    messages = [{"role": "user", "content": f"{shot.number} is the number"}]
    return {"model": MODEL, "messages": messages, "stream": shot.kind in STREAMS}


def says(shot: Shot) -> list[bytes]:
    """What the node says, fault apart: the lines of a stream, or one document."""
    if shot.kind in LINES:
        lines = [_line(shot, shot.text)] * shot.lines + [_line(shot, "", **_counts(shot))]
        if shot.bad is not None:
            lines[shot.bad] = lines[shot.bad].replace(b'"', b"'", 1)
        return lines
    return [] if shot.kind is Kind.UPLOAD else [_document(shot)]


def _line(shot: Shot, text: str, **last: object) -> bytes:
    said: dict[str, object] = {"message": {"role": "assistant", "content": text}}
    if shot.kind is Kind.GENERATE:
        said = {"response": text}
    return orjson.dumps({"model": MODEL, **said, "done": bool(last), **last}) + b"\n"


def _counts(shot: Shot) -> dict[str, object]:
    prompt, output = shot.counts
    return {"prompt_eval_count": prompt, "eval_count": output}


def _document(shot: Shot) -> bytes:
    if shot.kind is Kind.UNARY:
        document = _line(shot, shot.text, **_counts(shot)).rstrip()
    elif shot.kind in (Kind.TAGS, Kind.MODELS):
        document = orjson.dumps({"models": [{"name": shot.text}]})
    else:
        vector = b"[" + b"0.1," * (BULK // 4 if shot.kind is Kind.BULK else 5) + b"0.2]"
        document = b'{"embeddings":[%b],"prompt_eval_count":%d}' % (vector, shot.counts[0])
    return document if shot.bad is None else document.replace(b'"', b"'", 1)


def told(shot: Shot) -> bytes:
    """What the client gets when all goes well."""
    if shot.kind not in SIMPLE:
        return b"".join(says(shot))
    if shot.kind is Kind.MODELS:
        details = {"format": "", "family": ""}
        return orjson.dumps({"models": [{"name": shot.text, "size": "", "modified": "", "details": details}]})
    prompt, output = shot.counts
    usage = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    if shot.kind is Kind.SIMPLE_UNARY:
        return orjson.dumps({"model": MODEL, **_message(shot.text * shot.lines), "usage": usage})
    lines = [_message(shot.text)] * shot.lines + [{**_message(""), "usage": usage, "done": True}]
    return b"".join([orjson.dumps(line) + b"\n" for line in lines])


def _message(text: str) -> dict[str, object]:
    return {"messages": [{"role": "assistant", "content": text}]}


def ending(shot: Shot, status: int, body: bytes) -> Ending:
    """What it is that the client has got."""
    if status >= 300:
        return Ending.WHOLE if _is_error(body) else Ending.ODD
    wanted = told(shot)
    if body == wanted or body + b"\n" == wanted:  # a node that broke off behind all but the last newline
        return Ending.WHOLE
    if shot.cue.length_off < 0 and body == wanted[: shot.cue.length_off]:
        return Ending.CUT
    *_, last = body.splitlines() or [b""]
    before = body[: -len(last) - 1]
    if body.endswith(b"\n") and _is_error(last) and (wanted.startswith(before) or wanted.startswith(before[:-1])):
        return Ending.ERROR_LINE
    return Ending.ODD


def _is_error(body: bytes) -> bool:
    try:
        return list(json.loads(body)) == ["error"]
    except ValueError:
        return False


# which kinds are asked, how often
_KINDS = {
    Kind.CHAT: 22,
    Kind.GENERATE: 16,
    Kind.SIMPLE: 16,
    Kind.UNARY: 12,
    Kind.SIMPLE_UNARY: 10,
    Kind.EMBED: 8,
    Kind.TAGS: 4,
    Kind.MODELS: 4,
    Kind.UPLOAD: 8,
    Kind.BULK: 0.3,
}
_CONDUCTS = {
    Conduct.READS: 52,
    Conduct.PAUSES: 8,
    Conduct.UNSENT: 5,
    Conduct.HALF_SENT: 5,
    Conduct.UNANSWERED: 8,
    Conduct.MIDSTREAM: 10,
    Conduct.ANYTIME: 12,
    Conduct.STOPS: 0.6,
}


def plan(seed: int, count: int) -> list[Shot]:
    """The same requests for the same seed; each is drawn on its own."""
    return [_draw(random.Random(f"{seed}/{number}"), number) for number in range(count)]


def _draw(dice: random.Random, number: int) -> Shot:
    kind = _pick(dice, _KINDS)
    conduct = _pick(dice, {conduct: weight for conduct, weight in _CONDUCTS.items() if _fits(conduct, kind)})
    shot = Shot(number, kind, conduct, dice.choice(list(Way)), lines=dice.randint(1, 8), steps=dice.randint(0, 40))
    if conduct is Conduct.UNANSWERED:
        shot.cue = Answer(hold_head=asyncio.Event())
    elif conduct is Conduct.MIDSTREAM:
        shot.cue = Answer(hold_chunks=asyncio.Semaphore(shot.lines - 1))
    elif conduct is Conduct.STOPS:
        shot.lines = BULK // len(shot.text)
        shot.cue = Answer(fault=Fault.HANG, after_body=2 * BULK)  # only the gateway can end it
    elif conduct not in (Conduct.UNSENT, Conduct.HALF_SENT) and kind is not Kind.BULK:
        _arm(dice, shot)
    return shot


def _pick(dice: random.Random, weights: Mapping[Any, float]) -> Any:
    return dice.choices(list(weights), list(weights.values()))[0]


def _fits(conduct: Conduct, kind: Kind) -> bool:
    if kind is Kind.BULK:
        return conduct in (Conduct.READS, Conduct.PAUSES, Conduct.STOPS)
    if conduct in (Conduct.MIDSTREAM, Conduct.STOPS):
        return kind in STREAMS
    return conduct not in (Conduct.UNSENT, Conduct.HALF_SENT) or kind not in (Kind.TAGS, Kind.MODELS)


def _arm(dice: random.Random, shot: Shot) -> None:
    """Give the node's side of `shot` its fault, or none."""
    strike = dice.choice([Fault.CLOSE, Fault.CLOSE, Fault.RESET, Fault.RESET, Fault.HANG])
    draw = dice.random()
    if draw < 0.4:
        shot.cue = Answer(cuts=sorted(dice.sample(range(400), dice.randint(0, 6))))
    elif draw < 0.5:
        status = dice.choice([400, 404, 500, 503, 307])
        shot.cue = Answer(status=status, error="not so", headers=[("Location", "/api/version")])
    elif draw < 0.62:
        shot.cue = Answer(fault=strike, after_head=dice.randint(0, 70))
    elif shot.kind is Kind.UPLOAD:
        shot.cue, shot.takes = Answer(fault=strike), dice.randint(0, len(asks(shot)) - 1)
    elif draw < 0.8:
        # a document that is whole leaves its connection in the pool, where a strike would hit somebody else
        size = len(b"".join(says(shot))) + (9 if shot.kind in STREAMS else -1)
        shot.cue = Answer(fault=strike, after_body=dice.choice([0, size, dice.randint(0, size)]))
    elif shot.kind in LINES:
        _spoil(dice, shot)
    elif dice.random() < 0.3:
        shot.bad = 0
    else:
        shot.cue = Answer(length_off=dice.choice([-8, -1, 1, 100]))


def _spoil(dice: random.Random, shot: Shot) -> None:
    place = dice.randint(0, shot.lines)
    match dice.choice([Fault.ERROR_LINE, Fault.BAD_JSON, Fault.NO_DONE]):
        case Fault.ERROR_LINE:
            shot.cue = Answer(fault=Fault.ERROR_LINE, after_lines=place, error="the runner died")
        case Fault.BAD_JSON:
            shot.bad = place
        case _:
            shot.cue = Answer(fault=Fault.NO_DONE)
