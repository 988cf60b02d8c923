"""What a simulated model makes of a request, before a token goes out: words, counts, limits, refusals.

Pure: from the model and the request's fields to a Said. inference.py gives it its pace.
"""

from __future__ import annotations

from typing import Any

from parallama.simulated.go import Fields, Refused, encode
from parallama.simulated.models import Model
from parallama.simulated.text import (
    THOUGHT,
    Said,
    count_tokens,
    cut,
    instance,
    limit_of,
    prose,
    rng,
    tokens_of,
    tool_calls,
)

ANY_JSON = {"properties": {"answer": {"const": "This is a simulated answer."}, "words": {"type": "integer"}}}
"""The schema that stands for `format: "json"`."""


def plan(model: Model, fields: Fields, texts: list[str], tools: list[Any], length: int | None) -> Said:
    """What `model` will say to `texts`, the last of them the prompt. `length` as in `text.prose`.

    Raises Refused for what it cannot do.
    """
    seed = fields.option("seed", int, -1)
    thinks, schema = _thinks(model, fields), _schema(fields.get("format"))
    dice = rng(model.digest, texts, seed)
    said = Said()
    if schema is not None:
        said.content = tokens_of(encode(instance(schema, dice)).decode())
    elif calls := tool_calls(tools, texts[-1], dice):
        said.calls = calls
    else:
        said.content = prose(model.name, repr(texts), seed, length)
    if thinks and schema is None:
        said.thinking = tokens_of(THOUGHT)
    limit = limit_of(fields.option("num_predict", int, -1), context_of(model, fields))
    return cut(said, limit, [str(stop) for stop in fields.option("stop", list, [])])


def prompt_tokens(model: Model, fields: Fields, text: str, more: int) -> int:
    """Counted as a runner counts, `more` for the template, and cut where it cuts a prompt that does not fit.

    Raises Refused for one that does not fit and must not be cut.
    """
    tokens, context = count_tokens(text) + more, context_of(model, fields)
    if tokens <= context:
        return tokens
    if not fields.take("truncate", bool, True):
        raise Refused(400, _too_long(tokens, context))
    return context // 2 + 3


def context_of(model: Model, fields: Fields) -> int:
    """The num_ctx that a request runs with."""
    return min(max(fields.option("num_ctx", int, model.num_ctx), 4), model.context_length)


def inputs(given: Any) -> list[str]:
    """The texts of an embedding request; none: the model is only to be loaded."""
    texts = [given] if isinstance(given, str) else given or []
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refused(400, "invalid input type")
    return [text for text in texts if text or len(texts) > 1]


def _thinks(model: Model, fields: Fields) -> bool:
    think = fields.get("think")
    if isinstance(think, str) and think not in ("low", "medium", "high", "max"):
        raise Refused(400, f'invalid think value: "{think}" (must be "high", "medium", "low", "max", true, or false)')
    if think and "thinking" not in model.capabilities:
        raise Refused(400, f'"{fields["model"]}" does not support thinking')
    return "thinking" in model.capabilities and think is not False


def _schema(wanted: Any) -> dict[str, Any] | None:
    if wanted is None or wanted == "":
        return None
    if wanted == "json":
        return ANY_JSON
    if not isinstance(wanted, dict):
        text = encode(wanted).decode()
        raise Refused(500, f'invalid format: {text}; expected "json" or a valid JSON Schema object')
    return wanted


def _too_long(tokens: int, context: int) -> str:
    message = f"request ({tokens} tokens) exceeds the available context size ({context} tokens), try increasing it"
    kind = "exceed_context_size_error"
    error = {"code": 400, "message": message, "type": kind, "n_prompt_tokens": tokens, "n_ctx": context}
    return encode({"error": error}).decode()
