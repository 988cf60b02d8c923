"""`POST /completions`: the older dialect of plain texts, on `/api/generate`.

Every choice of every prompt is an answer of its own from the node, one after another; a request may have MAX_CHOICES of
them. The model's template is used, as Ollama's own layer does. A model that thinks is asked not to: there is no place
for it in these answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import orjson

from parallama.errors import ApiError
from parallama.gateway.api import Codec, Head, Inbound, Outbound
from parallama.gateway.fields import Fields, read_body
from parallama.gateway.generation import Generation, Said
from parallama.gateway.sse import COMMENT, JSON, SSE
from parallama_openai.answers import told_usage
from parallama_openai.errors import error_event
from parallama_openai.parameters import MAX_CHOICES, end_user, options, output_limit, think

_IGNORED = ("logit_bias", "user")
_MAX_LOGPROBS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request, understood."""

    outbounds: Sequence[Outbound]
    """One for each choice, in the order of their indexes: those of the first prompt first."""
    echoes: Sequence[str]
    """What each choice begins with: its prompt, or nothing."""
    streams: bool
    tells_usage: bool
    """At the end of a stream; a document always does."""
    logprobs: int | None
    """Alternatives that are told for each token; None: nothing is."""
    ignored: Sequence[str]
    end_user: str | None


def open_completion(inbound: Inbound) -> Codec:
    """The codec of a request to complete. Raises BadRequest."""
    return Completion(inbound, understand(inbound))


def understand(inbound: Inbound) -> Question:
    """The question in a request. Raises BadRequest."""
    given = read_body(inbound.raw)
    name, prompts, echo = given.model(inbound), _prompts(given), given.boolean("echo")
    choices, logprobs = _choices(given, len(prompts)), given.integer("logprobs", least=0, most=_MAX_LOGPROBS)
    if echo and logprobs is not None:
        given.refuse("logprobs", "a node does not tell those of a prompt; leave out logprobs or echo")
    streams = given.boolean("stream") or False
    stream_options = given.object("stream_options") if streams else None
    shared = _shared(given, inbound, name, logprobs)
    asked = [(prompt, {"model": name, "prompt": prompt, **shared}) for prompt in prompts]
    return Question(
        outbounds=[_outbound(name, body, number) for _prompt, body in asked for number in range(choices)],
        echoes=[prompt if echo else "" for prompt, _body in asked for _number in range(choices)],
        streams=streams,
        tells_usage=bool(stream_options and stream_options.boolean("include_usage")),
        logprobs=logprobs,
        ignored=[name for name in _IGNORED if name in given],
        end_user=end_user(given),
    )


def _prompts(given: Fields) -> list[str]:
    value = given.any("prompt", required=True)
    if isinstance(value, list) and value and isinstance(value[0], int | float | list):
        given.refuse("prompt", "arrays of tokens are not supported; send texts")
    prompts = given.strings("prompt") or []
    if not prompts or not all(prompts):  # to a node, an empty prompt is an order to load the model
        given.refuse("prompt", "it must be a text, or an array of texts, and none may be empty")
    if len(prompts) > MAX_CHOICES:
        given.refuse("prompt", f"{len(prompts)} prompts are too many; one request may hold {MAX_CHOICES}")
    return prompts


def _choices(given: Fields, prompts: int) -> int:
    """Answers to each prompt."""
    choices = given.integer("n", least=1) or 1
    if choices * prompts > MAX_CHOICES:
        given.refuse("n", f"{choices} choices of {prompts} prompts are too many; {MAX_CHOICES} may come of one request")
    if (given.integer("best_of", least=1) or choices) != choices:
        given.refuse("best_of", "answers are not compared here; it must be as large as n")
    return choices


def _shared(given: Fields, inbound: Inbound, name: str, logprobs: int | None) -> dict[str, Any]:
    """What the bodies of all outbounds say alike."""
    limit = output_limit(given, "max_tokens")
    found = {
        "suffix": given.string("suffix") or None,
        "think": think("none", inbound, name),
        "logprobs": None if logprobs is None else True,
        "top_logprobs": logprobs or None,
        "options": {**options(given), **({"num_predict": limit} if limit else {})} or None,
    }
    return {"stream": True, **{key: value for key, value in found.items() if value is not None}}


