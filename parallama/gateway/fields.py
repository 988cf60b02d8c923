"""Reads the JSON body of a request field by field: what is missing or of another type is a BadRequest that names it.

For dialects that are strict about what they are asked; the native gateway reads as Go does instead.
"""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, NoReturn, overload

import orjson

from parallama.errors import BadRequest
from parallama.gateway.api import Inbound

_BASE64 = (string.ascii_letters + string.digits + "+/").encode()

_SHOWN = 64
"""Characters of a client's word that an error repeats."""

# half of a character outside the first plane: JavaScript cuts texts in their middle, and orjson reads none
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x78\x01", b"\x78\x9c", b"\x78\xda")
"""How gzip (RFC 1952), zstd (RFC 8878) and zlib (RFC 1950) begin; brotli has no mark."""


def read_body(raw: bytes) -> Fields:
    """The JSON object that is the body of a request. Raises BadRequest, `invalid_json` or `invalid_json_shape`.

    A lone half of a surrogate pair is read as U+FFFD.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        try:
            body = orjson.loads(whole_characters(raw))
        except orjson.JSONDecodeError:
            if raw.startswith(_COMPRESSED):
                why = "the body is compressed; send it without Content-Encoding"
                raise BadRequest(why, code="invalid_json") from None
            place = f"line {error.lineno}, column {error.colno}"
            raise BadRequest(f"the body is not valid JSON: {place}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise BadRequest(f"the body must be a JSON object, not {kind(body)}", code="invalid_json_shape")
    if not writable(body):
        raise BadRequest("the body is nested too deeply", code="invalid_json_shape")
    return Fields(body)


def whole_characters(raw: bytes) -> bytes:
    """JSON with U+FFFD in place of each lone half of a surrogate pair, as Go and browsers read it."""
    if b"\\ud" not in raw and b"\\uD" not in raw:
        return raw
    return _ESCAPE.sub(lambda match: rb"\ufffd" if match[1] else match[0], raw)


def writable(value: Any) -> bool:
    """Whether `value` can be written as JSON again, also a few levels deeper inside a request to a node."""
    try:
        orjson.dumps([[[[[[[[value]]]]]]]])
    except TypeError:
        return False
    return True


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    kinds = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def shown(word: str) -> str:
    """A client's word as an error may repeat it."""
    return word if len(word) <= _SHOWN else f"{word[:_SHOWN]}..."


def _standard_base64(text: str) -> str:
    """`text` as Go reads base64; empty: it is none."""
    if _is_base64(text):
        return text
    digits = "".join(text.replace("-", "+").replace("_", "/").split()).rstrip("=")
    padded = digits + "=" * (-len(digits) % 4)
    return padded if _is_base64(padded) else ""


def _is_base64(text: str) -> bool:
    # to decode it takes several times as long, and the loop would wait
    others = text.encode(errors="replace").translate(None, _BASE64).decode()
    return others in ("", "=", "==") and text.endswith(others) and len(text) % 4 == 0


