"""The codecs of the native API: bytes pass as they came, and are watched for counts, errors and a missing end.

Only an alias changes any: its name takes the place of the node's, and it joins the list of models.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import orjson

from parallama.errors import ApiError, UpstreamFailed
from parallama.gateway.api import Codec, Head, Inbound, Outbound
from parallama.gateway.counting import CountedCodec, message_text, text_bytes
from parallama.gateway.lines import MAX_LINE, NDJSON, LineTooLong, OpenLine, json_line, read_object
from parallama.gateway.listing import Entry, entries, listed, name_of
from parallama.gateway.ndjson import node_error
from parallama_ollama.aliases import Renaming

_WHOLE = 1024 * 1024
"""Bytes up to which a document is kept and read whole."""

_TAIL = 16 * 1024
"""Bytes of the end of a larger one that are kept: the counts stand there, unless log probabilities follow them."""

_CUT_SHORT = "the node ended its answer before it was complete"

_prompt_count = re.compile(rb'"prompt_eval_count":([0-9]{1,18})')
_output_count = re.compile(rb'"eval_count":([0-9]{1,18})')


class Plain(Codec):
    """Passes an answer that costs no tokens: lists, details, blobs, changes that answer at once."""

    def __init__(self, outbound: Outbound) -> None:
        super().__init__()
        self.outbounds = (outbound,)

    def begin(self, head: Head) -> Head:
        return head

    def feed(self, chunk: bytes) -> bytes:
        return chunk


def _of_any_length(head: Head) -> Head:
    """`head` for a body of another length than the node's."""
    return replace(head, headers=[pair for pair in head.headers if pair[0].lower() != "content-length"])


class _List(Plain):
    """A list of models, without those that the caller may not use. What is no list passes, but to a caller who might
    not be meant to see it."""

    def __init__(self, inbound: Inbound, outbound: Outbound) -> None:
        super().__init__(outbound)
        self._models = inbound.models
        self._body = bytearray()
        self._good = True

    @abstractmethod
    def told(self, answer: Entry) -> list[Entry]:
        """The entries of the list. Raises UpstreamFailed."""

    def begin(self, head: Head) -> Head:
        self._body.clear()
        self._good = head.status < 400
        return _of_any_length(head)

    def feed(self, chunk: bytes) -> bytes:
        """Nothing: the list is held. Raises LineTooLong."""
        self._body += chunk
        if len(self._body) > MAX_LINE:
            raise LineTooLong(f"the node sent a list of models of more than {MAX_LINE} bytes")
        return b""

    def finish(self) -> bytes:
        """The list, in the node's own bytes where all of it is told. Raises UpstreamFailed."""
        body = bytes(self._body)
        if not self._good or not body:
            return body
        answer = read_object(body)
        try:
            if answer is None:
                raise UpstreamFailed("the node answered no JSON object")
            told = self.told(answer)
        except UpstreamFailed:
            if self._models.limited():
                raise
            return body
        return body if told == (answer.get("models") or []) else orjson.dumps({**answer, "models": told})


class Tags(_List):
    """`/api/tags`, with the family's aliases."""

    def told(self, answer: Entry) -> list[Entry]:
        """Those of the node and the aliases."""
        return [entry for _name, entry in listed(answer, self._models.aliases(), self._models.usable)]


class Running(_List):
    """`/api/ps`, which knows no aliases."""

    def told(self, answer: Entry) -> list[Entry]:
        """Those of the node."""
        return [entry for entry in entries(answer) if self._models.usable(name_of(entry))]


