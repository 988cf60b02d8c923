"""What a request can cost at most, and the request as a node must get it so that it costs no more. Pure.

Both are read from the outbounds, once aliases are resolved: `bound` before a reservation, `bounded` with what it has
granted. They go by what Ollama makes of a native body; who may spend how much is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from parallama.gateway.api import Outbound, Use
from parallama.gateway.described import MESSAGE_TOKENS, Model
from parallama.ledger.prompts import (
    IMAGE_TOKENS,
    PROMPT,
    capped,
    context_of,
    prompt_of,
    readable,
    text_of,
    whole,
)
from parallama.ledger.store import Cost, Share, make_cost, make_share
from parallama.limits import Limit, Meter

DEFAULT_OUTPUT = 4096
"""Tokens that one answer may have under a limit that does not say."""
UNBOUNDED = 1 << 40
"""Tokens of a request that nothing can hold: more than any limit has, so that whoever has one cannot send it."""

_OPTIONS = b',"options":'
_COUNT_OUTPUT = (Meter.OUTPUT_TOKENS, Meter.TOTAL_TOKENS)
_WITHOUT_TOKENS = (Use.LIST, Use.SHOW, Use.MANAGE)


def most_output(limits: Iterable[Limit], default: int = DEFAULT_OUTPUT) -> int | None:
    """Tokens that one answer may have under `limits`; None: none of them counts output, so nothing is to be imposed."""
    counting = [limit.max_output_tokens for limit in limits if limit.scope.meter in _COUNT_OUTPUT]
    return min((default if most is None else most for most in counting), default=None)


def bound(
    outbounds: Sequence[Outbound],
    use: Use,
    model: Model,
    most: int | None = None,
    image_tokens: int = IMAGE_TOKENS,
    weight: float = 1.0,
) -> Cost:
    """What all of `outbounds` together can cost, all of them of `model`.

    `most` is what `most_output` says; with None no limit asks for the output, which is then DEFAULT_OUTPUT at most
    though nothing holds the node to it. A request that needs no tokens costs none; one that could not be held to any
    bound costs UNBOUNDED.
    """
    if len(outbounds) == 1 and (messages := text_of(outbounds[0])):
        return _of_text(outbounds[0], len(messages), model, most or DEFAULT_OUTPUT, weight)
    prompt = estimate = output = least = 0
    shares = []
    for outbound in outbounds:
        share, body = _NO_OUTPUT, readable(outbound)
        if body is None:
            if _may_generate(outbound, use):
                return _unbounded(weight)
        elif body.get(PROMPT[outbound.path]):
            context = context_of(body, model)
            written, size = _written(outbound.body or {})
            share = _share(outbound.path, body, model, context, most or DEFAULT_OUTPUT, written)
            one, probable = prompt_of(outbound, body, model, context, image_tokens, written, size)
            prompt, estimate = prompt + one, estimate + probable
            if share.runs > 1:  # the second reads the same, and what was thought in the first
                prompt += capped(one + share.output + MESSAGE_TOKENS, context)
                estimate += probable
            output += share.runs * share.output
            least += share.runs
        shares.append(share)
    return Cost(prompt, estimate, output, least, weight, shares)


def _of_text(outbound: Outbound, messages: int, model: Model, most: int, weight: float) -> Cost:
    """Of a single chat of text alone: the same as of any other, in a third of the time."""
    body = outbound.body or {}
    context, own, asked = model.longest_context, model.own_output, None
    written, size = _written(body)
    if options := body.get("options"):
        if "num_ctx" in options:
            context = context_of(body, model)
        if (given := options.get("num_predict")) is not None:
            own = asked = _asked(given, context)
    size += model.own_bytes
    prompt, estimate = size + MESSAGE_TOKENS * messages, size // 3
    if context is not None:
        prompt, estimate, most = capped(prompt, context), capped(estimate, context), min(most, 10 * context)
    output = most if own is None else min(own, most)
    return make_cost((prompt, estimate, output, 1, weight, (make_share((1, output, asked, written)),)))


def readable_prompt(tokens: int, outbounds: Sequence[Outbound], use: Use, model: Model) -> int:
    """Of the estimated `tokens` of the prompts of `outbounds`, all of `model`, those that a node can read: it cuts off
    what its context does not hold."""
    return min(tokens, bound(outbounds, use, model).prompt)


def _unbounded(weight: float) -> Cost:
    tokens = UNBOUNDED
    return Cost(tokens, tokens, tokens, tokens, weight)


def _may_generate(outbound: Outbound, use: Use) -> bool:
    """Whether a node may spend tokens on a request that is not understood here."""
    if outbound.path in PROMPT:
        return True
    plain = use in _WITHOUT_TOKENS or outbound.method in ("GET", "HEAD")
    return not plain and not outbound.path.startswith("/api/experimental/")


def likely_output(outbounds: Sequence[Outbound], model: Model, otherwise: int) -> int:
    """Tokens that the answers have together at most, as far as anybody has said: those that each client asks for, else
    `otherwise`, or less where the model has less. Nothing holds the node to it."""
    shares = [_share_of(outbound, model) for outbound in outbounds]
    tokens = (share.runs * (share.asked or min(share.output, otherwise)) for share in shares)
    return sum(tokens) or otherwise


def bounded(outbounds: Sequence[Outbound], bound: Cost, output: int) -> Sequence[Outbound]:
    """`outbounds` with `options.num_predict` such that their answers have at most `output` tokens together.

    `bound` is theirs; `output` is granted of it: at least its `least_output`, at most its `output`. It is split as
    evenly as what each asks for allows. An outbound whose client asked for no more than its share stays the very same,
    bytes included, and so does the sequence if all do. Raises ValueError for less than a token an answer.
    """
    shares = bound.shares if output == bound.output else _split(bound, output)
    sent: list[Outbound] | None = None
    for number, (runs, tokens, asked, written) in enumerate(shares):
        if runs and (asked is None or asked > tokens):
            sent = sent or [*outbounds]
            sent[number] = _with_bound(sent[number], tokens, written)
    return outbounds if sent is None else sent


def _split(bound: Cost, output: int) -> Sequence[Share]:
    """The shares of less than was asked for."""
    left, runs = output, bound.least_output
    if left < runs:
        raise ValueError(f"{output} tokens are too few for {runs} answers")
    shares = [*bound.shares]
    for number, share in sorted(enumerate(bound.shares), key=_output_of):
        if share.runs:
            tokens = min(share.output, left // runs)
            left, runs = left - tokens * share.runs, runs - share.runs
            shares[number] = share._replace(output=tokens)
    return shares


def _output_of(numbered: tuple[int, Share]) -> int:
    return numbered[1].output


def _with_bound(outbound: Outbound, tokens: int, written: bytes) -> Outbound:
    body = {**(outbound.body or {})}
    options = {**(body.pop("options", None) or {}), "num_predict": tokens}
    body["options"] = options  # the last one, as in what is sent
    return outbound.saying(body, b"%b%b%b}" % (written[:-1], _OPTIONS, orjson.dumps(options)))


def _written(body: Mapping[str, Any]) -> tuple[bytes, int]:
    """All of it as JSON but its options, and how many bytes it has with them."""
    if "options" not in body:
        written = orjson.dumps(body)
        return written, len(written)
    rest = {**body}
    options = orjson.dumps(rest.pop("options"))
    written = orjson.dumps(rest)
    return written, len(written) + len(_OPTIONS) + len(options)


_NO_OUTPUT = Share(0, 0, None, b"")


def _share_of(outbound: Outbound, model: Model) -> Share:
    body = readable(outbound)
    if body is None or not body.get(PROMPT[outbound.path]):
        return _NO_OUTPUT
    return _share(outbound.path, body, model, context_of(body, model), UNBOUNDED, b"")


def _share(path: str, body: Mapping[str, Any], model: Model, context: int | None, most: int, written: bytes) -> Share:
    """`most`: tokens that one run may have whatever the client and the model say."""
    if path not in ("/api/chat", "/api/generate"):
        return _NO_OUTPUT
    options = body.get("options")
    given = options.get("num_predict") if options else None
    longest = _longest(context)
    asked, own = None, model.own_output
    if given is not None:
        own = asked = _asked(given, context)
    tokens = min(longest, most) if own is None else min(own, longest, most)
    return make_share((_runs(path, model) if "format" in body else 1, tokens, asked, written))


def _asked(given: Any, context: int | None) -> int | None:
    """What a client's `num_predict` holds an answer to; None: to nothing. 0 is no bound to Ollama, and more than ten
    contexts are ten, as are negative numbers."""
    number = whole(given)
    if not number or number < 0:
        return None
    return min(number, _longest(context))


def _longest(context: int | None) -> int:
    """Tokens of the longest answer that Ollama generates: ten contexts."""
    return UNBOUNDED if context is None else 10 * context


def _runs(path: str, model: Model) -> int:
    """Of a request with a format: 2 where Ollama lets the model think freely, and then asks anew with it
    (server/routes.go, ChatHandler).

    It does so for any format that is there, null and "" too. A model that is not told whether to think does, and some
    do although they are told not to.
    """
    return 2 if path == "/api/chat" and model.may("thinking") else 1
