"""The tokens of an exchange: the node's counts at the end, estimates before that, and whether the context was full."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from parallama.exchange import Usage
from parallama.gateway.api import Codec, Inbound, Outbound


def text_bytes(values: Iterable[Any]) -> int:
    """UTF-8 bytes of all strings in `values` at any depth; images, which are no text, are left out."""
    total, todo = 0, list(values)
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            total += len(value) if value.isascii() else len(value.encode())
        elif isinstance(value, list):
            todo += value
        elif isinstance(value, dict):
            for key, item in value.items():
                if key == "arguments" and isinstance(item, dict):
                    total += len(orjson.dumps(item))
                elif key != "images":
                    todo.append(item)
        elif isinstance(value, orjson.Fragment):
            total += len(orjson.dumps(value))
    return total


_PROMPT = ("prompt", "suffix", "system", "messages", "input")


def prompt_bytes(body: Mapping[str, Any]) -> int:
    """UTF-8 bytes of the prompt in a native body. Templates write tools and the arguments of calls as JSON, so all of
    it counts there."""
    tools = body.get("tools")
    written = len(orjson.dumps(tools)) if tools else 0
    return written + text_bytes(body[key] for key in _PROMPT if key in body)


def prompt_estimate(body: Mapping[str, Any]) -> int:
    """Tokens of the prompt in a native body, for an answer that was cut before the node counted: bytes / 4."""
    return max(1, prompt_bytes(body) // 4)


def message_text(message: Mapping[str, Any]) -> tuple[str, str]:
    """What one message of `/api/generate` or `/api/chat` adds to the answer: text, and thinking."""
    inner = message.get("message")
    if isinstance(inner, dict):
        return _string(inner.get("content")), _string(inner.get("thinking"))
    return _string(message.get("response")), _string(message.get("thinking"))


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _tokens(count: Any) -> int | None:
    return count if type(count) is int and 0 <= count < 2**63 else None


class CountedCodec(Codec):
    """A codec whose tokens the node counts at the end of each answer; cut before that, they are estimated.

    Outbounds with the very same prompt (`messages` or `prompt`, one object) pay for it once.
    """

    _number = 0
    _generating = False
    _before: Usage | None = None

    def __init__(self, inbound: Inbound, *outbounds: Outbound) -> None:
        super().__init__()
        self.outbounds = outbounds
        self._models = inbound.models

    @property
    def number(self) -> int:
        """Which of the outbounds the node is answering, from 0."""
        return self._number

    @property
    def outbound(self) -> Outbound:
        """The one that the node is answering."""
        return self.outbounds[self._number]

    @property
    def usage(self) -> Usage:
        """The node's counts; before they are known estimates, made when asked for."""
        usage = self._usage
        if self._generating and not usage.final:
            if usage.prompt_tokens is None:
                usage.prompt_tokens = 0 if self._asked_before() else prompt_estimate(self.outbound.body or {})
            usage.output_tokens = self.output_estimate()
            if self._before is not None:
                return _sum(self._before, usage)
        elif self._before is not None and usage == Usage():  # the node has refused this one
            return replace(self._before, final=False)
        return usage

    def output_estimate(self) -> int | None:
        """Tokens of the answer under way so far; None: nothing to go by."""
        return None

    def start(self, *, generating: bool, number: int = 0) -> None:
        """A node has begun to answer the outbound of that number; `generating`: it spends tokens on it. Forgets an
        earlier node's answer to the same."""
        if number > self._number:
            self._before = replace(self._usage, final=True)
        elif not number:
            self._before = None
        self._usage, self._generating, self._number = Usage(), generating, number
        if not number:
            self.context = self.context_full = None

    def count(self, prompt: Any, output: Any) -> None:
        """Take the node's counts; whatever is no count is unknown (Ollama leaves a 0 out)."""
        counted = Usage(prompt_tokens=_tokens(prompt), output_tokens=_tokens(output), final=True)
        self.context = self._context()
        full = self._is_full(counted, self.context)
        if self._number:  # full once, or unknown once
            full = True if True in (full, self.context_full) else None if None in (full, self.context_full) else False
        self.context_full = full
        if self._before is not None:
            if self._asked_before():
                counted.prompt_tokens = 0
            counted = _sum(self._before, counted)
        if self._number < len(self.outbounds) - 1:  # counted so far, and more is to come
            counted.final = self._generating = False
        self._usage = counted

    @staticmethod
    def _is_full(usage: Usage, context: int | None) -> bool | None:
        prompt, output = usage.prompt_tokens, usage.output_tokens
        if context is None or prompt is None or output is None:
            return None
        # a single text that is too long is cut in its middle to this length
        return prompt + output >= context or prompt == context // 2 + 3

    def _context(self) -> int | None:
        outbound = self.outbounds[self._number]
        model = outbound.model
        if not model:
            return None
        options = outbound.body.get("options") if outbound.body else None
        asked: Any = options.get("num_ctx") if isinstance(options, dict) else None
        if type(asked) not in (int, float) or asked < 1:
            return self._models.context(model)
        rounded = -(-int(asked) // 256) * 256  # llama-server rounds a slot up
        return min(rounded, self._models.longest_context(model) or rounded)  # and Ollama gives no more

    def _asked_before(self) -> bool:
        if not self._number:
            return False
        last, this = self.outbounds[self._number - 1].body or {}, self.outbound.body or {}
        return all(last.get(key) is this.get(key) for key in ("messages", "prompt"))


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        prompt_tokens=_added(one.prompt_tokens, other.prompt_tokens),
        output_tokens=_added(one.output_tokens, other.output_tokens),
        final=one.final and other.final,
    )


def _added(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else one + other
