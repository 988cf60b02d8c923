"""One answer of a node as `check_codec` looks at it: what came of it whole, and what every other way must agree with.

A broken promise is an AssertionError that shows a few bytes at most: pytest would print the values of a plain assert.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from parallama.exchange import Usage
from parallama.gateway.api import Codec
from parallama.testing.playing import Played, Playing, difference
from parallama.testing.transcripts import Transcript

SMALL = 1024
"""Bytes up to which a body is cut, truncated and broken at every place."""
SAMPLED = 300
"""About the number of places at which a larger one is."""
_SHOWN = 48
"""Characters of a value in a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A factory of codecs, an answer, and how a client reads what comes of it."""

    make: Callable[[], Codec]
    transcript: Transcript
    read: Callable[[bytes], list[Any]]
    is_error: Callable[[Any], bool]
    usage: Usage | None
    """What the codec must count; None: the node counted nothing."""
    whole: Played
    seed: int

    @property
    def body(self) -> bytes:
        return self.transcript.body

    @property
    def judged(self) -> bool:
        """Whether the answer has content: one with an error status is told by its status."""
        return self.transcript.head.status < 400

    def begun(self, size: int = 0) -> Playing:
        """A fresh codec that has had so many bytes."""
        playing = Playing(self.make(), self.transcript.head)
        playing.feed([self.body[:size]] if size else [])
        return playing

    def ended(self, playing: Playing) -> Played:
        """What comes of it when the answer ends as the transcript does."""
        return playing.end(complete=self.transcript.complete)

    def told(self, out: bytes) -> tuple[list[Any], bool]:
        """The events before the error at the end, and whether there is one. No client may get two, or one midway."""
        try:
            events = self.read(out)
        except ValueError as error:
            raise AssertionError(f"no client can read it: {type(error).__name__}: {shown(str(error))}") from error
        errors = [number for number, event in enumerate(events) if self.is_error(event)]
        promise(len(errors) < 2, f"{len(errors)} errors are told")
        promise(not errors or errors[0] == len(events) - 1, "the answer goes on after its error")
        return events[: errors[0]] if errors else events, bool(errors)

    def told_first(self, out: bytes) -> bool:
        """Whether `out` tells how it ended: with an error, or as the whole answer does.

        What goes before must be the first events of the whole answer.
        """
        whole, failed = self.told(self.whole.out)
        events, told = self.told(out)
        for number, event in enumerate(events):
            expected = whole[number] if number < len(whole) else None
            promise(event == expected, f"event {number} is {shown(event)}, in the whole answer {shown(expected)}")
        return told or (events == whole and not failed)

    def same(self, played: Played) -> None:
        """Nothing depends on the cut; only an error that `feed` raises may take more or less with it."""
        whole = self.whole
        for name in ("head", "streams", "error", "failed"):
            equal(name, getattr(played, name), getattr(whole, name))
        if whole.lost:
            promise(not whole.streams or self.told_first(played.out), "no error is told")
            return
        if played.out != whole.out:
            raise AssertionError(difference(played.out, whole.out))
        equal("usage", played.usage, whole.usage)
        equal("context_full", played.context_full, whole.context_full)

    def points(self) -> Sequence[int]:
        """Sizes to which the body is shortened: all, or those around the ends of lines and some more."""
        size = len(self.body)
        if size <= SMALL:
            return range(size)
        dice = random.Random(self.seed)  # noqa: S311
        ends = [at for at, byte in enumerate(self.body) if byte == 0x0A]
        ends = dice.sample(ends, min(len(ends), SAMPLED // 6))
        near = {at + off for at in ends for off in (0, 1, 2)}
        return sorted({0, size - 1, *dice.sample(range(size), SAMPLED // 2), *(at for at in near if at < size)})


def shown(value: Any) -> str:
    """The beginning of `value`."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def equal(name: str, got: Any, expected: Any) -> None:
    """Raises AssertionError for two values that differ."""
    if got != expected:
        raise AssertionError(f"{name} is {shown(got)}, expected {shown(expected)}")


def promise(kept: bool, broken: str) -> None:
    """Raises AssertionError for a promise that was not kept."""
    if not kept:
        raise AssertionError(broken)


@contextmanager
def at(where: str) -> Iterator[None]:
    """Names the place in whatever is raised in the block."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{where}: {error}") from error
    except Exception as error:
        error.add_note(f"check_codec: {where}")
        raise
