"""Small objects that hold values: made often, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def immutable(cls: type[T]) -> type[T]:
    """A dataclass that is frozen for type checkers alone: at run time that takes three times as long to be made."""
    return dataclass(slots=True, kw_only=True)(cls)
