"""What a codec needs to read a node's NDJSON: whole lines from any cut, counts, and an end that must not be missing.

A dialect subclasses NdjsonCodec and writes one method, `line`: the client's bytes for one message of the node. It
serves one-document answers of the node too, which are one line without its end.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import orjson

from parallama.errors import ApiError, BadRequest, ModelUnknown, UpstreamFailed
from parallama.exchange import Usage
from parallama.gateway.api import Codec, Head, Inbound, Outbound

MAX_LINE = 16 * 1024 * 1024
"""Bytes of one line that are held; Ollama's own client takes 8 MB."""

MAX_ERROR = 64 * 1024
"""Bytes of a node's error answer that are read."""

NDJSON = "application/x-ndjson"

# what Python's str.splitlines, and with it httpx's iter_lines, takes for the end of a line and orjson writes raw
_LINE_ENDS = (
    ("\x85".encode(), rb"\u0085"),
    ("\u2028".encode(), rb"\u2028"),
    ("\u2029".encode(), rb"\u2029"),
)


class LineTooLong(UpstreamFailed):
    """The node sent a line over the limit."""


class OpenLine:
    """Keeps the line that has not ended yet, and nothing else, of bytes that come in any cut."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self.rest = bytearray()
        """The bytes since the last newline."""
        self._limit = limit

    def push(self, chunk: bytes) -> bytes:
        """The lines that `chunk` completes, in one piece, each with its newline. Raises LineTooLong."""
        cut = chunk.rfind(b"\n") + 1
        if not self.rest and cut == len(chunk):
            return chunk
        if (len(chunk) - cut if cut else len(self.rest) + len(chunk)) > self._limit:
            raise LineTooLong(f"the node sent a line of more than {self._limit} bytes")
        if not cut:
            self.rest += chunk
            return b""
        whole = bytes(self.rest) + chunk[:cut]
        self.rest[:] = chunk[cut:]
        return whole


def json_line(value: Any) -> bytes:
    """`value` as one line of JSON that every reader takes for one: U+0085, U+2028 and U+2029 are escaped."""
    line = orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
    for raw, escaped in _LINE_ENDS:
        if raw in line:
            line = line.replace(raw, escaped)
    return line


def read_object(data: bytes | bytearray) -> dict[str, Any] | None:
    """The JSON object that `data` is; None: it is none."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def node_error(status: int, body: bytes | bytearray) -> ApiError:
    """The error that a node answered with `status` (400 or more), in the node's words.

    Ollama wraps some errors of its runner as JSON in the text of its own; the innermost message is taken.
    """
    text, found = "", read_object(body)
    while found:
        error = found.get("error", found.get("message"))
        text = error if isinstance(error, str) else text
        found = error if isinstance(error, dict) else read_object(text.encode()) if error is text else None
    text = text or f"the node answered with status {status}"
    if status == 400:
        return BadRequest(text)
    return ModelUnknown(text) if status == 404 else UpstreamFailed(text, status=status)


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
            todo += [item for key, item in value.items() if key != "images"]
        elif isinstance(value, orjson.Fragment):
            total += len(orjson.dumps(value))
    return total


_PROMPT = ("prompt", "suffix", "system", "messages", "tools", "input")


