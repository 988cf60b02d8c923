"""Answers that are no HTTP, by name: heads (BAD_HEADS), and chunked bodies behind a good head (BAD_CHUNKS).

Each must be refused by whoever reads it; the section of RFC 9112 or 9110 that says so is beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

from parallama.simulated.faults import Answer, Fault

LINE = b'{"model":"m","message":{"role":"assistant","content":"four"},"done":false}\n'
_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _OK + b"Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
_CHUNK = b"%x\r\n%b\r\n" % (len(LINE), LINE)

_HEADS = {
    "no status line": b"Content-Length: 2\r\n\r\n{}",  # 9112 section 4
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "another version": b"HTTP/3.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a status that is no number": b"HTTP/1.1 yes OK\r\nContent-Length: 2\r\n\r\n{}",
    "a header without a colon": _OK + b"Content-Length 2\r\n\r\n{}",  # 9112 section 5
    "a space before the colon": _OK + b"Content-Length : 2\r\n\r\n{}",  # 9112 section 5.1
    "a name with a control character": _OK + b"X-\x01: a\r\nContent-Length: 2\r\n\r\n{}",
    "a value with a NUL": _OK + b"X-Odd: a\x00b\r\nContent-Length: 2\r\n\r\n{}",  # 9110 section 5.5
    "a value with a bare CR": _OK + b"X-Odd: a\rb: c\r\nContent-Length: 2\r\n\r\n{}",  # 9112 section 2.2
    "a negative length": _OK + b"Content-Length: -2\r\n\r\n{}",  # 9110 section 8.6
    "a length that is no number": _OK + b"Content-Length: two\r\n\r\n{}",
    "a length beyond 64 bits": _OK + b"Content-Length: 99999999999999999999\r\n\r\n{}",
    "two lengths": _OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",  # 9112 section 6.3
    "a length and chunks": _OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
}
_CHUNKS = {  # 9112 section 7.1
    "a size that is no number": b"ZZ\r\n",
    "a negative size": b"-5\r\n" + LINE,
    "a size beyond 64 bits": b"fffffffffffffffff\r\n" + LINE,
    "no size": b"\r\n" + LINE,
    "more data than its size": b"5\r\n" + LINE,
    "an endless size": b"0" * (1 << 20),
}

BAD_HEADS: Mapping[str, Answer] = {name: Answer(raw=[head], raw_ends=Fault.CLOSE) for name, head in _HEADS.items()}
"""Answers whose head cannot be understood, by what is wrong with it."""

BAD_CHUNKS: Mapping[str, Answer] = {
    name: Answer(raw=[_CHUNKED + _CHUNK, broken], raw_ends=Fault.CLOSE) for name, broken in _CHUNKS.items()
}
"""Streams of one good line and a chunk that cannot be understood, by what is wrong with it."""
