"""How `client.admin` asks for lists, names records, and takes answers of something else. Without a server."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from parallama.admin.api import Paging
from parallama.client import operations, own
from parallama.client.session import Answered, Request, Steps
from parallama.errors import NotFound, UpstreamFailed


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_no_path_can_hold_is_not_found(name: str) -> None:
    with pytest.raises(NotFound, match=re.escape(repr(name))):
        operations.delete_user(name)
    with pytest.raises(NotFound):
        own.delete_my_key(name)


def listed(*parts: list[str], limit: int | None) -> tuple[list[str], list[dict[str, list[str]]]]:
    """What a list of these parts gives, and the queries that were asked."""
    queries: list[dict[str, list[str]]] = []

    def ask(request: Request) -> Steps:
        queries.append(parse_qs(urlsplit(request.path).query))
        number = len(queries)
        cursor = str(number) if number < len(parts) else None
        page = {"items": [{"name": one} | ROLE for one in parts[number - 1]], "next_cursor": cursor}
        return Answered(200, {}, json.dumps(page).encode(), None)
        yield request

    steps = operations.list_roles(limit=limit)(ask)
    with pytest.raises(StopIteration) as done:
        next(steps)
    return [role.name for role in done.value.value], queries


ROLE: dict[str, Any] = {
    "description": "", "parent": None, "permissions": [], "inherited": [], "seeded": False, "users": 0,
    "created_at": datetime(2027, 1, 31, tzinfo=UTC).isoformat(), "version": 1,
}  # fmt: skip


def test_a_list_is_asked_for_part_after_part() -> None:
    names, queries = listed(["a", "b"], ["c"], [], ["d"], limit=None)
    assert names == ["a", "b", "c", "d"]
    assert [query.get("cursor") for query in queries] == [None, ["1"], ["2"], ["3"]]
    assert {query["limit"][0] for query in queries} == {str(MOST)}


MOST = next(one.le for one in Paging.model_fields["limit"].metadata if hasattr(one, "le"))
"""Items of the longest part that the server gives."""


def test_no_more_is_asked_for_than_is_wanted() -> None:
    names, queries = listed(["a", "b"], ["c"], ["d"], limit=3)
    assert (names, [query["limit"] for query in queries]) == (["a", "b", "c"], [["3"], ["1"]])
    assert listed(["a"], limit=0) == ([], [])


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"null", b'{"items": 3, "next_cursor": null}', b""])
def test_an_answer_of_something_else_is_a_failure_of_the_server(body: bytes) -> None:
    def ask(request: Request) -> Steps:
        return Answered(200, {}, body, None)
        yield request

    for use in (operations.list_roles(), operations.get_user("x")):
        with pytest.raises(UpstreamFailed, match="none of a Parallama"):
            next(use(ask))


def test_a_page_in_place_of_no_body_is_a_failure_of_the_server() -> None:
    def ask(request: Request) -> Steps:
        return Answered(200, {}, b"<html>", None)
        yield request

    with pytest.raises(UpstreamFailed, match="none of a Parallama"):
        next(operations.delete_user("x")(ask))
