"""Rows as documents: what a spreadsheet makes of them is what they say."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from parallama.ledger.documents import csv_table, json_array


async def each(*rows: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
    for row in rows:
        yield row


async def table(*rows: Mapping[str, Any]) -> list[dict[str, str]]:
    text = b"".join([part async for part in csv_table(tuple(rows[0]), each(*rows))]).decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
async def test_text_that_begins_like_a_formula_is_text(first: str) -> None:
    name = f'{first}HYPERLINK("http://x","y")'
    assert await table({"model": name, "error": first}) == [{"model": f"'{name}", "error": f"'{first}"}]


@pytest.mark.parametrize("name", ["llama3.2:1b", "a=b", "a-b", " =1", "'=1", "", "x\r\n=1"])
async def test_other_text_is_as_it_was(name: str) -> None:
    assert await table({"model": name, "n": 1}) == [{"model": name, "n": "1"}]


async def test_numbers_and_truths_are_no_text() -> None:
    row = {"a": -1, "b": -0.5, "c": True, "d": False, "e": None}
    assert await table(row) == [{"a": "-1", "b": "-0.5", "c": "true", "d": "false", "e": ""}]


async def test_json_says_what_there_is() -> None:
    row = {"model": "=1+1", "end_user": "@x"}
    assert json.loads(b"".join([part async for part in json_array(each(row))])) == [row]
