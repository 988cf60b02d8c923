"""The layers that settings are made of: what each source says of a key, and the tree that they write over.

A key is a path such as ("nodes", 0, "url"). Every value keeps its Origin, for messages and `config show`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from parallama.config.schema import secret_prefix
from parallama.errors import ConfigError

Key = tuple[str | int, ...]

_NAME = re.compile(r"[\w-]*")


class Level(IntEnum):
    """The sources; a greater one wins."""

    DEFAULT = 0
    FILE = 1
    ENVIRONMENT = 2
    FLAG = 3


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from."""

    level: Level
    source: str
    """The file's path, the variable's name, or words."""
    line: int = 0
    """In the file, from 1; 0: there is none."""
    placeholder: str | None = None
    """The text in the file, where `${...}` in it was replaced."""

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


DEFAULT = Origin(Level.DEFAULT, "default")
COMMAND_LINE = Origin(Level.FLAG, "command line")


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a source says of a key: a scalar; [] before a list's items; {} before a mapping's keys."""

    key: Key
    value: Any
    origin: Origin


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, as one line for the operator."""

    origin: Origin
    text: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.text}"


def refusal(problems: Sequence[Problem]) -> ConfigError:
    """One ConfigError that tells all problems, the file's first and by line."""
    inorder = sorted(problems, key=lambda problem: (problem.origin.level, problem.origin.line))
    return ConfigError("\n".join(dict.fromkeys(map(str, inorder))))


def dotted(key: Key) -> str:
    """`key` as people write it, nothing below a secret, and of odd names only the start.

    Where the space after a colon is missing, YAML takes `jwt_secret:abc` for a name.
    """
    return ".".join(_safe(step) for step in secret_prefix(key) or key)


def _safe(step: str | int) -> str:
    text = str(step)
    start = _NAME.match(text)
    return text if start is None or start[0] == text else f"{start[0]}..."


def flatten(key: Key, value: Any, origin: Origin) -> Iterator[Leaf]:
    """The leaves of a nested value."""
    if isinstance(value, dict):
        yield Leaf(key, {}, origin)
        for name, inner in value.items():
            yield from flatten((*key, str(name)), inner, origin)
    elif isinstance(value, (list, tuple)):
        yield Leaf(key, [], origin)
        for index, inner in enumerate(value):
            yield from flatten((*key, index), inner, origin)
    else:
        yield Leaf(key, value, origin)


@dataclass(slots=True)
class Tree:
    """Nested values, and the origin of each that is no default."""

    values: dict[str, Any]
    origins: dict[Key, Origin] = field(default_factory=dict)

    def put(self, leaf: Leaf) -> None:
        """Write `leaf` over what was there, merging mappings. Raises IndexError beyond a list's end."""
        *way, last = leaf.key
        holder: Any = self.values
        for step, after in zip(way, leaf.key[1:], strict=True):
            holder = _enter(holder, step, after)
        if leaf.value == {} and isinstance(_get(holder, last), dict):
            self.origins[leaf.key] = leaf.origin
            return
        if isinstance(_get(holder, last), (dict, list)):
            self._forget(leaf.key)
        _set(holder, last, _copy(leaf.value))
        self.origins[leaf.key] = leaf.origin

    def _forget(self, key: Key) -> None:
        depth = len(key)
        self.origins = {other: origin for other, origin in self.origins.items() if other[:depth] != key}

    def get(self, key: Key) -> Any:
        """The value at `key`; None when there is none."""
        here: Any = self.values
        for step in key:
            here = _get(here, step)
        return here

    def origin(self, key: Key) -> Origin:
        """Where the value at `key` came from."""
        return self.origins.get(key, DEFAULT)

    def nearest(self, key: Key) -> Origin:
        """The origin of `key`, or of the innermost thing around it that has one or holds something that has."""
        for depth in range(len(key), 0, -1):
            inside = [origin for other, origin in self.origins.items() if other[:depth] == key[:depth]]
            if inside:
                return self.origins.get(key[:depth]) or max(inside, key=lambda origin: origin.level)
        return DEFAULT


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, (dict, list)) else value


def _get(holder: Any, step: str | int) -> Any:
    if isinstance(holder, dict):
        return holder.get(step)
    if isinstance(holder, list) and isinstance(step, int) and step < len(holder):
        return holder[step]
    return None


def _set(holder: Any, step: str | int, value: Any) -> None:
    if isinstance(holder, list) and step == len(holder):
        holder.append(value)
    else:
        holder[step] = value


def _enter(holder: Any, step: str | int, after: str | int) -> Any:
    """The mapping or list at `step`, made when there is none; `after` is looked for in it."""
    wanted = list if isinstance(after, int) else dict
    inner = _get(holder, step)
    if not isinstance(inner, wanted):
        inner = wanted()
        _set(holder, step, inner)
    return inner
