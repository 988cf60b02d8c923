"""The OpenAPI document, and the page that shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import jsonschema_rs
import pytest
from admin_api import Api, api, in_one_loop
from aiohttp.web_urldispatcher import PrefixedSubAppResource
from running import RunningGateway
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from parallama.admin.api import Operation, Shape
from parallama.admin.dialects import dialect_paths, dialect_tags, plain
from parallama.admin.guards import PUBLIC, needs
from parallama.admin.openapi import describe, refusals
from parallama.errors import ApiError, Conflict, OverLimit
from parallama.gateway.api import Body as Read
from parallama.gateway.api import Gateway, Reply, Route, Use
from parallama.gateway.families import Families

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


async def test_the_document_is_an_openapi_document(api: Api) -> None:
    document = await api.done("GET", "openapi.json")
    OPENAPI_31_VALIDATOR.validate(document)
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema)


def routed(api: Api, *, of_gateways: bool) -> set[tuple[str, str]]:
    """Method and path of the routes that a gateway owns, or that none does."""
    return {
        (route.method, route.resource.canonical)
        for resource in api.gateway.app.router.resources()
        if isinstance(resource, PrefixedSubAppResource) == of_gateways
        for route in resource
        if route.resource is not None
    }


async def shown(api: Api) -> Mapping[tuple[str, str], Any]:
    """The operations of the document by method and path."""
    found = operations(await api.done("GET", "openapi.json"))
    return {(method, path): operation for path, method, operation in found}


def is_relayed(operation: Any) -> bool:
    return "default" in operation["responses"]


async def test_the_document_has_every_route_that_no_gateway_owns_and_no_other(api: Api) -> None:
    own = {place for place, operation in (await shown(api)).items() if not is_relayed(operation)}
    found = routed(api, of_gateways=False)
    assert own == {(method, path) for method, path in found if method != "HEAD"}
    assert {path for method, path in found if method == "HEAD"} == {path for method, path in own if method == "GET"}


async def test_the_document_has_every_route_of_a_gateway_and_no_other(api: Api) -> None:
    relayed = {place for place, operation in (await shown(api)).items() if is_relayed(operation)}
    assert relayed == {place for place in routed(api, of_gateways=True) if not place[1].endswith("/")}
    assert len(relayed) > 40


async def test_what_is_open_to_everybody_asks_for_no_credential(api: Api) -> None:
    places = {
        (route.method, resource.canonical)
        for resource in api.gateway.app.router.resources()
        for route in resource
        if not isinstance(resource, PrefixedSubAppResource) and route.handler.guard.public  # type: ignore[attr-defined]
    }
    free = {place for place, operation in (await shown(api)).items() if operation["security"] == []}
    assert free == {place for place in places if place[0] != "HEAD"}


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/status", "/discovery", "/admin/v1/openapi.json"])
async def test_the_server_tells_its_state_as_the_document_says(api: Api, path: str) -> None:
    document = await api.done("GET", "openapi.json")
    content = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]
    whole = {**content["schema"], "components": document["components"]}
    answer = await api.done("GET", path)
    jsonschema_rs.validate(whole, answer)
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(whole, [answer])


async def test_readiness_and_metrics_have_their_own_shapes(api: Api) -> None:
    found = await shown(api)
    refused = found["GET", "/readyz"]["responses"]["503"]
    assert refused["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/NotReady"}
    assert "Retry-After" in refused["headers"]
    assert "503" not in found["GET", "/healthz"]["responses"]
    metrics = found["GET", "/metrics"]["responses"]
    assert set(metrics["200"]["content"]) == {"text/plain", "application/openmetrics-text"}
    assert set(metrics) == {"200", "401", "403", "503"}


async def test_it_is_told_which_keys_are_not_enough(api: Api) -> None:
    found = await shown(api)
    told = {name: found[place]["description"] for name, place in {
        "make": ("POST", "/me/keys"), "read": ("GET", "/me/keys"), "status": ("GET", "/status"), "me": ("GET", "/me"),
    }.items()}  # fmt: skip
    known = "For everybody who has a key or a token."
    assert told == {
        "make": f"{known} A key that is limited or expires is not enough.",
        "read": f"{known} A key that is limited to gateways or models is not enough.",
        "status": "Needs view_metrics. A key that is limited to gateways or models is not enough.",
        "me": known,
    }


async def test_where_two_gateways_share_a_path_both_are_told(api: Api) -> None:
    models = (await shown(api))["GET", "/v1/models"]
    assert models["tags"] == ["anthropic", "openai"]
    assert models["summary"] == "GET /v1/models: list, in the dialect of anthropic or openai"
    assert "anthropic-version" in models["description"]


async def test_an_entry_of_a_gateway_says_who_may_and_what_is_sent(api: Api) -> None:
    found = await shown(api)
    chat, upload = found["POST", "/v1/chat/completions"], found["POST", "/api/blobs/{digest}"]
    assert (chat["tags"], chat["description"]) == (["openai"], "Needs use_openai.")
    assert chat["requestBody"]["content"]["application/json"]["schema"]["type"] == "object"
    assert upload["description"] == "Needs use_ollama and manage_models."
    assert list(upload["requestBody"]["content"]) == ["application/octet-stream"]
    assert "requestBody" not in found["GET", "/api/tags"]


class Odd(Gateway):
    name = "odd"
    paths = ("/odd",)
    places = ("/x/{id}", r"/x/{other:[a-z]{2,3}}", "/x-y", "/x/y", "/x/y/")

    def routes(self) -> list[Route]:
        places = [*(("GET", path) for path in self.places), ("PROPFIND", "/x")]
        return [Route(method=method, path=path, use=Use.LIST, open=self.never, body=Read.NONE)
                for method, path in places]  # fmt: skip

    def never(self, _inbound: Any) -> Any:
        raise AssertionError

    def render_error(self, error: ApiError) -> Reply:
        return Reply(error.status, {}, b"")


async def test_paths_that_are_one_to_openapi_are_one_entry() -> None:
    families = Families([Odd], {})
    paths = dialect_paths(families, [])
    assert list(paths) == ["/odd/x/{id}", "/odd/x-y", "/odd/x/y"]
    names = [item["get"]["operationId"] for item in paths.values()]
    assert names == ["odd_get_odd_x_id", "odd_get_odd_x_y", "odd_get_odd_x_y_2"]
    assert [tag["name"] for tag in dialect_tags(families)] == ["odd"]
    OPENAPI_31_VALIDATOR.validate(describe([], [], families))


async def test_what_a_variable_may_hold_is_not_part_of_its_path() -> None:
    assert plain(r"/a/{name:.+}/b/{id:[0-9a-f]{8}}/{plain}") == "/a/{name}/b/{id}/{plain}"


async def test_only_a_body_without_which_nothing_is_done_is_required(api: Api) -> None:
    told, done = {}, {}
    for (method, path), operation in (await shown(api)).items():
        if "requestBody" in operation and not is_relayed(operation):
            aimed = path.replace("{id}", str(uuid4())).replace("{name}", "nobody").replace("{role}", "none")
            answer = await api(method, aimed.replace("{gateway}", "none"))
            told[path] = operation["requestBody"]["required"]
            done[path] = answer.status in (400, 415, 422)
    assert told == done
    assert set(told.values()) == {True, False}


@pytest.mark.parametrize(
    ("name", "body", "good"),
    [
        ("Login", {"username": "a", "password": "b"}, True),
        ("Login", {"account": "a", "passwd": "b"}, True),
        ("Login", {"username": "a", "passwd": "b"}, True),
        ("Login", {}, False),
        ("Login", {"username": "a"}, False),
        ("Login", {"username": "a", "account": "a", "password": "b"}, False),
        ("Login", {"username": "a", "password": ""}, False),
        ("Registration", {"username": "a", "password": "b"}, True),
        ("Registration", {"username": "a"}, False),
        ("Refresh", {"refresh_token": "rt_"}, True),
        ("Refresh", {}, False),
        ("Refresh", {"refresh_token": None}, False),
    ],
)
async def test_what_a_login_needs_is_told(api: Api, name: str, body: dict[str, object], good: bool) -> None:
    schemas = (await api.done("GET", "openapi.json"))["components"]["schemas"]
    assert jsonschema_rs.is_valid(schemas[name], body) is good
    asked = {"Login": "login", "Registration": "register", "Refresh": "logout"}[name]
    assert ((await api("POST", f"/auth/{asked}", body, key="")).status == 400) is not good


async def test_what_a_change_leaves_out_has_no_default(api: Api) -> None:
    document = await api.done("GET", "openapi.json")
    changes = [
        operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for _, method, operation in operations(document)
        if method == "PATCH"
    ]
    assert {"KeyChange", "RoleChange", "UserChange", "GatewayChange"} <= set(changes)
    for name in changes:
        fields = document["components"]["schemas"][name]["properties"]
        assert [field for field, schema in fields.items() if "default" in schema] == [], name


async def test_an_answer_is_whole_and_its_fields_are_described(api: Api) -> None:
    document = await api.done("GET", "openapi.json")
    tokens = document["components"]["schemas"]["Tokens"]
    assert set(tokens["required"]) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert "default" not in tokens["properties"]["token_type"]
    page = document["components"]["schemas"]["Page_UserRecord_"]
    assert page["properties"]["next_cursor"]["description"] == "For the next part; null: this was the last."


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