class Answer(CountedCodec):
    """Passes an answer of `/api/generate`, `/api/chat`, `/api/embed` or `/api/embeddings`, a stream or a document.

    Where the client asked for an alias, the node's name of the model is replaced by it; all other bytes stay.
    """

    mark: ClassVar[bytes] = b'"done":true'
    """As Go writes it: in the last line of a stream, and only rarely in another."""
    key: ClassVar[tuple[str, object]] = ("done", True)
    """The member that makes a line the last."""
    costs: ClassVar[bool] = True
    """Whether the answer costs tokens."""

    _seen = _begun = False
    _alias: str | None = None
    _renaming: Renaming | None = None
    _size = _lines = _text = _overhead = 0
    _middle_of_line = _ended = _blind = False

    def __init__(self, inbound: Inbound, outbound: Outbound) -> None:
        super().__init__(inbound, outbound)
        self._open = OpenLine()
        self._tail = bytearray()

    def resolved(self, outbounds: Sequence[Outbound]) -> None:
        super().resolved(outbounds)
        outbound = self.outbound
        self._alias = outbound.model if outbound.target not in (None, outbound.model) else None

    def _restart(self) -> None:
        self._open = OpenLine()
        self._tail = bytearray()
        self._size = self._lines = self._text = self._overhead = 0
        self._middle_of_line = self._ended = self._blind = False
        self.failed = None

    def begin(self, head: Head) -> Head:
        if self._begun:  # by another node
            self._restart()
        self._begun = True
        whole = head.status < 400
        self.start(generating=whole and self.costs)
        self.streams = whole and head.header("content-type").startswith(NDJSON)
        self._seen = not self.streams and whole and self.costs
        self._renaming = Renaming(self._alias) if whole and self._alias else None
        return _of_any_length(head) if self._renaming else head

    def feed(self, chunk: bytes) -> bytes:
        if self.streams:
            self._see_lines(chunk)
        elif self._seen:
            self._see_tail(chunk)
        return self._renaming.feed(chunk) if self._renaming else chunk

    def finish(self) -> bytes:
        """What was held; nothing is added. Raises UpstreamFailed when a stream lacks its last line, or a document is
        none."""
        if self._seen:
            self._judge_document()
        elif self.streams:
            self._judge(bytes(self._open.rest))
            if not self._ended and not self._blind:
                raise UpstreamFailed(_CUT_SHORT)
        return self._held()

    def fail(self, error: ApiError) -> bytes:
        """A line of its own with the error, also after half a line; nothing after the last line or in a document."""
        self._judge(bytes(self._open.rest))  # the last line may lack no more than its newline
        if self._ended or not self.streams:
            return b""
        return (b"\n" if self._middle_of_line and not self._held() else b"") + json_line({"error": str(error)})

    def _held(self) -> bytes:
        return self._renaming.held if self._renaming else b""

    def output_estimate(self) -> int | None:
        """The larger of one token a line and four bytes a token, by what the first line had beside its text."""
        return max(self._lines, self._text // 4) or None if self.streams else None

    def _see_lines(self, chunk: bytes) -> None:
        self._middle_of_line = chunk[-1:] != b"\n"
        if self._blind:
            self._text += len(chunk)
            return
        try:
            lines = self._open.push(chunk)
        except LineTooLong:  # it passes all the same; only its end and the counts are lost on us
            self._blind = True
            self._text += len(self._open.rest) + len(chunk)
            self._open.rest.clear()
            return
        if lines:
            self._weigh(lines)
        if self.mark in lines or b'"error"' in lines:
            for line in lines.split(b"\n"):
                self._judge(line)

    def _weigh(self, lines: bytes) -> None:
        for line in lines.split(b"\n")[:-1]:
            size = len(line)
            if line[:8] == b'{"error"':
                continue
            self._overhead = self._overhead or size - text_bytes(message_text(read_object(line) or {}))
            self._lines += 1
            if size > self._overhead:  # a shorter envelope takes nothing away
                self._text += size - self._overhead

    def _judge(self, line: bytes) -> None:
        """Look at a line that may be the last: what is inside a text or a tool call has the same bytes."""
        if self._ended or not (self.mark in line or b'"error"' in line):
            return
        message = read_object(line)
        if message is None:
            return
        if "error" in message:
            self._ended = True
            self.failed = UpstreamFailed("the node reported an error in its answer")
        elif message.get(self.key[0]) == self.key[1]:
            self._ended = True
            self.count(message.get("prompt_eval_count"), message.get("eval_count"))

    def _see_tail(self, chunk: bytes) -> None:
        self._size += len(chunk)
        self._tail += chunk
        if self._size > _WHOLE:
            del self._tail[:-_TAIL]

    def _judge_document(self) -> None:
        tail, self._tail = self._tail, bytearray()
        if self._size <= _WHOLE:
            message = read_object(tail)
            if message is None:
                raise UpstreamFailed("the node answered no JSON object")
            if "error" in message:  # with the status of an answer: clients would take it for one
                raise node_error(502, tail)
            if message.get("done") is False:
                self.failed = UpstreamFailed(_CUT_SHORT)
            else:
                self.count(message.get("prompt_eval_count"), message.get("eval_count"))
            return
        prompt, output = _prompt_count.findall(tail), _output_count.findall(tail)
        if prompt or output:
            self.count(int(prompt[-1]) if prompt else None, int(output[-1]) if output else None)


class Progress(Answer):
    """Passes the progress of a pull, push or create."""

    mark = b'"status":"success"'
    key = ("status", "success")
    costs = False
