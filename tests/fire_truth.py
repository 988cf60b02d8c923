"""What must come of a shot: the rows that are right, each with what the client may have seen with it.

`legal` lists them from what the node and the client do. More than one is right only where bytes can be lost (a reset)
or where it is a race who is first.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from fire import BULK, LINES, SIMPLE, STREAMS, Conduct, Ending, Kind, Shot, says

from parallama.testing import Fault

ERRORS = {400: "bad_request", 404: "model_not_found", 500: "upstream_failed", 503: "upstream_failed"}
"""What the simplified dialect makes of a node's status."""
FREE = (Kind.TAGS, Kind.MODELS, Kind.UPLOAD)
"""Those that cost no tokens."""
MOST_OUTPUT = 4096
"""Tokens at which an estimate by time ends: `limits.max_output_tokens`, as no client here asks for a number of them."""

Sight = tuple[int, Ending]
"""The status and what has come of the body."""


class Anything:
    """A container that has everything."""

    def __contains__(self, _: object) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Tokens:
    """Which counts are right in a row."""

    prompt: Container[int | None]
    output: Container[int | None]
    estimated: Container[bool]


NO_TOKENS = Tokens((None,), (None,), (False,))


@dataclass(frozen=True, slots=True)
class Verdict:
    """A row that is right, and what the client has seen then."""

    status: int
    outcome: str
    error: str | None
    tokens: Tokens
    seen: Container[Sight]

    def fits(self, row: Mapping[str, Any], sight: Sight | None) -> bool:
        """`sight` None: the client did not look."""
        tokens = self.tokens
        return (
            (row["status"], row["outcome"], row["error"]) == (self.status, self.outcome, self.error)
            and row["prompt_tokens"] in tokens.prompt
            and row["output_tokens"] in tokens.output
            and row["estimated"] in tokens.estimated
            and (sight is None or sight in self.seen)
        )