def _outbound(name: str, body: dict[str, Any], number: int) -> Outbound:
    """For the choice of that number of its prompt: with one seed for all they would be the same."""
    seed = body.get("options", {}).get("seed")
    if number and seed is not None:
        body = {**body, "options": {**body["options"], "seed": seed + number}}
    return Outbound(method="POST", path="/api/generate", model=name, body=body)


class Completion(Generation):
    """A text completion, or its chunks: texts, a last one with `finish_reason` for each choice, usage, `[DONE]`."""

    heartbeat = COMMENT

    def __init__(self, inbound: Inbound, question: Question) -> None:
        super().__init__(inbound, *question.outbounds, streams=question.streams)
        self.reply = SSE if question.streams else JSON
        self.ignored, self.end_user = question.ignored, question.end_user
        self._question = question
        self._told = {
            "id": f"cmpl-{inbound.id}",
            "object": "text_completion",
            "created": inbound.at,
            "model": question.outbounds[0].model,
        }
        self._chunk = b"data: " + orjson.dumps(self._told)[:-1] + b',"choices":['
        self._end = b'],"usage":null}\n\n' if question.tells_usage else b"]}\n\n"
        self._tail = b""
        self._echo = ""
        self._offset = 0

    def begin(self, head: Head) -> Head:
        """As Generation, for the next choice."""
        super().begin(head)
        self._echo, self._offset = self._question.echoes[self.number], 0
        self._tail = b',"index":%d,"logprobs":null,"finish_reason":null}' % self.number + self._end
        return self.reply

    def wrote(self, text: str, logprobs: list[Any] | None) -> bytes:
        """A chunk, the first one of a choice with its echo."""
        if self._question.logprobs is not None:
            return self._wrote_tokens(text, logprobs or [])
        if not text:
            return b""
        text, self._echo = self._echo + text, ""
        return b'%b{"text":%b%b' % (self._chunk, orjson.dumps(text), self._tail)

    def ended(self, said: Said) -> bytes:
        """The last chunk of a choice: why it ended."""
        return self._chunk + orjson.dumps(_choice(self._echo, self.number, None, said.reason)) + self._end

    def closed(self) -> bytes:
        """The usage, if it is wanted, and the end."""
        usage = b'%b],"usage":%b}\n\n' % (self._chunk, orjson.dumps(told_usage(self.usage)))
        return (usage if self._question.tells_usage else b"") + b"data: [DONE]\n\n"

    def document(self) -> bytes:
        """All choices in one."""
        choices = [self._whole(number, said) for number, said in enumerate(self.said)]
        return orjson.dumps({**self._told, "choices": choices, "usage": told_usage(self.usage)})

    def fail(self, error: ApiError) -> bytes:
        """An event with the error."""
        return error_event(error) if super().fail(error) else b""

    def _wrote_tokens(self, text: str, logprobs: list[Any]) -> bytes:
        told = self._logprobs(logprobs, self._offset)
        self._offset += sum(map(len, told["tokens"]))
        return self._chunk + orjson.dumps(_choice(text, self.number, told, None)) + self._end

    def _whole(self, number: int, said: Said) -> dict[str, Any]:
        told = None if self._question.logprobs is None else self._logprobs(said.logprobs)
        return _choice(self._question.echoes[number] + said.text, number, told, said.reason)

    def _logprobs(self, entries: Sequence[Any], offset: int = 0) -> dict[str, Any]:
        """The lists that OpenAI has for log probabilities; `offset`: characters of the answer before them."""
        known = [entry for entry in entries if isinstance(entry, dict)]
        tokens = [_token(entry) for entry in known]
        return {
            "tokens": tokens,
            "token_logprobs": [_logprob(entry) for entry in known],
            "top_logprobs": [_alternatives(entry) for entry in known] if self._question.logprobs else None,
            "text_offset": list(accumulate(map(len, tokens), initial=offset))[:-1],
        }


def _choice(text: str, index: int, logprobs: Any, reason: str | None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason}


def _alternatives(entry: dict[str, Any]) -> dict[str, float | None]:
    """The most likely tokens, each with its log probability."""
    found = entry.get("top_logprobs")
    entries = found if isinstance(found, list) else []
    return {_token(item): _logprob(item) for item in entries if isinstance(item, dict)}


def _token(entry: dict[str, Any]) -> str:
    return str(entry.get("token") or "")


def _logprob(entry: dict[str, Any]) -> float | None:
    found = entry.get("logprob")
    return found if type(found) in (float, int) else None
