"""The settings that the environment gives: PARALLAMA__SECTION__KEY for every key, and three short names.

An empty variable counts as not set. Values are text, or YAML where they begin with [ or { and the key may
hold a list or a mapping.
"""

from __future__ import annotations

from collections.abc import Mapping

from parallama.config.document import Document
from parallama.config.layers import Key, Leaf, Level, Origin, Problem, dotted
from parallama.config.schema import is_list, is_structured, leaves, nearest, shape
from parallama.errors import ConfigError

PREFIX = "PARALLAMA__"

SHORT: dict[str, Key] = {
    "PARALLAMA_DB_URL": ("database", "url"),
    "PARALLAMA_REDIS_URL": ("redis", "url"),
    "PARALLAMA_JWT_SECRET": ("auth", "jwt_secret"),
}


def variable(key: Key) -> str:
    """The variable that sets `key`."""
    return PREFIX + "__".join(map(str, key)).upper()


def read_environment(environ: Mapping[str, str]) -> tuple[list[Leaf], list[Problem]]:
    """What the environment says, and what is wrong with it."""
    found: list[Leaf] = []
    problems: list[Problem] = []
    first: dict[Key, str] = {}
    for name, key in _ours(environ):
        origin, other = Origin(Level.ENVIRONMENT, name), first.setdefault(key, name)
        if shape(key) is None:
            problems.append(Problem(origin, f"there is no such setting{nearest(name, map(variable, leaves()))}"))
        elif environ[other] != environ[name]:
            problems.append(Problem(origin, f"{other} sets {dotted(key)} too, to another value; unset one of them"))
        else:
            _read(environ[name], key, origin, found, problems)
    return found, problems


def _ours(environ: Mapping[str, str]) -> list[tuple[str, Key]]:
    """The variables that are settings, in the order in which they apply: a section before its keys."""
    found = []
    for name in sorted(environ, key=lambda name: (name.upper(), name)):
        if environ[name] and name.upper().startswith(PREFIX):
            found.append((name, _key(name[len(PREFIX) :].lower().split("__"))))
        elif environ[name] and name in SHORT:
            found.append((name, SHORT[name]))
    return sorted(found, key=lambda pair: len(pair[1]))


def _key(segments: list[str]) -> Key:
    key: Key = ()
    for segment in segments:
        key = (*key, int(segment) if is_list(key) and segment.isdecimal() else segment)
    return key


def _read(value: str, key: Key, origin: Origin, found: list[Leaf], problems: list[Problem]) -> None:
    if not (value.lstrip().startswith(("[", "{")) and is_structured(key)):
        found.append(Leaf(key, value, origin))
        return
    try:
        document = Document(origin).read(value, key)
    except ConfigError as error:
        problems.append(Problem(origin, str(error).removeprefix(f"{origin}: ")))
        return
    found += document.leaves
    problems += document.problems
