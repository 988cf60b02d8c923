"""What keys there are, read off the settings' classes: which are secrets, which are paths, which come near.

Knows nothing of files and values.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, SecretStr

from parallama.config.settings import Settings

_SECRET_ENDINGS = ("secret", "password", "token", "api_key")


def _inside(here: Any, step: str | int) -> Any:
    if inspect.isclass(here) and issubclass(here, BaseModel):
        field = here.model_fields.get(str(step))
        return field.annotation if field else None
    if get_origin(here) is tuple:
        return get_args(here)[0] if isinstance(step, int) else None
    if get_origin(here) is dict:
        return get_args(here)[1]
    return Any if here is Any else None


def shape(key: Iterable[str | int]) -> Any:
    """The type at `key`; None when there is no such key."""
    here: Any = Settings
    for step in key:
        here = _inside(here, step)
    return here


def is_list(key: Iterable[str | int]) -> bool:
    """Whether `key` holds a list."""
    return get_origin(shape(key)) is tuple


def is_structured(key: Iterable[str | int]) -> bool:
    """Whether `key` may hold a mapping or a list."""
    here = shape(key)
    return here is Any or get_origin(here) in (tuple, dict) or (inspect.isclass(here) and issubclass(here, BaseModel))


def names(key: Iterable[str | int]) -> list[str]:
    """The keys that may stand in the mapping at `key`; none where any may."""
    here = shape(key)
    return list(here.model_fields) if inspect.isclass(here) and issubclass(here, BaseModel) else []


def leaves(key: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every key that holds one value, or a list of them; a list of mappings counts with its first."""
    if is_list(key) and names((*key, 0)):
        key = (*key, 0)
    inner = names(key)
    if not inner:
        yield key
    for name in inner:
        yield from leaves((*key, name))


def _holding(kind: type) -> frozenset[tuple[str | int, ...]]:
    unions = ((key, shape(key)) for key in leaves())
    return frozenset(key for key, here in unions if isinstance(here, UnionType) and kind in get_args(here))


SECRETS = _holding(SecretStr)
PATHS = _holding(Path)


def secret_prefix(key: tuple[str | int, ...]) -> tuple[str | int, ...] | None:
    """The part of `key` that names a secret; None when nothing in it is one.

    Options of gateways are secret when their name ends like one.
    """
    for depth in range(1, len(key) + 1):
        start = key[:depth]
        option = depth > 2 and key[0] == "gateways" and str(key[depth - 1]).lower().endswith(_SECRET_ENDINGS)
        if start in SECRETS or option:
            return start
    return None


def nearest(wrong: str, right: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing when no name comes near."""
    near = difflib.get_close_matches(wrong, list(right), 1, 0.6)
    return f"; did you mean {near[0]}?" if near else ""


def suggest(key: tuple[str | int, ...]) -> str:
    """`; did you mean X?` for a key that does not exist: a sibling, or the same name in another section."""
    *around, last = key
    prefix = "".join(f"{step}." for step in around)
    siblings = {name: f"{prefix}{name}" for name in names(around)}
    elsewhere = {str(leaf[-1]): ".".join(map(str, leaf)) for leaf in leaves()}
    near = difflib.get_close_matches(str(last), list(siblings), 1) or [name for name in (last,) if name in elsewhere]
    return f"; did you mean {({**elsewhere, **siblings})[str(near[0])]}?" if near else ""
