"""Loads the SQL of `queries/<noun>.sql`: one file a noun, one `-- name: verb(args)` header a query.

The header names the positional parameters $1, $2, ... in order; comment lines below it say what the query is for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

_HEADER = re.compile(r"^-- name: (\w+)\(([\w, ]*)\)\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Query:
    """One statement, with the names of its parameters."""

    name: str
    params: tuple[str, ...]
    sql: str


class Queries:
    """The queries of one noun, as attributes."""

    def __init__(self, noun: str, text: str) -> None:
        self.noun = noun
        self._queries: dict[str, Query] = {}
        _, *parts = _HEADER.split(text)
        if len(parts) != 3 * text.count("-- name:"):
            raise ValueError(f"{noun}.sql has a header that is not `-- name: verb(args)`")
        for name, params, sql in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            if name in self._queries:
                raise ValueError(f"{noun}.sql has two queries named {name}")
            names = tuple(p.strip() for p in params.split(",") if p.strip())
            self._queries[name] = Query(f"{noun}.{name}", names, sql.strip())

    def __getattr__(self, name: str) -> Query:
        try:
            return self._queries[name]
        except KeyError:
            raise AttributeError(f"{self.noun}.sql has no query named {name}") from None

    def __iter__(self) -> Iterator[Query]:
        return iter(self._queries.values())


def load(noun: str) -> Queries:
    """The queries of `queries/<noun>.sql`."""
    return Queries(noun, resources.files("parallama.db.queries").joinpath(f"{noun}.sql").read_text("utf-8"))


def nouns() -> list[str]:
    """Every noun that has a file."""
    files = resources.files("parallama.db.queries").iterdir()
    return sorted(f.name.removesuffix(".sql") for f in files if f.name.endswith(".sql"))
