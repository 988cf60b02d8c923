"""Operations over HTTP: what is refused before they run, and how they are answered. Real sockets, no database."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from parallama.admin.api import Call, Operation, Page, Paging, Shape
from parallama.admin.guards import PUBLIC
from parallama.admin.http import MAX_BODY_KB, MAX_DEPTH, add_operations
from parallama.errors import Outdated
from parallama.exchange import IdGenerator
from parallama.proxy.middlewares import answer_edges

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Thing(Shape):
    name: str
    count: int = 1
    inner: Any = None


class Wish(Shape):
    grace_s: int = 5


@dataclass(frozen=True, slots=True)
class Stored:
    name: str
    version: int
    at: datetime
    id: UUID


async def echo(call: Call) -> dict[str, Any]:
    sent = None if call.body is None else call.body.model_dump()
    query = None if call.query is None else call.query.model_dump()
    return {"body": sent, "query": query, "path": dict(call.path), "asked": call.version}


async def stored(call: Call) -> Stored:
    if call.version not in (None, 3):
        raise Outdated("it is of version 3 now")
    return Stored("it", 3, datetime(2026, 1, 2, tzinfo=UTC), UUID(int=1))


async def nothing(_call: Call) -> None:
    return None


def on(name: str, method: str, path: str, **more: Any) -> Operation:
    return Operation(name=name, method=method, path=path, tag="t", summary="s", guard=PUBLIC, **more)


OPERATIONS = [
    on("make", "POST", "/things", run=echo, body=Thing, answer=dict, status=201),
    on("wish", "POST", "/wishes", run=echo, body=Wish, answer=dict),
    on("list", "GET", "/things", run=echo, query=Paging, answer=Page[Stored]),
    on("get", "GET", "/things/{name}", run=echo, answer=dict),
    on("one", "GET", "/things/{name}/parts/{id}", run=echo, answer=dict),
    on("change", "PATCH", "/stored", run=stored, answer=Stored, versioned=True, body=Wish),
    on("delete", "DELETE", "/stored", run=nothing, versioned=True),
]


@dataclass
class Api:
    url: str
    port: int
    http: aiohttp.ClientSession

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        async with self.http.request(method, self.url + path, **more) as answer:
            text = await answer.read()
            return answer.status, json.loads(text) if text else None

    async def send(self, body: bytes | str, content_type: str | None = "application/json") -> tuple[int, Any]:
        headers = {} if content_type is None else {"Content-Type": content_type}
        skipped = {"Content-Type"} if content_type is None else set()
        data = body.encode() if isinstance(body, str) else body
        return await self.ask("POST", "/things", data=data, headers=headers, skip_auto_headers=skipped)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api() -> AsyncIterator[Api]:
    app = web.Application(middlewares=[answer_edges(IdGenerator(), ())])
    add_operations(app, OPERATIONS, None)  # type: ignore[arg-type]  # nobody asks who is asking
    runner = web.AppRunner(app)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        async with aiohttp.ClientSession() as http:
            await runner.setup()
            try:
                await web.SockSite(runner, listening).start()
                yield Api(f"http://127.0.0.1:{port}", port, http)
            finally:
                await runner.cleanup()


def code(answer: tuple[int, Any]) -> tuple[int, str]:
    assert answer[1]["error"]["message"]
    return answer[0], answer[1]["error"]["code"]


# bodies


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
async def test_a_body_of_json_is_read(api: Api, content_type: str) -> None:
    status, answer = await api.send('{"name": "\\u00fc"}', content_type)
    assert (status, answer["body"]) == (201, {"name": "ü", "count": 1, "inner": None})


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "nonsense", ""])
async def test_another_content_type_is_refused(api: Api, content_type: str | None) -> None:
    assert code(await api.send('{"name": "a"}', content_type)) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"nonsense", b'{"name": "\xff"}', b'{"name": "\\ud800"}', b'{"name": NaN}', b"\xef\xbb\xbf{}"),
        *(
            b'{"name": "a", "name": "b"}',
            b'{"name": "a", "inner": [{"b": 1, "b": 1}]}',
            b'{"name": "a", "count": 1e999}',
        ),
        b'{"name": "a", "na\\u006de": "b"}',
        b"[" * 100_000,
        b'{"name": "a", "inner": ' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
    ],
    ids=range(13),
)
async def test_what_readers_of_json_do_not_agree_on_is_refused(api: Api, body: bytes) -> None:
    assert code(await api.send(body)) == (400, "invalid_json")


async def test_what_is_nested_less_deep_is_read(api: Api) -> None:
    inner = b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1)
    assert (await api.send(b'{"name": "a", "inner": ' + inner + b"}"))[0] == 201


@pytest.mark.parametrize("body", ["[]", '"a"', "1", "null", "true"])
async def test_a_body_that_is_no_object_is_refused(api: Api, body: str) -> None:
    assert code(await api.send(body)) == (400, "invalid_json_shape")


@pytest.mark.parametrize("count", ["1" * 30, "-" + "9" * 300, "1" + "0" * 200, '"' + "1" * 5000 + '"'])
async def test_a_number_that_is_too_large_is_refused(api: Api, count: str) -> None:
    assert code(await api.send(f'{{"name": "a", "count": {count}}}')) == (422, "invalid")


async def test_a_body_is_read_up_to_its_limit(api: Api) -> None:
    frame = len('{"name": ""}')
    fits = "a" * (MAX_BODY_KB * 1024 - frame)
    assert (await api.send(f'{{"name": "{fits}"}}'))[0] == 201
    assert code(await api.send(f'{{"name": "{fits}a"}}')) == (413, "body_too_large")


async def test_a_body_in_pieces_has_the_same_limit(api: Api) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_KB + 1):
            yield b" " * 1024

    answer = await api.ask("POST", "/things", data=pieces(), headers={"Content-Type": "application/json"})
    assert code(answer) == (413, "body_too_large")


async def test_every_wrong_field_is_named_and_none_is_quoted(api: Api) -> None:
    status, answer = await api.send('{"count": "hidden", "other": "hidden"}')
    fields = [one["field"] for one in answer["error"]["detail"]]
    assert (status, sorted(fields)) == (422, ["count", "name", "other"])
    assert "hidden" not in json.dumps(answer)


async def test_nothing_stands_for_defaults_where_nothing_is_needed(api: Api) -> None:
    status, answer = await api.ask("POST", "/wishes")
    assert (status, answer["body"]) == (200, {"grace_s": 5})
    assert code(await api.ask("POST", "/things"))[0] == 415


# queries and paths


async def test_a_query_is_read_by_its_shape(api: Api) -> None:
    status, answer = await api.ask("GET", "/things?limit=7")
    assert (status, answer["query"]) == (200, {"limit": 7, "cursor": None})


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=1&limit=2", "other=1", "cursor=%00", "limit=", "%00=1"])
async def test_a_wrong_query_is_refused(api: Api, query: str) -> None:
    assert code(await api.ask("GET", f"/things?{query}")) == (422, "invalid")


async def test_a_query_where_none_is_taken_is_refused(api: Api) -> None:
    assert code(await api.ask("GET", "/things/a?api_key=1")) == (422, "invalid")


async def test_an_id_that_is_no_uuid_is_not_there(api: Api) -> None:
    one = uuid4()
    status, answer = await api.ask("GET", f"/things/a/parts/{str(one).upper()}")
    assert (status, answer["path"]) == (200, {"name": "a", "id": str(one)})
    assert code(await api.ask("GET", "/things/a/parts/7")) == (404, "not_found")


async def test_a_path_with_what_no_name_has_is_not_there(api: Api) -> None:
    assert code(await api.ask("GET", "/things/a%00b")) == (404, "not_found")
    status, answer = await api.ask("GET", "/things/%C3%BC%20%2F")
    assert (status, answer["path"]) == (200, {"name": "ü /"})


# versions and answers


@pytest.mark.parametrize("given", [None, "*", '"3"', ' "3" '])
async def test_the_version_that_there_is_may_be_changed(api: Api, given: str | None) -> None:
    headers = {} if given is None else {"If-Match": given}
    assert (await api.ask("PATCH", "/stored", headers=headers))[0] == 200


@pytest.mark.parametrize("given", ['"2"', '""', '"03"', 'W/"3"', '"three"', '"' + "9" * 40 + '"', '"-3"'])
async def test_any_other_version_is_outdated(api: Api, given: str) -> None:
    assert code(await api.ask("PATCH", "/stored", headers={"If-Match": given})) == (412, "outdated")


@pytest.mark.parametrize("given", ["3", '"3", "4"', '"3', "", "W/3"])
async def test_what_is_no_version_is_refused(api: Api, given: str) -> None:
    assert code(await api.ask("PATCH", "/stored", headers={"If-Match": given})) == (400, "bad_request")


async def test_an_answer_has_its_version_as_etag(api: Api) -> None:
    async with api.http.patch(f"{api.url}/stored") as answer:
        assert answer.headers["ETag"] == '"3"'
        assert answer.headers["Cache-Control"] == "no-store"
        found = await answer.json()
    assert found == {"name": "it", "version": 3, "at": "2026-01-02T00:00:00Z", "id": str(UUID(int=1))}


async def test_done_is_204_without_a_body(api: Api) -> None:
    assert await api.ask("DELETE", "/stored") == (204, None)


async def test_head_is_get_without_a_body(api: Api) -> None:
    async with api.http.get(f"{api.url}/things") as got, api.http.head(f"{api.url}/things") as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, got.headers["Content-Length"])
        assert await answer.read() == b""


async def test_a_method_that_is_not_there_is_told(api: Api) -> None:
    assert code(await api.ask("PUT", "/stored")) == (405, "method_not_allowed")
