"""Go's encoding/json and time.Duration as Ollama uses them, for the simulator.

Reads what Go reads (keys of any case, a second document, bad UTF-8) and refuses with Go's words; writes as Go writes.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, TypeVar

T = TypeVar("T")
_UNITS_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_KINDS = {str: "string", bool: "bool", list: "array", dict: "object", int: "number", float: "number"}
_TYPES = {str: "string", bool: "bool", int: "int", dict: "map[string]interface {}", list: "[]interface {}"}
_OPTIONS = {int: "integer", float: "float32", list: "array"}


class Refused(Exception):
    """A request that Ollama answers with `{"error": ...}`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Pairs(dict[str, Any]):
    """A JSON object that also remembers its members as they stood, equal keys among them."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


class Fields(dict[str, Any]):
    """The members of an object by their folded keys: the last wins, objects merge, a null model changes nothing."""

    def __init__(self, given: dict[str, Any], struct: str) -> None:
        super().__init__()
        self.struct = struct
        for key, value in given.pairs if isinstance(given, Pairs) else given.items():
            name, old = key.casefold(), self.get(key.casefold())
            if isinstance(value, dict) and isinstance(old, dict):
                self[name] = old | value
            elif value is not None or not isinstance(old, str | bool):
                self[name] = value

    def take(self, name: str, kind: type[T], default: T) -> T:
        """The member `name`, or `default` when absent or null. Raises Refused (400) when of another kind."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
            raise self._mismatch(name, value, _TYPES[kind])
        return value

    def objects(self, name: str) -> list[Fields]:
        """The member `name` as a list of objects, folded like this one."""
        values: list[Any] = self.take(name, list, [])
        for value in values:
            if not isinstance(value, dict):
                raise self._mismatch(name, value, "api.Message")
        return [Fields(value, f"{self.struct}.{name}") for value in values]

    def option(self, name: str, kind: type[T], default: T) -> T:
        """The option `name`; floats are cut for integers. Raises Refused (500) for another kind."""
        value = self.take("options", dict, {}).get(name)
        if value is None:
            return default
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if (kind in (int, float) and not number) or (kind is list and not isinstance(value, list)):
            raise Refused(500, f'option "{name}" must be of type {_OPTIONS[kind]}')
        return kind(value)  # type: ignore[call-arg]

    def _mismatch(self, name: str, value: Any, wanted: str) -> Refused:
        kind = _KINDS.get(dict if isinstance(value, dict) else type(value), "null")
        return Refused(400, f"json: cannot unmarshal {kind} into Go struct field {self.struct}.{name} of type {wanted}")


def decode(raw: bytes, struct: str) -> Fields:
    """The first JSON value in `raw`, which must be an object; the rest is ignored. Raises Refused (400)."""
    text = raw.decode("utf-8", "replace").lstrip(" \t\r\n")
    if not raw:
        raise Refused(400, "missing request body")
    try:
        value, _ = json.JSONDecoder(object_pairs_hook=Pairs, parse_constant=_constant, parse_float=_float).raw_decode(
            text
        )
    except json.JSONDecodeError as error:
        raise Refused(400, _complaint(text, error.pos)) from error
    except RecursionError as error:
        raise Refused(400, "exceeded max depth") from error
    if not isinstance(value, dict):
        kind = _KINDS.get(type(value), "null")
        raise Refused(400, f"json: cannot unmarshal {kind} into Go value of type api.{struct}")
    return Fields(value, struct)


def encode(value: Any) -> bytes:
    """`value` as Go writes it: compact, `<`, `>`, `&` and two separators escaped, the rest raw."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text.encode("utf-8", "replace")


def duration_ns(value: Any, default: int) -> int:
    """A `keep_alive`: seconds, or a text such as `1h30m`; negative means for ever (the largest). Raises Refused."""
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Refused(400, f"unsupported type: '{encode(value).decode()}'")
    ns = _text_ns(value) if isinstance(value, str) else int(value * 10**9)
    return (1 << 63) - 1 if ns < 0 else ns if ns < 1 << 63 else 0


def _text_ns(text: str) -> int:
    if text == "0":
        return 0
    sign, body = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    parts = re.findall(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)", body)
    if not parts or "".join(number + unit for number, unit in parts) != body:
        missing = re.fullmatch(r"\d+\.?\d*|\.\d+", body)
        raise Refused(400, f'time: {"missing unit in" if missing else "invalid"} duration "{text}"')
    return sign * int(sum(float(number) * _UNITS_NS[unit] for number, unit in parts))


def _constant(name: str) -> Any:
    raise Refused(400, f"invalid character '{name.lstrip('-')[0]}' looking for beginning of value")


def _float(text: str) -> float:
    if math.isinf(number := float(text)):
        raise Refused(400, f"json: cannot unmarshal number {text} into Go value of type float64")
    return number


def _complaint(text: str, at: int) -> str:
    if at >= len(text.rstrip()) or ('"' in text[at:] and text.count('"') % 2):
        return "unexpected EOF"
    return f"invalid character {text[at]!r} looking for beginning of value"
