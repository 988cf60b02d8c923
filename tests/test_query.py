"""The SQL files: every query fits the schema and its own header."""

from __future__ import annotations

import re

import pytest

from parallama.db.pool import STAGING, Database
from parallama.db.query import Queries, Query, load, nouns

EVERY = [query for noun in nouns() for query in load(noun)]


def test_there_are_queries_of_every_noun() -> None:
    assert {"api_keys", "usage", "users"} <= set(nouns())
    assert all(list(load(noun)) for noun in nouns())


@pytest.mark.parametrize("query", EVERY, ids=[query.name for query in EVERY])
async def test_a_query_fits_the_schema_and_its_header(database: Database, query: Query) -> None:
    async with database.connection() as one:
        await one.execute(STAGING)
        statement = await one.prepare(query.sql)
        assert len(statement.get_parameters()) == len(query.params)


@pytest.mark.parametrize("query", EVERY, ids=[query.name for query in EVERY])
def test_a_query_uses_each_parameter_of_its_header(query: Query) -> None:
    used = {int(number) for number in re.findall(r"\$(\d+)", query.sql)}
    assert used == set(range(1, len(query.params) + 1))
    assert len(set(query.params)) == len(query.params)


def test_queries_are_attributes_with_their_parameters() -> None:
    text = "-- of things\n-- name: one(a, b)\n-- why\nSELECT $1, $2;\n\n-- name: all()\nSELECT 1\n"
    things = Queries("things", text)
    assert things.one == Query("things.one", ("a", "b"), "-- why\nSELECT $1, $2;")
    assert [query.name for query in things] == ["things.one", "things.all"]
    with pytest.raises(AttributeError, match=r"things\.sql has no query named two"):
        _ = things.two


@pytest.mark.parametrize(
    "header", ["-- name: one", "-- name: one (a)", " -- name: one(a)", "-- name: one(a) -- why", "-- name:one(a)"]
)
def test_a_misspelt_header_is_refused(header: str) -> None:
    with pytest.raises(ValueError, match=r"things\.sql"):
        Queries("things", f"-- name: first()\nSELECT 1;\n{header}\nSELECT $1;\n")


def test_two_queries_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two queries named one"):
        Queries("things", "-- name: one()\nSELECT 1;\n-- name: one()\nSELECT 2;\n")
