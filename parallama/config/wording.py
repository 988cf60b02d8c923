"""Turns what pydantic refused into the operator's words: where, which key, the value, what would be right."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from parallama.config.layers import Key, Origin, Problem, Tree, dotted
from parallama.config.schema import is_structured, secret_prefix, suggest
from parallama.config.secret import MASK, mask_url

_LONGEST = 80

_RIGHT = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping: indented lines `key: value`",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "int_type": "must be a whole number",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be one of {expected}",
    "missing": "is missing",
    "model_type": "must be a mapping: indented lines `key: value`",
    "path_type": "must be a path",
    "string_too_short": "must not be empty",
    "string_type": "must be text; put it in quotes",
    "tuple_type": "must be a list, such as [a, b]",
}


def problems(error: ValidationError, tree: Tree, told: Set[Key], file: Origin) -> list[Problem]:
    """What pydantic refused, but for keys in `told`. `file` stands for what has no origin."""
    found = []
    for detail in error.errors(include_url=False):
        key: Key = detail["loc"]
        if any(key[: len(other)] == other for other in told):
            continue
        origin = tree.nearest(key)
        found.append(Problem(origin if origin.level else file, _words(detail, key, tree.origin(key).placeholder)))
    return found


def _words(detail: ErrorDetails, key: Key, placeholder: str | None) -> str:
    name = dotted(key)
    if detail["type"] == "extra_forbidden":
        return f"unknown key {name}{suggest(key)}"
    right = _right(detail)
    if not key:
        return right
    if detail["type"] == "missing" or is_structured(key):
        return f"{name} {right}"
    value = MASK if secret_prefix(key) else placeholder or _shown(detail["input"])
    return f"{name} is {value}, but {right}"


def _right(detail: ErrorDetails) -> str:
    context: dict[str, Any] = detail.get("ctx", {})
    if detail["type"] == "value_error":
        return str(context["error"])
    return _RIGHT.get(detail["type"], detail["msg"]).format(**context)


def _shown(value: object) -> str:
    if isinstance(value, str):
        text = mask_url(value)
        return repr(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")
    if isinstance(value, (dict, list, tuple)):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return "empty" if value is None else str(value).lower()
    return str(value)
