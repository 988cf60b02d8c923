"""What of HTTP/1.1 the server takes: aiohttp's parser, and a refusal of what that lets through.

The rules are RFC 9112's, read strictly, since another server on the way may read the same bytes in another way. The
parser is lenient about spaces in the request line, says nothing of what frames a chunked body, and bounds each header
but not the head; so the bytes are counted and looked at as they come. No message here holds a byte of the client's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

from aiohttp import HttpVersion10, HttpVersion11, StreamReader, hdrs, web
from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.http_exceptions import (
    BadHttpMethod,
    BadStatusLine,
    HttpProcessingError,
    InvalidURLError,
    LineTooLong,
)
from aiohttp.streams import EMPTY_PAYLOAD

MAX_HEAD = 256 * 1024
"""Bytes of a request's head that may come without its end."""
MAX_FRAMING = 384 * 1024
"""Bytes of chunk sizes, chunk extensions and trailers that may come beyond as many as the body itself has. It includes
what the parser may hold back while its reader is slow: one read of a socket."""

_HOST = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?\])(?::[0-9]{0,5})?|")
"""RFC 9112 section 3.2; names of this world have fewer characters than RFC 3986 gives them. None at all is allowed."""
_LINE = re.compile(rb"[^ ]+ [^ ]+ HTTP/[0-9]\.[0-9]\r?")
_HEAD_END = b"\r\n\r\n"
_UNKNOWN = -1

_MESSAGES = {
    "tls": "this port speaks HTTP, not HTTPS",
    "method": "this method is not implemented",
    "version": "only HTTP/1.1 and HTTP/1.0 are spoken here",
    "request_line": "the request line is malformed",
    "target": "the request target is malformed, or names another host than the Host header",
    "host": "the Host header is malformed",
    "syntax": "the request is malformed, or has too many headers",
    "too_large": "the head of the request is too large",
    "transfer_encoding": "the only Transfer-Encoding is chunked, and only in HTTP/1.1",
    "framing": "the request body is not framed as its head says",
    "expectation": "the only expectation that can be met is 100-continue",
}
"""Each kind of malformed request (the label of the metric), and what its client is told."""
_STATUS = {"version": 505, "expectation": 417}
_KINDS: dict[type[HttpProcessingError], str] = {
    BadHttpMethod: "method",
    BadStatusLine: "request_line",
    InvalidURLError: "target",
    LineTooLong: "too_large",
}

_Messages = Sequence[tuple[RawRequestMessage, StreamReader]]


class Malformed(HttpProcessingError):
    """A request that is not taken; `path` is what it asked for, where that could be read."""

    def __init__(self, kind: str, path: str = "", status: int | None = None) -> None:
        super().__init__(code=status or _STATUS.get(kind, 400), message=_MESSAGES[kind])
        self.kind, self.path = kind, path


class Connection(Protocol):
    """Who owns a parser."""

    all_parsed: bool
    """Whether the parser has nothing left of what has come: that was one request, whole, and no byte more."""

    def head_begins(self) -> None:
        """The first bytes of a head have come, but not all of it."""

    def head_ends(self) -> None:
        """The head that had begun is complete."""

    def malformed(self, kind: str) -> None:
        """The request is not taken, and nothing that comes after it."""


def judge(message: RawRequestMessage) -> None:
    """Raise Malformed for a head that the parser takes and the server does not."""
    headers, version = message.headers, message.version
    if version != HttpVersion11 and version != HttpVersion10:
        raise Malformed("version")
    if message.method in ("CONNECT", "TRACE"):
        raise Malformed("method", message.url.raw_path, 501)
    if message.path[0] != "/" or "#" in message.path:
        _judge_target(message)
    if _HOST.fullmatch(headers.get(hdrs.HOST, "")) is None:
        raise Malformed("host", message.url.raw_path)
    coding = headers.get(hdrs.TRANSFER_ENCODING)
    if coding is not None and (coding.lower() != "chunked" or version != HttpVersion11):
        raise Malformed("transfer_encoding", message.url.raw_path)
    if hdrs.EXPECT in headers and headers[hdrs.EXPECT].lower() != "100-continue" and version == HttpVersion11:
        raise Malformed("expectation", message.url.raw_path)


def _judge_target(message: RawRequestMessage) -> None:
    """Of the forms of RFC 9112 section 3.2 there are `*`, and `http://` with the authority that Host has too."""
    scheme, _, rest = message.path.partition("://")
    authority = rest.partition("/")[0].partition("?")[0]
    same = authority.lower() == message.headers.get(hdrs.HOST, authority).lower()
    if message.path != "*" and not (scheme.lower() in ("http", "https") and _HOST.fullmatch(authority) and same):
        raise Malformed("target")
    if "#" in message.path or (message.path == "*" and message.method != hdrs.METH_OPTIONS):
        raise Malformed("target")


