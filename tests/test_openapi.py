"""The OpenAPI document, and the page that shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from admin_api import Api, api, in_one_loop
from running import RunningGateway

from parallama.admin.api import Operation, Shape
from parallama.admin.guards import PUBLIC, needs
from parallama.admin.openapi import describe, refusals
from parallama.errors import Conflict, OverLimit

__all__ = ["api"]
pytestmark = in_one_loop

PAGES = ["/admin/v1/docs", "/admin/v1/docs/viewer.js", "/admin/v1/docs/viewer.css"]


class Body(Shape):
    name: str


def on(**more: Any) -> Operation:
    async def run(_call: Any) -> None:
        return None

    settings = {"method": "POST", "path": "/x", "guard": PUBLIC} | more
    return Operation(name="it", tag="t", summary="s", run=run, **settings)


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method.upper(), operation


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {422, 503}),
        ({"guard": needs("a")}, {401, 403, 422, 503}),
        ({"path": "/x/{id}"}, {404, 422, 503}),
        ({"body": Body}, {400, 413, 415, 422, 503}),
        ({"versioned": True}, {400, 412, 422, 503}),
        ({"errors": (Conflict, OverLimit)}, {409, 422, 429, 503}),
    ],
)
async def test_exactly_what_can_be_answered_is_declared(settings: dict[str, Any], expected: set[int]) -> None:
    operation = on(**settings)
    assert refusals(operation) == expected
    declared = describe([operation])["paths"][operation.path]["post"]["responses"]
    assert {int(status) for status in declared} == {204, *expected}


async def test_the_document_has_every_route_of_the_api(api: Api) -> None:
    document = await api.done("GET", "openapi.json")
    assert document["openapi"] == "3.1.0"
    shown = {(method, path) for path, method, _ in operations(document)}
    routed = {
        (route.method, resource.canonical)
        for resource in api.gateway.app.router.resources()
        for route in (resource if re.match("/(admin/v1|me|auth)(/|$)", resource.canonical) else ())
        if route.method != "HEAD"
    }
    assert shown == routed - {("GET", path) for path in [*PAGES, "/admin/v1/openapi.json"]}


async def test_names_are_unique_and_references_lead_somewhere(api: Api) -> None:
    document = await api.done("GET", "openapi.json")
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    references = set(re.findall(r"'#/components/schemas/([^']*)'", str(document)))
    assert references
    assert references <= document["components"]["schemas"].keys()
    assert "/$defs/" not in str(document)


async def test_whoever_changes_a_version_is_told_of_etag_and_if_match(api: Api) -> None:
    operation = (await api.done("GET", "openapi.json"))["paths"]["/admin/v1/gateways/{gateway}"]
    assert "ETag" in operation["get"]["responses"]["200"]["headers"]
    assert [one["name"] for one in operation["patch"]["parameters"]] == ["gateway", "If-Match"]
    assert "412" in operation["patch"]["responses"]


async def test_refusals_that_pass_say_when_to_try_again(api: Api) -> None:
    responses = (await api.done("GET", "openapi.json"))["paths"]["/auth/login"]["post"]["responses"]
    assert [status for status, one in responses.items() if "Retry-After" in one.get("headers", {})] == ["429", "503"]


async def test_the_document_is_for_whoever_is_known(api: Api) -> None:
    assert (await api("GET", "openapi.json", key=api.gateway.key)).status == 200
    assert (await api("GET", "openapi.json", key="")).status == 401


async def page(gateway: RunningGateway, path: str) -> tuple[str, str, str]:
    """Its type, its policy, its text."""
    async with gateway.http.get(gateway.url + path) as answer:
        assert answer.status == 200
        return answer.content_type, answer.headers["Content-Security-Policy"], await answer.text()


async def test_the_viewer_runs_no_script_but_its_own(api: Api) -> None:
    found = [await page(api.gateway, path) for path in PAGES]
    assert [kind for kind, _, _ in found] == ["text/html", "text/javascript", "text/css"]
    for _, policy, text in found:
        assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy.split("; "))
        assert "unsafe" not in policy
        assert not re.search(r"https?://|innerHTML|localStorage|sessionStorage|document\.cookie|style=|\son\w+=", text)


async def test_the_viewer_finds_its_parts(api: Api) -> None:
    _, _, text = await page(api.gateway, PAGES[0])
    linked = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert sorted(f"/admin/v1/{link}" for link in linked) == sorted(PAGES[1:])