def legal(shot: Shot) -> list[Verdict]:
    """Every way in which `shot` may end."""
    match shot.conduct:
        case Conduct.READS | Conduct.PAUSES:
            return _node_ends(shot)
        case Conduct.ANYTIME:
            tokens = (NO_TOKENS, _partial(shot, (None, *range(1, _most_told(shot) + 1)), cut=True), _counted(shot))
            return [*_node_ends(shot), *map(_cancelled, tokens)]
        case Conduct.MIDSTREAM:
            return [_cancelled(_partial(shot, (shot.lines,)))]
        case Conduct.STOPS:
            return [_cancelled(_partial(shot, range(1, BULK // 4 + 1)), "client_stalled")]
        case Conduct.UNANSWERED:
            return [_cancelled(_partial(shot, (None,), cut=True))]
        case _:
            return [_cancelled(NO_TOKENS)]


def _most_told(shot: Shot) -> int:
    """Tokens of all that the node says of a stream; a last line that is no JSON is taken for text."""
    spoilt = shot.bad is not None and shot.bad == shot.lines and shot.kind in STREAMS
    return shot.lines + (len(says(shot)[shot.lines]) // 4 if spoilt else 0)


def _cancelled(tokens: Tokens, error: str = "client_left") -> Verdict:
    return Verdict(499, "cancelled", error, tokens, Anything())


def _node_ends(shot: Shot) -> list[Verdict]:
    cue, kind = shot.cue, shot.kind
    if cue.error is not None and cue.fault is None:
        return [_refused(shot)]
    if cue.fault in (Fault.CLOSE, Fault.RESET, Fault.HANG):
        return _struck(shot)
    if cue.fault is Fault.ERROR_LINE:
        return [_broken(shot, cue.after_lines)]
    if cue.fault is Fault.NO_DONE:
        return [_broken(shot, shot.lines)]
    if shot.bad is not None:
        return _spoilt(shot, shot.bad)
    if cue.length_off > 0 and kind not in LINES:
        return [_failed(502, _partial(shot, (None,)), (502, Ending.WHOLE))]
    if cue.length_off < 0 and kind not in LINES:
        return [_cut_short(shot)]
    return [_ok(shot)]


def _ok(shot: Shot) -> Verdict:
    status = 201 if shot.kind is Kind.UPLOAD else 200
    return Verdict(status, "ok", None, _counted(shot), [(status, Ending.WHOLE)])


def _counted(shot: Shot) -> Tokens:
    """As the node tells them."""
    if shot.kind in FREE:
        return NO_TOKENS
    prompt, output = shot.counts
    return Tokens((prompt,), (output if shot.kind in LINES or shot.kind is Kind.UNARY else None,), (False,))


def _failed(status: int, tokens: Tokens, *seen: Sight) -> Verdict:
    return Verdict(status, "failed", "timed_out" if status == 504 else "upstream_failed", tokens, seen)


def _partial(shot: Shot, output: Container[int | None], *, cut: bool = False) -> Tokens:
    """The prompt is estimated; `output` is what the node had said, where it said it line by line. Of a document that
    was `cut` off, by the client or a timeout, it is estimated by its time, once the speed of the model is known."""
    if shot.kind in FREE:
        return NO_TOKENS
    by_time = (None, *range(MOST_OUTPUT + 1)) if cut and shot.kind is Kind.UNARY else (None,)
    return Tokens((_prompt_estimate(shot),), output if shot.kind in LINES else by_time, (True,))


def _prompt_estimate(shot: Shot) -> int:
    """A token for four bytes, those of the role among them."""
    role = "" if shot.kind in (Kind.GENERATE, Kind.EMBED, Kind.BULK) else "user"
    return len(f"{role}{shot.number} is the number") // 4


def _refused(shot: Shot) -> Verdict:
    """The node's own status and words."""
    status = shot.cue.status
    if status < 400:
        return _failed(502, NO_TOKENS, (502, Ending.WHOLE))
    outcome = "refused" if status < 500 else "failed"
    error = ERRORS[status] if shot.kind in SIMPLE else "node_error"
    return Verdict(status, outcome, error, NO_TOKENS, [(status, Ending.WHOLE)])


def _broken(shot: Shot, lines: int, status: int = 502, *, begun: bool | None = None) -> Verdict:
    """The stream ended badly after `lines` whole ones. `begun`: bytes of it have gone to the client."""
    if begun is None:  # a native stream passes the line with the error on
        begun = lines > 0 or shot.kind not in SIMPLE
    told = shot.kind in STREAMS and begun
    tokens = _partial(shot, (lines or None,))
    return _failed(status, tokens, (200, Ending.ERROR_LINE) if told else (status, Ending.WHOLE))


def _spoilt(shot: Shot, bad: int) -> list[Verdict]:
    """A line, or the document, is no JSON; of a stream the native gateway looks only at the last line."""
    if shot.kind in SIMPLE:
        # the lines before it may be in the same read, and then it is the first that the client could get
        return [_broken(shot, bad, begun=begun) for begun in (True, False)]
    if shot.kind in STREAMS and bad == shot.lines:
        return [_failed(502, _partial(shot, range(bad, bad + len(says(shot)[bad]) // 4 + 1)), (200, Ending.ERROR_LINE))]
    if shot.kind in STREAMS or shot.kind in FREE:
        return [_ok(shot)]
    return [_no_answer(shot)]


def _cut_short(shot: Shot) -> Verdict:
    """More bytes than the head said: the answer ends where it said, and that is no JSON."""
    if shot.kind in SIMPLE:
        return _failed(502, NO_TOKENS, (502, Ending.WHOLE))
    if shot.kind is Kind.UPLOAD:
        return _ok(shot)
    return Verdict(200, "ok", None, NO_TOKENS, [(200, Ending.CUT)]) if shot.kind in FREE else _no_answer(shot)


def _no_answer(shot: Shot) -> Verdict:
    """A document with the status of an answer that is no JSON."""
    return _failed(502, _partial(shot, (None,)), (502, Ending.WHOLE))


def _struck(shot: Shot) -> list[Verdict]:
    """The node closes, resets or hangs."""
    cue, status = shot.cue, 504 if shot.cue.fault is Fault.HANG else 502
    if cue.after_body is None:
        unread = [(0, Ending.BROKEN)] if shot.takes is not None else []
        tokens = _partial(shot, (None,), cut=True) if cue.fault is Fault.HANG else NO_TOKENS
        return [_failed(status, tokens, (status, Ending.WHOLE), *unread)]
    reached = _reached(shot, cue.after_body, status)
    if cue.fault is not Fault.RESET:
        return [reached]
    lost = _partial(shot, (None, *range(1, shot.lines + 1)))
    seen = [(502, Ending.WHOLE), (200, Ending.ERROR_LINE)]
    return [reached, *(_failed(502, tokens, *seen) for tokens in (NO_TOKENS, lost))]


def _reached(shot: Shot, at: int, status: int) -> Verdict:
    """What `at` bytes of the body are worth."""
    if shot.kind not in LINES:
        return _failed(status, _partial(shot, (None,), cut=status == 504), (status, Ending.WHOLE))
    lines = says(shot)
    if at >= sum(map(len, lines)) - (shot.kind not in SIMPLE):  # to the native codecs the last newline is none of it
        return _ok(shot)
    whole = min(at // len(lines[0]), shot.lines)
    return _broken(shot, whole, status, begun=whole > 0 if shot.kind in SIMPLE else at > 0)