class StrictParser(HttpRequestParser):
    """The parser of one connection.

    It knows where the next request begins as long as that can be told from what the reads brought; a request line is
    looked at only where it does know. After a chunked body, or among requests that came in one read, it may not.
    """

    __slots__ = ("_body", "_due", "_line", "_owner", "_raw", "_stream", "spoilt")

    def __init__(self, owner: Any, *args: Any, **bounds: Any) -> None:
        super().__init__(owner, *args, **bounds)
        self._owner: Connection = owner
        self._stream: StreamReader = EMPTY_PAYLOAD
        self._body = False
        """Whether a body was under way when the last read had been parsed."""
        self._raw = 0
        """Bytes that came for the unfinished head, or for the body beyond the read that had its head."""
        self._due = 0
        """Bytes until the next request line begins; negative: not known."""
        self._line = b""
        """The beginning of a request line that is not complete yet."""
        self.spoilt = False
        """Whether a malformed request has come; what follows it is thrown away."""

    def feed_data(self, data: bytes, *_: Any, **__: Any) -> tuple[Any, bool, bytes]:
        """Requests whose heads are complete with `data`. Raises Malformed, once; the body under way fails with it."""
        if self.spoilt:
            return (), False, b""
        try:
            return self._feed(data)
        except HttpProcessingError as error:
            fault = error if isinstance(error, Malformed) else Malformed(self._kind(error, data))
        self.spoilt = True
        self._owner.malformed(fault.kind)
        if not self._stream.is_eof():
            # aiohttp 3.14 tells it to nobody who waits for the body
            self._stream.set_exception(web.RequestPayloadError(fault.message))
        raise fault

    def _kind(self, error: HttpProcessingError, data: bytes) -> str:
        if self._body and not self._stream.is_eof():
            return "framing"
        if data.startswith(b"\x16\x03"):
            return "tls"
        if data.startswith(b"PRI * HTTP/2.0"):
            return "version"
        return _KINDS.get(type(error), "syntax")

    def _feed(self, data: bytes) -> tuple[_Messages, bool, bytes]:
        messages, upgraded, tail = super().feed_data(data)
        for message, _ in messages:
            judge(message)
        begins = self._due == 0 and data != b""
        whole = begins and not self._line
        if begins:
            self._look(data)
        if messages:
            self._take(messages, data, whole=whole)
        elif data:
            self._count(data)
        return messages, upgraded, tail

    def _look(self, data: bytes) -> None:
        """Judge the request line that begins, or goes on, with `data`; empty lines may precede it."""
        line = (self._line + data).lstrip(b"\r\n")
        end = line.find(b"\n")
        if end < 0:
            self._line = line
            return
        self._line, self._due = b"", _UNKNOWN
        if _LINE.fullmatch(line, 0, end) is None:
            raise Malformed("request_line")

    def _take(self, messages: _Messages, data: bytes, *, whole: bool) -> None:
        """Go on behind the heads that `data` has completed; `whole`: it begins with the first of them."""
        message, stream = messages[-1]
        self._stream, self._body, self._raw = stream, not stream.is_eof(), 0
        self._owner.head_ends()
        self._due = _UNKNOWN
        if whole and len(messages) == 1 and not message.chunked and data[0] not in b"\r\n":
            length = int(message.headers.get(hdrs.CONTENT_LENGTH, 0))
            self._due = max(data.index(_HEAD_END) + len(_HEAD_END) + length - len(data), _UNKNOWN)
            self._owner.all_parsed = self._due == 0 and not self._body
        else:
            self._owner.all_parsed = False
            self._settle(data)

    def _count(self, data: bytes) -> None:
        """Bytes that complete no head: of a body, or of a head."""
        self._raw += len(data)
        if self._due > 0:
            self._due = max(self._due - len(data), _UNKNOWN)
        if not self._stream.is_eof():
            if self._raw > MAX_FRAMING + 2 * self._stream.total_bytes:
                raise Malformed("framing")
        elif self._body:
            self._body, self._raw = False, 0
            self._settle(data)
        else:
            self._owner.head_begins()
            if self._raw > MAX_HEAD:
                raise Malformed("too_large")

    def _settle(self, data: bytes) -> None:
        """Know again where the next request begins: an empty line that has ended a request, and not a head."""
        if self._due < 0 and self._stream.is_eof() and data.endswith(_HEAD_END):
            self._due = 0
