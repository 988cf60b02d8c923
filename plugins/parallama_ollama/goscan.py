"""Finds the members of a JSON object in bytes as Go's encoding/json does, and words what is wrong in its way.

Takes what orjson does not: any depth up to Go's, bad UTF-8, lone surrogates, numbers out of range, a second
document. Nothing is decoded here. Without recursion, whatever the depth.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from parallama.errors import BadRequest

MAX_DEPTH = 10_000
"""Go's own limit (encoding/json, maxNestingDepth)."""

MAX_STEPS = 500_000
"""Bounds the time that one hostile body can hold the event loop, to about half a second. Runs of plain values
inside an array or object count as one step."""

_WS = rb"[ \t\n\r]*+"
_STRING = rb'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+"'
_NUMBER = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?"
_PLAIN = rb"(?:" + _STRING + rb"|" + _NUMBER + rb"|true|false|null)"

_space = re.compile(_WS)
_key = re.compile(_STRING)
_plain = re.compile(_PLAIN)
_colon = re.compile(_WS + rb":" + _WS)
# Runs are bounded and not possessive: before Python 3.11.5 a possessive group ends in the wrong place (gh-106052), and
# any other keeps every round in memory.
_RUN = rb"{0,1000}"
_elements = re.compile(rb"(?:" + _PLAIN + _WS + rb"," + _WS + rb")" + _RUN)
_members = re.compile(rb"(?:" + _STRING + _WS + rb":" + _WS + _PLAIN + _WS + rb"," + _WS + rb")" + _RUN)
_token = re.compile(_STRING + rb"|" + _NUMBER)

_string_part = re.compile(rb'(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})' + _RUN)
_number_start = re.compile(rb"-?(?:(?:0|[1-9][0-9]*+)(?:\.[0-9]*+)?(?:(?<=[0-9])[eE][+-]?[0-9]*+)?)?")
_hex_start = re.compile(rb"\\u[0-9a-fA-F]*+")

_CLOSERS = {b"{": b"}", b"[": b"]"}
_KINDS = {b"{": "object", b"[": "array", b'"': "string", b"t": "bool", b"f": "bool", b"n": "null"}
_ESCAPES = {7: r"\a", 8: r"\b", 9: r"\t", 10: r"\n", 11: r"\v", 12: r"\f", 13: r"\r", 39: r"\'", 92: r"\\"}


@dataclass(frozen=True, slots=True)
class Scan:
    """The first value of some bytes."""

    kind: str
    """object, array, string, number, bool or null, as Go names it."""
    members: list[tuple[bytes, bytes]]
    """Of an object: each key, in its quotes, with its value; equal keys as often as they come."""
    end: int
    """Where the value ends."""


def scan(raw: bytes) -> Scan:
    """Find the first value. Raises BadRequest in Go's words."""
    pos = _skip(raw, 0)
    if pos == len(raw):
        raise BadRequest("missing request body")
    walk = _Walk(raw)
    if raw[pos : pos + 1] != b"{":
        return Scan(kind(raw[pos:]), [], walk.value(pos))
    members: list[tuple[bytes, bytes]] = []
    pos = _skip(raw, pos + 1)
    more = raw[pos : pos + 1] != b"}"
    while more:
        start, colon = walk.key(pos)
        end = walk.value(colon, depth=1)
        members.append((raw[pos:start], raw[colon:end]))
        pos = _skip(raw, end)
        more = raw[pos : pos + 1] == b","
        if not more and raw[pos : pos + 1] != b"}":
            raise invalid(raw, pos, "after object key:value pair")
        pos = _skip(raw, pos + 1) if more else pos
    return Scan("object", members, pos + 1)


def kind(value: bytes) -> str:
    """Go's name for the kind of a value, by its first byte."""
    return _KINDS.get(value[:1], "number")


def numbers(value: bytes) -> list[bytes]:
    """The numbers in a valid value, at any depth, as they are written."""
    return [token for token in _token.findall(value) if token[:1] != b'"']