class Fields:
    """The members of a JSON object, read by name. A null is as good as nothing.

    Every reader raises BadRequest: `missing_parameter` for what is `required` and not there, `invalid_parameter` for
    what is not of its type or out of its bounds.
    """

    __slots__ = ("path", "values")

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self.values = values
        self.path = path
        """Where the object stands in the body, such as `messages[0]`; empty for the body itself."""

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        """The names of the members that are not null."""
        return (name for name, value in self.values.items() if value is not None)

    def at(self, name: str) -> str:
        """Where a member stands in the body."""
        return f"{self.path}.{name}" if self.path else name

    def refuse(self, name: str, what: str) -> NoReturn:
        """Raise BadRequest for the member `name`; `what` says what is wrong or what would be right."""
        where = shown(self.at(name))
        raise BadRequest(f"{where}: {what}", code="invalid_parameter", param=where)

    def _wrong(self, name: str, value: Any, right: str) -> NoReturn:
        self.refuse(name, f"{kind(value)} is wrong; it must be {right}")

    def any(self, name: str, *, required: bool = False) -> Any:
        """The member as it is; None: it is not there."""
        value = self.values.get(name)
        if value is None and required:
            self._missing(name)
        return value

    def _missing(self, name: str) -> NoReturn:
        where = self.at(name)
        raise BadRequest(f"{where}: missing; it is required", code="missing_parameter", param=where)

    @overload
    def string(self, name: str, *, required: Literal[True], among: Collection[str] = ()) -> str: ...
    @overload
    def string(self, name: str, *, required: bool = False, among: Collection[str] = ()) -> str | None: ...
    def string(self, name: str, *, required: bool = False, among: Collection[str] = ()) -> str | None:
        """A string; `among`: the only ones that are right."""
        value = self.any(name, required=required)
        if value is None:
            return None
        if not isinstance(value, str):
            self._wrong(name, value, "a string")
        if among and value not in among:
            self.refuse(name, f"{shown(value)!r} is wrong; it must be one of {', '.join(among)}")
        return value

    def model(self, inbound: Inbound) -> str:
        """The member `model`, as the client wrote it; else the default of the family, if there is one."""
        return self.string("model") or inbound.default_model or self._missing("model")

    def base64(self, name: str, start: int = 0) -> str:
        """A string in base64 from its character `start` on, as Go reads it: in the standard alphabet, padded, without
        white space. It may be written in the URL-safe alphabet, without padding and with white space, and is never
        empty."""
        return _standard_base64(self.string(name, required=True)[start:]) or self.refuse(name, "it holds no base64")

    def boolean(self, name: str) -> bool | None:
        """True or false."""
        value = self.any(name)
        if value is not None and not isinstance(value, bool):
            self._wrong(name, value, "true or false")
        return value

    def integer(self, name: str, *, required: bool = False, least: int = -(2**63), most: int = 2**63 - 1) -> int | None:
        """A whole number."""
        value = self.any(name, required=required)
        if value is None:
            return None
        if type(value) is float and value.is_integer() and abs(value) < 2**53:
            value = int(value)  # some clients have no other numbers
        if type(value) is not int:
            self._wrong(name, value, "an integer")
        self._bound(name, value, least, most)
        return int(value)

    def number(self, name: str, *, least: float = float("-inf"), most: float = float("inf")) -> float | None:
        """A number; whole ones stay whole."""
        value = self.any(name)
        if value is None:
            return None
        if type(value) not in (int, float):
            self._wrong(name, value, "a number")
        self._bound(name, value, least, most)
        found: float = value
        return found

    def _bound(self, name: str, value: float, least: float, most: float) -> None:
        if value < least:
            self.refuse(name, f"{value} is too small; it must be at least {least}")
        if value > most:
            self.refuse(name, f"{value} is too large; it must be at most {most}")

    def strings(self, name: str) -> list[str] | None:
        """An array of strings, for which one string may stand."""
        value = self.any(name)
        if value is None:
            return None
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            self._wrong(name, value, "a string or an array of strings")
        return values

    @overload
    def object(self, name: str, *, required: Literal[True]) -> Fields: ...
    @overload
    def object(self, name: str, *, required: bool = False) -> Fields | None: ...
    def object(self, name: str, *, required: bool = False) -> Fields | None:
        """An object."""
        value = self.any(name, required=required)
        if value is None:
            return None
        if not isinstance(value, dict):
            self._wrong(name, value, "an object")
        return Fields(value, self.at(name))

    @overload
    def objects(self, name: str, *, required: Literal[True]) -> Sequence[Fields]: ...
    @overload
    def objects(self, name: str, *, required: bool = False) -> Sequence[Fields] | None: ...
    def objects(self, name: str, *, required: bool = False) -> Sequence[Fields] | None:
        """An array of objects."""
        value = self.any(name, required=required)
        if value is None:
            return None
        if not isinstance(value, list):
            self._wrong(name, value, "an array of objects")
        for place, item in enumerate(value):
            if not isinstance(item, dict):
                self._wrong(f"{name}[{place}]", item, "an object")
        return [Fields(item, f"{self.at(name)}[{place}]") for place, item in enumerate(value)]