def prompt_bytes(body: Mapping[str, Any]) -> int:
    """UTF-8 bytes of the prompt in a native body."""
    return text_bytes(body[key] for key in _PROMPT if key in body)


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

    def __init__(self, inbound: Inbound, *outbounds: Outbound) -> None:
        super().__init__()
        self.outbounds = outbounds
        self._models = inbound.models
        self._number = 0
        self._generating = False
        self._before: Usage | None = None

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
        self.context_full = full if self.context_full is None else self.context_full or full
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
        outbound = self.outbound
        options = (outbound.body or {}).get("options")
        asked: Any = options.get("num_ctx") if isinstance(options, dict) else None
        if type(asked) in (int, float) and asked >= 1:
            return -(-int(asked) // 256) * 256  # llama-server rounds a slot up
        return self._models.context(outbound.model) if outbound.model else None

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


class NdjsonCodec(CountedCodec):
    """Reads a node's NDJSON; a dialect adds `line`.

    class Generate(NdjsonCodec):
        reply = Head(200, (("Content-Type", "application/x-ndjson"),))

        def line(self, message: dict[str, Any]) -> bytes:
            return json_line({"text": message["response"], "done": message["done"]})

    A route opens it with `Generate(inbound, outbound, streams=True)`; several outbounds are answered one after another,
    `number` says which one the lines belong to. With `streams=False` the relay holds what `line`
    returns, so it collects and returns b"" until the message that `is_last`. An error of the node becomes an ApiError
    in its words, whenever it comes; so does an answer without its end. A dialect whose streams tell errors in another
    form than a line `{"error": "..."}` overrides `fail`.
    """

    max_line: ClassVar[int] = MAX_LINE

    def __init__(self, inbound: Inbound, *outbounds: Outbound, streams: bool = False) -> None:
        super().__init__(inbound, *outbounds)
        self.streams = self._wanted = streams
        self._status = 200
        self._restart()

    def _restart(self) -> None:
        self._open = OpenLine(self.max_line)
        self._lines = self._text_bytes = 0
        self._ended = self._finished = False
        self._error: ApiError | None = None
        self._broken: ApiError | None = None

    @abstractmethod
    def line(self, message: dict[str, Any]) -> bytes:
        """The client's bytes for one message of the node; b"": nothing to say yet."""

    def is_last(self, message: dict[str, Any]) -> bool:
        """Whether the node's answer is whole with this message."""
        return message.get("done") is True

    def begin(self, head: Head) -> Head:
        """The client's head is `reply`. An error status is not a stream: its text is collected for `finish`."""
        number = self._number + 1 if self._finished else self._number
        self._restart()
        self._status = head.status
        self.streams = self._wanted and head.status < 400
        self.start(generating=head.status < 400 and self.outbounds[number].model is not None, number=number)
        return self.reply

    def feed(self, chunk: bytes) -> bytes:
        """What `line` makes of the lines that `chunk` completes. Raises LineTooLong, or UpstreamFailed for no JSON; what
        came before that in the same chunk goes out first."""
        if self._status >= 400:
            self._open.rest += chunk[: MAX_ERROR - len(self._open.rest)]
            return b""
        whole = self._open.push(chunk)
        said = b"".join([self._message(line) for line in whole.split(b"\n") if line.strip()])
        if self._broken is not None and not said:
            raise self._broken
        return said

    def finish(self) -> bytes:
        """The last line, if its newline is missing. Raises the node's error, or UpstreamFailed without an end."""
        if self._status >= 400:
            raise node_error(self._status, self._open.rest)
        last = self._message(self._open.rest) if self._open.rest.strip() else b""
        if self._error is not None:
            raise self._error
        if not self._ended:
            raise UpstreamFailed("the node ended its answer before it was complete")
        self._finished = True
        return last

    def fail(self, error: ApiError) -> bytes:
        """A line `{"error": "..."}`; nothing when the answer was complete already."""
        return b"" if self.complete or not self._wanted else json_line({"error": str(error)})

    @property
    def complete(self) -> bool:
        """Whether the answers to all outbounds are whole."""
        return self._ended and self._number == len(self.outbounds) - 1

    def output_estimate(self) -> int | None:
        """The larger of one token a line and four bytes a token."""
        return max(self._lines, self._text_bytes // 4) or None

    def _message(self, line: bytes | bytearray) -> bytes:
        if self._ended or self._error is not None:
            return b""
        message = read_object(line)
        if message is None:
            self._error = self._broken = UpstreamFailed("the node sent a line that is no JSON object")
            return b""
        if "error" in message:
            self._error = node_error(502, line)
            return b""
        self._lines += 1
        self._text_bytes += text_bytes(message_text(message))
        if self.is_last(message):
            self._ended = True
            self.count(message.get("prompt_eval_count"), message.get("eval_count"))
        return self.line(message)