class _Walk:
    """Walks over values; its steps are counted over the whole body."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._steps = 0

    def key(self, pos: int) -> tuple[int, int]:
        """The end of the key at `pos`, and where its value begins."""
        raw = self._raw
        match = _key.match(raw, pos)
        if match is None:
            if raw[pos : pos + 1] == b'"':
                raise _bad_string(raw, pos)
            raise invalid(raw, pos, "looking for beginning of object key string")
        colon = _colon.match(raw, match.end())
        if colon is None:
            raise invalid(raw, _skip(raw, match.end()), "after object key")
        return match.end(), colon.end()

    def value(self, pos: int, depth: int = 0) -> int:
        """The end of the value at `pos`, which lies `depth` deep."""
        raw, stack = self._raw, bytearray()
        while True:
            self._step()
            if match := _plain.match(raw, pos):
                pos = match.end()
                if raw[pos : pos + 1] in (b".", b"e", b"E") and raw[pos - 1 : pos].isdigit():
                    _check_number(raw, match.start())
            else:
                pos, opened = self._open(pos, stack, depth)
                if opened:
                    continue
            pos, more = self._close(pos, stack)
            if not more:
                return pos

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise BadRequest(f"the request body has more than {MAX_STEPS} nested values")

    def _open(self, pos: int, stack: bytearray, depth: int) -> tuple[int, bool]:
        """Into the array or object at `pos`: where its first value begins, or its end when it is empty."""
        raw = self._raw
        opener = raw[pos : pos + 1]
        if opener not in _CLOSERS:
            raise _bad_value(raw, pos)
        if depth + len(stack) >= MAX_DEPTH:
            raise invalid(raw, pos, "exceeded max depth")
        pos = _skip(raw, pos + 1)
        if raw[pos : pos + 1] == _CLOSERS[opener]:
            return pos + 1, False
        stack += opener
        return self._next(pos, opener == b"{"), True

    def _close(self, pos: int, stack: bytearray) -> tuple[int, bool]:
        """A value has ended at `pos`: where the next begins, or the end of all when nothing is open."""
        raw = self._raw
        while stack:
            self._step()
            in_object = stack[-1:] == b"{"
            pos = _skip(raw, pos)
            char = raw[pos : pos + 1]
            if char == b",":
                return self._next(_skip(raw, pos + 1), in_object), True
            if char != _CLOSERS[bytes(stack[-1:])]:
                raise invalid(raw, pos, "after object key:value pair" if in_object else "after array element")
            stack.pop()
            pos += 1
        return pos, False

    def _next(self, pos: int, in_object: bool) -> int:
        """Where the next value begins that is not one of a run of plain ones."""
        match = (_members if in_object else _elements).match(self._raw, pos)
        pos = match.end() if match else pos
        return self.key(pos)[1] if in_object else pos


def _skip(raw: bytes, pos: int) -> int:
    match = _space.match(raw, pos)
    return match.end() if match else pos


def invalid(raw: bytes, pos: int, context: str) -> BadRequest:
    """Go's syntax error at `pos`."""
    if pos >= len(raw):
        return BadRequest("unexpected EOF")
    return BadRequest(f"invalid character {_quoted(raw[pos])} {context}")


def _quoted(byte: int) -> str:
    """As Go's quoteChar and strconv.Quote write it: the byte is taken for a Latin-1 character."""
    if byte in _ESCAPES:
        return f"'{_ESCAPES[byte]}'"
    if chr(byte).isprintable():
        return f"'{chr(byte)}'"
    return f"'\\x{byte:02x}'" if byte < 0x80 else f"'\\u{byte:04x}'"


def _bad_value(raw: bytes, pos: int) -> BadRequest:
    first = raw[pos : pos + 1]
    if first == b'"':
        return _bad_string(raw, pos)
    if first == b"-":
        return invalid(raw, pos + 1, "in numeric literal")
    for word in (b"true", b"false", b"null"):
        if first == word[:1]:
            return _bad_literal(raw, pos, word)
    return invalid(raw, pos, "looking for beginning of value")


def _bad_literal(raw: bytes, pos: int, word: bytes) -> BadRequest:
    right = next(i for i in range(len(word)) if raw[pos + i : pos + i + 1] != word[i : i + 1])
    return invalid(raw, pos + right, f"in literal {word.decode()} (expecting '{chr(word[right])}')")


def _bad_string(raw: bytes, pos: int) -> BadRequest:
    start, end = pos, pos + 1
    while end > start and (match := _string_part.match(raw, end)):
        start, end = end, match.end()
    if raw[end : end + 1] != b"\\":
        return invalid(raw, end, "in string literal")
    if digits := _hex_start.match(raw, end):
        return invalid(raw, digits.end(), "in \\u hexadecimal character escape")
    return invalid(raw, end + 1, "in string escape code")


def _check_number(raw: bytes, pos: int) -> None:
    """Raise Go's error for the number at `pos` when it breaks off in its middle."""
    match = _number_start.match(raw, pos)
    end = match.end() if match else pos
    last = raw[end - 1 : end]
    if last == b".":
        raise invalid(raw, end, "after decimal point in numeric literal")
    if last in (b"e", b"E", b"+", b"-"):
        raise invalid(raw, end, "in exponent of numeric literal")
