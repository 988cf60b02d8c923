"""Reads a native request body as Go's encoding/json reads it into a struct, so that we judge what the node does.

Keys match without case, the last of equal ones wins, objects merge, a null changes nothing or unsets. A body
that says everything once, in the right spelling, stays as it is; any other is encoded anew as it was understood.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from parallama.errors import BadRequest
from parallama.gateway.fields import whole_characters
from parallama_ollama.goscan import kind as kind_of
from parallama_ollama.goscan import numbers, scan


@dataclass(frozen=True, slots=True)
class Kind:
    """What Go does with a field."""

    go: str
    """Its type, as Go's errors name it; empty: any value is taken."""
    types: frozenset[type]
    """What orjson may have made of a value that is in order."""
    json: frozenset[str]
    """The kinds of value that are in order, as Go names them."""
    null_unsets: bool
    """Whether a null removes an earlier value (pointers, maps, slices) or changes nothing."""
    merges: bool = False
    """Whether a second object is merged into the first."""


def _kind(go: str, types: set[type], json: str, *, null_unsets: bool, merges: bool = False) -> Kind:
    return Kind(go, frozenset(types), frozenset(json.split()), null_unsets, merges)


STRING = _kind("string", {str}, "string", null_unsets=False)
INT = _kind("int", {int}, "number", null_unsets=False)
BOOL = _kind("bool", {bool}, "bool", null_unsets=False)
OPTIONAL_BOOL = _kind("bool", {bool}, "bool", null_unsets=True)
MAP = _kind("map[string]interface {}", {dict}, "object", null_unsets=True, merges=True)
STRINGS = _kind("map[string]string", {dict}, "object", null_unsets=True, merges=True)
ANY = _kind("", {str, int, float, bool, list, dict}, "string number bool array object", null_unsets=True)
RAW = _kind("", {str, int, float, bool, list, dict, type(None)}, f"{' '.join(ANY.json)} null", null_unsets=False)
"""Bytes that Go keeps for later (json.RawMessage): to whoever asks whether there are any, a null is there."""


@dataclass(frozen=True, slots=True)
class Struct:
    """A request type of Ollama: its name in Go and the fields that it knows."""

    name: str
    fields: Mapping[str, Kind]
    known: frozenset[tuple[str, type]] = field(init=False, repr=False)
    """Each field with each type that orjson may have made of it."""

    def __post_init__(self) -> None:
        pairs = [(name, made) for name, kind in self.fields.items() for made in kind.types]
        object.__setattr__(self, "known", frozenset(pairs))

    def match(self, key: str) -> str | None:
        """The field that Go takes `key` for; None: it is ignored. Raises BadRequest for a mere lookalike.

        Go folds ASCII and the two letters beyond it that fold to ASCII, U+017F and U+212A (encoding/json,
        foldName); other readers fold more.
        """
        folded = key.lower().replace("ſ", "s")
        if folded in self.fields:
            return folded
        if (looks := key.casefold()) in self.fields:
            raise BadRequest(f"unknown field {key!r}: write {looks!r}")
        return None

    def plain(self, body: Mapping[str, Any]) -> bool:
        """Whether every key of a parsed body is a field, well spelt and of its type, or nothing like one."""
        if self.known.issuperset(zip(body, map(type, body.values()), strict=True)):
            return True  # of fields alone, as most are: found without a step of Python for each
        fields = self.fields
        for key, value in body.items():
            kind = fields.get(key)
            if kind is None:
                if not key.isascii() or key.lower() in fields:
                    return False
            elif type(value) not in kind.types:
                return False
        return True


@dataclass(frozen=True, slots=True)
class Reading:
    """A body as it was understood."""

    body: dict[str, Any]
    """By the right names, no field null but a RAW one. A slow reading leaves values that nothing looks into as
    Fragments."""
    raw: bytes | None
    """The client's bytes, when they say `body` to every reader; None: send the encoding of `body`."""


def read(raw: bytes, struct: Struct) -> Reading:
    """Read a body into the fields of `struct`. Raises BadRequest in Go's words."""
    try:
        body = orjson.loads(raw)
        plain = type(body) is dict and not _has_equal_keys(raw, body) and struct.plain(body)
    except (orjson.JSONDecodeError, TypeError):  # TypeError: nested deeper than orjson writes
        plain = False
    return Reading(body, raw) if plain else _read_slowly(raw, struct)


