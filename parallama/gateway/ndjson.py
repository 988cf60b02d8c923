"""What a codec needs to read a node's NDJSON: whole lines from any cut, counts, and an end that must not be missing.

A dialect subclasses NdjsonCodec and writes one method, `line`: the client's bytes for one message of the node. It
serves one-document answers of the node too, which are one line without its end.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from parallama.errors import ApiError, BadRequest, ModelUnknown, UpstreamFailed
from parallama.gateway.api import Head, Inbound, Outbound
from parallama.gateway.counting import CountedCodec, message_text
from parallama.gateway.lines import MAX_LINE, OpenLine, json_line, read_object

MAX_ERROR = 64 * 1024
"""Bytes of a node's error answer that are read."""


def node_error(status: int, body: bytes | bytearray) -> ApiError:
    """The error that a node answered with `status` (400 or more), in the node's words.

    Ollama wraps some errors of its runner as JSON in the text of its own; the innermost message is taken.
    """
    text, found = "", read_object(body)
    while found:
        error = found.get("error", found.get("message"))
        text = error if isinstance(error, str) else text
        found = error if isinstance(error, dict) else read_object(text.encode()) if error is text else None
    if status in _OURS:
        return UpstreamFailed("the node refuses the gateway")
    if not text:  # no answer of Ollama's
        return UpstreamFailed(f"the node answered with status {status}", status=502 if status < 500 else status)
    if status == 400:
        return BadRequest(text)
    return ModelUnknown(text) if status == 404 else UpstreamFailed(text, status=status)


_OURS = (401, 403, 407)
"""What a node, or a proxy before it, says of us: the client's own key was in order."""


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
        """What `line` makes of the lines that `chunk` completes. Raises LineTooLong, and whatever is wrong with a line
        once what came before it in the same chunk has gone out."""
        if self._status >= 400:
            self._open.rest += chunk[: MAX_ERROR - len(self._open.rest)]
            return b""
        whole = self._open.push(chunk)
        said = b"".join([self._message(line) for line in whole.split(b"\n") if line.strip()])
        if self._error is not None and not said:
            raise self._error
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
        return self._ended and self._error is None and self._number == len(self.outbounds) - 1

    def output_estimate(self) -> int | None:
        """The larger of one token a line and four bytes a token."""
        return max(self._lines, self._text_bytes // 4) or None

    def _message(self, line: bytes | bytearray) -> bytes:
        if self._ended or self._error is not None:
            return b""
        message = read_object(line)
        if message is None:
            self._error = UpstreamFailed("the node sent a line that is no JSON object")
            return b""
        if "error" in message:
            self._error = node_error(502, line)
            return b""
        self._lines += 1
        text, thinking = message_text(message)
        self._text_bytes += len(text.encode()) + len(thinking.encode())
        if self.is_last(message):
            self._ended = True
            self.count(message.get("prompt_eval_count"), message.get("eval_count"))
        try:
            return self.line(message)
        except ApiError as error:
            self._error = error
            return b""
