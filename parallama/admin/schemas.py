"""JSON Schemas of what goes in and out, as the OpenAPI document shows them.

What is answered is always whole, so nothing of it is optional or has a default. A change names what is to be changed:
what it leaves out stays as it is, and has no default either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from types import GenericAlias
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from parallama.admin.api import Operation, Shape
from parallama.admin.views import View

Schema = dict[str, Any]

_Place = tuple[str, str]
"""The name of an operation or view, and what it is of it: `query`, `body`, `answer`, or status and media type."""
_WHOLE = ("", "answers")
_Field = core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField


class Schemas:
    """Those of the operations and views, by name and place: `query`, `body`, `answer`, or status and media type of a
    view's."""

    def __init__(self, operations: Iterable[Operation], views: Iterable[View]) -> None:
        operations = list(operations)
        answers = (*_answers(operations), *_of_views(views))
        self._found, self.shared = _generated((*_read(operations),), answers)
        for one in operations:
            if one.method == "PATCH":
                for field in self.whole(one.name, "body").get("properties", {}).values():
                    field.pop("default", None)

    def of(self, name: str, place: str) -> Schema:
        """As it is written at its place: most only refer to one of `shared`. {}: there is none."""
        return self._found.get((name, place), {})

    def whole(self, name: str, place: str) -> Schema:
        """The same in full."""
        schema = self.of(name, place)
        return self.shared[str(schema["$ref"]).rpartition("/")[2]] if "$ref" in schema else schema


class _Generator(GenerateJsonSchema):
    def field_is_required(self, field: _Field, total: bool) -> bool:
        is_answered = self.mode == "serialization" and field["type"] != "typed-dict-field"
        return is_answered or super().field_is_required(field, total)

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> Schema:
        return self.generate_inner(schema["schema"]) if self.mode == "serialization" else super().default_schema(schema)


@cache  # all gateways of a process have the same shapes
def _generated(
    read: tuple[tuple[_Place, type[Shape]], ...], answers: tuple[tuple[_Place, Any], ...]
) -> tuple[Mapping[_Place, Schema], Mapping[str, Schema]]:
    """The schemas by place, and those that they refer to, by name."""
    # pydantic reads the docstrings of a plain dataclass's fields only where something around it says so
    every: Any = GenericAlias(tuple, tuple(shape for _, shape in answers))
    whole = TypeAdapter(every, config=ConfigDict(use_attribute_docstrings=True))
    found, described = TypeAdapter.json_schemas(
        [
            *((place, "validation", TypeAdapter(shape)) for place, shape in read),
            (_WHOLE, "serialization", whole),
        ],
        ref_template="#/components/schemas/{model}",
        schema_generator=_Generator,
    )
    by_place = {place: schema for (place, _), schema in found.items()}
    answered = by_place.pop(_WHOLE).get("prefixItems", [])
    return by_place | dict(zip((place for place, _ in answers), answered, strict=True)), described.get("$defs", {})


def _read(operations: Iterable[Operation]) -> Iterator[tuple[_Place, type[Shape]]]:
    for one in operations:
        for place, shape in (("query", one.query), ("body", one.body)):
            if shape is not None:
                yield (one.name, place), shape


def _answers(operations: Iterable[Operation]) -> Iterator[tuple[_Place, Any]]:
    for one in operations:
        if one.answer is not None:
            yield (one.name, "answer"), one.answer


def _of_views(views: Iterable[View]) -> Iterator[tuple[_Place, Any]]:
    for view in views:
        for status, content in view.answers.items():
            for media, shape in content.shapes.items():
                yield (view.name, f"{status} {media}"), shape
