"""What a page of the server's own is: its place, its guard, its handler, and what it answers.

Pages answer GET, and HEAD with it. A View is the one source of the route and of its part in the OpenAPI document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parallama.admin.guards import Guard
from parallama.admin.state import Handler


@dataclass(frozen=True, slots=True)
class Content:
    """One answer of a page."""

    description: str
    shapes: Mapping[str, Any]
    """What there is to be had, by media type: a type for `pydantic.TypeAdapter`; `str` for text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One page."""

    name: str
    """Its `operationId`, such as `get_status`."""
    path: str
    tag: str
    summary: str
    guard: Guard
    handler: Handler
    answers: Mapping[int, Content]
    """By status, without what follows from the guard."""


def page(media: str, shape: Any = str, description: str = "The page.") -> Mapping[int, Content]:
    """The answers of a view that has but one: 200."""
    return {200: Content(description, {media: shape})}