def _has_equal_keys(raw: bytes, body: object) -> bool:
    """Whether an object in `raw`, at any depth, has equal keys, or may have: \\u0022 spoils the proof.

    Each quote in `raw` delimits a string or stands for itself in one, and orjson writes both as one quote
    again; so their number falls exactly when a member was dropped, at least by the two around its key. Most
    clients write as orjson does, and nothing was dropped of what is the same again.
    """
    written = orjson.dumps(body)
    return written != raw and (b"\\u0022" in raw or raw.count(b'"') != written.count(b'"'))


def _read_slowly(raw: bytes, struct: Struct) -> Reading:
    found = scan(raw)
    if found.kind not in ("object", "null"):
        raise BadRequest(f"json: cannot unmarshal {found.kind} into Go value of type api.{struct.name}")
    body: dict[str, Any] = {}
    seen: set[str] = set()
    odd = found.kind == "null" or bool(raw[found.end :].strip(b" \t\r\n"))
    for quoted, value in found.members:
        key, clean = orjson.loads(_clean(quoted)), _clean(value)
        field = struct.match(key)
        odd = odd or clean != value or _clean(quoted) != quoted or field in seen or field not in (key, None)
        if field is None:
            body[key] = orjson.Fragment(clean)
        else:
            seen.add(field)
            _store(body, struct, field, clean)
            odd = odd or _repeats(clean, struct.fields[field])
    return Reading(body, None if odd else raw)


def _store(body: dict[str, Any], struct: Struct, field: str, value: bytes) -> None:
    kind = struct.fields[field]
    found = kind_of(value)
    if found == "null" and kind is not RAW:
        if kind.null_unsets:
            body.pop(field, None)
    elif found not in kind.json:
        raise _mismatch(found, struct, field, kind.go)
    elif kind.merges:
        body.setdefault(field, {}).update(_map(value, struct, field, kind))
    elif kind is INT and not _is_int64(value):
        raise _mismatch(f"number {value.decode()}", struct, field, kind.go)
    else:
        body[field] = orjson.Fragment(value) if kind in (ANY, RAW) and found != "null" else orjson.loads(value)


def _repeats(value: bytes, kind: Kind) -> bool:
    """Whether a map names a member twice."""
    members = scan(value).members if kind.merges else []
    return len({orjson.loads(key) for key, _ in members}) < len(members)


def _map(value: bytes, struct: Struct, field: str, kind: Kind) -> dict[str, Any]:
    """The members of a map, whose keys match exactly; the last of equal ones wins."""
    members = {orjson.loads(key): item for key, item in scan(value).members}
    return {key: _item(item, struct, field, kind) for key, item in members.items()}


def _item(value: bytes, struct: Struct, field: str, kind: Kind) -> Any:
    if kind is MAP:
        for number in numbers(value):
            if math.isinf(float(number)):
                raise _mismatch(f"number {number.decode()}", struct, field, "float64")
    elif kind_of(value) not in ("string", "null"):
        raise _mismatch(kind_of(value), struct, field, "string")
    try:
        item = orjson.loads(value)
        orjson.dumps([[item]])
    except (orjson.JSONDecodeError, TypeError):  # nested deeper than orjson reads, or writes inside the body
        return orjson.Fragment(value)
    return item


def _is_int64(number: bytes) -> bool:
    return re.fullmatch(rb"-?[0-9]{1,19}", number) is not None and -(2**63) <= int(number) < 2**63


def _mismatch(found: str, struct: Struct, field: str, go: str) -> BadRequest:
    return BadRequest(f"json: cannot unmarshal {found} into Go struct field {struct.name}.{field} of type {go}")


_escaped_byte = re.compile("[\udc80-\udcff]")


def _clean(value: bytes) -> bytes:
    """A valid value with U+FFFD for each byte that is no UTF-8 and each lone surrogate, as Go decodes it."""
    try:
        value.decode()
    except UnicodeDecodeError:
        value = _escaped_byte.sub("\ufffd", value.decode(errors="surrogateescape")).encode()
    return whole_characters(value)
