"""`check_codec` proves what the relay relies on: a codec gives the same for every cut and never ends in silence.

It plays one answer of a node (parallama.testing.playing) whole, cut, truncated and broken, and reads what the client
got. Every failure says where, so that it can be played again alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from parallama.exchange import Usage
from parallama.gateway.api import Codec
from parallama.simulated.recordings import Recording, cut_at
from parallama.testing.case import SMALL, Case, at, equal, promise, shown
from parallama.testing.playing import Playing, ears, play
from parallama.testing.transcripts import Transcript, read_document, read_lines


def check_codec(
    make: Callable[[], Codec],
    transcript: Transcript | Recording,
    *,
    read: Callable[[bytes], list[Any]] | None = None,
    is_error: Callable[[Any], bool] | None = None,
    usage: Usage | None = None,
    cuts: int = 200,
    seed: int = 0,
) -> None:
    """Plays a node's answer through fresh codecs in every way a network can deliver it; docs/testing.md lists them.

    `make`: a new codec for the same request, with one outbound. `read`: the client's bytes as a list of events, raises
    ValueError for what no client could read; without it NDJSON lines of a stream, the JSON of a document. `is_error`:
    whether an event tells an error; without it an object with the key `error`. `usage`: what the codec must count, if
    not what the transcript's last message says. `cuts`: random ones, made by `seed`.

    Raises AssertionError for a broken promise; other exceptions of the codec pass with a note that says where.
    """
    answer = Transcript.of(transcript) if isinstance(transcript, Recording) else transcript
    case = _case(make, answer, read, is_error or _has_error, usage or answer.usage(), seed)
    _check_whole(case)
    _check_cuts(case, cuts)
    _check_independence(case)
    _check_silence(case)
    _check_usage(case)
    if case.judged:
        _check_truncation(case)
        _check_failure(case)
        _check_after_the_end(case)


def _has_error(event: Any) -> bool:
    return isinstance(event, dict) and "error" in event


def _case(
    make: Callable[[], Codec],
    transcript: Transcript,
    read: Callable[[bytes], list[Any]] | None,
    is_error: Callable[[Any], bool],
    usage: Usage | None,
    seed: int,
) -> Case:
    body = transcript.body
    with at("the whole answer"):
        whole = play(make(), transcript, [body] if body else [])
        if whole.lost:  # what feed raises takes its chunk's output along, so byte by byte tells most
            whole = play(make(), transcript, cut_at(body, range(len(body))))
    return Case(
        make=make,
        transcript=transcript,
        read=read or (read_lines if whole.streams else read_document),
        is_error=is_error,
        usage=usage,
        whole=whole,
        seed=seed,
    )


def _check_whole(case: Case) -> None:
    """The client can read the answer, and is told of an error if and only if the accounts are."""
    whole = case.whole
    if not case.judged or not (whole.streams or whole.out):
        return
    with at("the whole answer"):
        if whole.streams:
            # what breaks off after its last line lacks nothing
            over = whole.usage.final and not (whole.error and case.transcript.complete)
            broken = (whole.error or whole.failed) is not None and not over
            equal("whether an error is told", case.told(whole.out)[1], broken)
        elif whole.error is None:
            case.told(whole.out)


def _check_cuts(case: Case, rounds: int) -> None:
    for where, places in _cuts(case.body, rounds, case.seed):
        with at(where):
            case.same(play(case.make(), case.transcript, cut_at(case.body, places)))


def _cuts(body: bytes, rounds: int, seed: int) -> Iterator[tuple[str, Sequence[int]]]:
    """What to call a cut, and its places."""
    for place in range(1, len(body)) if len(body) <= SMALL else ():
        yield f"cut at {place}", [place]
    yield "cut at each byte", range(len(body))
    yield "cut inside every character", [place for place, byte in enumerate(body) if byte & 0xC0 == 0x80]
    dice = random.Random(seed)  # noqa: S311
    for number in range(rounds if len(body) > 1 else 0):
        places = sorted(dice.sample(range(1, len(body)), dice.randint(1, min(len(body) - 1, 40))))
        yield f"cut at {', '.join(map(str, places))} (round {number}, seed {seed})", places


def _check_independence(case: Case) -> None:
    """Two codecs of one factory know nothing of each other, whoever comes first."""
    body, half = case.body, len(case.body) // 2
    with at("two codecs at a time"):
        first = case.begun(half)
        case.same(case.ended(case.begun(len(body))))
        first.feed([body[half:]] if body else [])
        case.same(case.ended(first))
        pair = [case.begun(), case.begun()]
        for piece in cut_at(body, range(0, len(body), 7)):
            for playing in pair:
                playing.feed([piece])
        for playing in pair:
            case.same(case.ended(playing))


def _check_silence(case: Case) -> None:
    pieces = cut_at(case.body, range(0, len(case.body), 64))
    with at("listening"):
        with ears() as heard:
            play(case.make(), case.transcript, pieces)
        promise(not heard, f"the codec does I/O: {', '.join(sorted(set(heard)))}")


def _check_usage(case: Case) -> None:
    """An estimate that never falls until it is the node's own count."""
    playing, seen = case.begun(), Usage()
    size, step = len(case.body), 1 + len(case.body) // 8192
    for start in range(0, size, step):
        with at(f"usage after {min(start + step, size)} of {size} bytes"):
            playing.feed([case.body[start : start + step]])
            seen = _risen(case, playing.codec.usage, seen)
    with at("usage at the end"):
        ended = case.ended(playing)
        _risen(case, ended.usage, seen)
        if not case.judged:
            equal("usage", ended.usage, Usage())
        elif case.usage and case.whole.error is None:
            equal("usage", ended.usage, case.usage)
        case.same(ended)


def _risen(case: Case, now: Usage, before: Usage) -> Usage:
    """A copy of `now`, which is the node's own counts, or an estimate that has not fallen."""
    if now.final:
        promise(case.usage is not None or case.transcript.complete, "it is final, but the node never came to its end")
        equal("final usage", now, case.usage or Usage(final=True))
        return replace(now)
    promise(not before.final, "it was final and is not any more")
    for name in ("prompt_tokens", "output_tokens"):
        was, is_now = getattr(before, name) or 0, getattr(now, name) or 0
        promise(was <= is_now, f"the estimate of {name} falls from {was} to {is_now}")
    return replace(now)


def _check_truncation(case: Case) -> None:
    """A clean end that comes too early is an error, unless it takes nothing from the client."""
    for size in case.points():
        with at(f"ended after {size} of {len(case.body)} bytes (seed {case.seed})"):
            ended = case.begun(size).end(complete=True)
            if ended.streams:
                promise(case.told_first(ended.out), "it ends as if it were complete")
            elif ended.error is None and ended.failed is None:
                promise(_visible(case, ended.out), "half a document can be read as a whole one")


def _visible(case: Case, out: bytes) -> bool:
    """Whether a client sees that this is no document, or misses nothing in it."""
    try:
        events = case.read(out)
    except ValueError:
        return True
    with suppress(ValueError):
        return events == case.read(case.whole.out)
    return False


def _check_failure(case: Case) -> None:
    """A broken stream tells one error behind what went before; one that was complete is left alone."""
    for size in [*case.points(), len(case.body)]:
        with at(f"failed after {size} of {len(case.body)} bytes (seed {case.seed})"):
            playing = case.begun(size)
            before = len(playing.out)
            if playing.error is None:
                playing.fail()
            if not playing.codec.streams:
                continue
            if size and bytes(playing.out[:before]) == case.whole.out:
                _adds_nothing(playing, before)
            else:
                promise(case.told_first(bytes(playing.out)), "no error is told")


def _check_after_the_end(case: Case) -> None:
    if case.whole.streams and case.whole.error is None:
        with at("failed after the end"):
            playing = case.begun(len(case.body))
            case.ended(playing)
            before = len(playing.out)
            playing.fail()
            _adds_nothing(playing, before)


def _adds_nothing(playing: Playing, before: int) -> None:
    promise(len(playing.out) == before, f"{shown(bytes(playing.out[before:]))} follows a complete answer")
