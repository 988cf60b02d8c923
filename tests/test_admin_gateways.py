"""Gateways over HTTP: what is set for them, who has set it, and their figures."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from admin_api import Api, api, in_one_loop
from running import eventually

from parallama.admin.gateways import GatewayRecords
from parallama.errors import Outdated
from parallama.gateway.families import Families
from parallama.gateway.plugins import Plugins

__all__ = ["api"]
pytestmark = in_one_loop


async def audited(api: Api, family: str) -> list[dict[str, Any]]:
    async with api.gateway.database.connection() as one:
        found = await one.fetch("SELECT * FROM audit WHERE target = $1 ORDER BY id", family)
    return [dict(row) for row in found]


async def recorded(api: Api, family: str) -> int:
    async with api.gateway.database.connection() as one:
        return int(await one.fetchval("SELECT count(*) FROM gateways WHERE name = $1", family))


async def test_a_change_is_shown_recorded_audited_and_followed(api: Api) -> None:
    before = await api.done("GET", "gateways/ollama")
    assert (before["enabled"], before["version"], before["problem"]) == (True, 0, None)
    mapping = {"quick": {"model": "llama3.2:1b", "num_ctx": 512}}
    body = {"default_model": "llama3.2:1b", "endpoints": {"chat": False}, "model_mappings": mapping}
    changed = await api("PATCH", "gateways/ollama", body)
    assert (changed.status, changed.headers["ETag"]) == (200, '"1"')
    found = changed.document
    assert (found["default_model"], found["endpoints"]["chat"]) == ("llama3.2:1b", False)
    assert (found["model_mappings"]["quick"]["num_ctx"], found["from"]["endpoints.chat"]) == (512, "recorded")
    assert await api.done("GET", "gateways/ollama") == found

    async def off() -> bool:
        url = f"{api.gateway.url}/api/chat"
        async with api.gateway.http.post(url, json={"model": "no"}, headers=api.gateway.auth) as answer:
            return await answer.text() == "404 page not found"

    await eventually(off)
    (row,) = await audited(api, "ollama")
    assert (row["action"], row["actor"], row["via"]) == ("gateway.create", "root", "api")
    assert json.loads(row["after"])["settings"]["endpoints"] == {"chat": False}
    assert (await api("DELETE", "gateways/ollama")).status == 204
    after = await api.done("GET", "gateways/ollama")
    assert {**after, "version": 0} == before


async def test_the_list_has_every_family_part_by_part(api: Api) -> None:
    names = [one["name"] for one in await api.everything("gateways", 2)]
    assert names == sorted(family.name for family in Plugins.load().families({}))


async def test_nothing_is_left_behind_when_nothing_changes(api: Api) -> None:
    assert (await api("PATCH", "gateways/anthropic", {})).headers["ETag"] == '"0"'
    assert (await api("DELETE", "gateways/anthropic")).status == 204
    assert (await api("PATCH", "gateways/anthropic", {"no_such": 1})).status == 422
    assert (await recorded(api, "anthropic"), await audited(api, "anthropic")) == (0, [])
    await api.done("PATCH", "gateways/anthropic", {"enabled": False})
    again = await api("PATCH", "gateways/anthropic", {"enabled": False})
    assert (again.headers["ETag"], len(await audited(api, "anthropic"))) == ('"1"', 1)
    await api.done("DELETE", "gateways/anthropic")


async def test_of_two_who_change_the_same_version_one_is_told(api: Api) -> None:
    read = (await api("GET", "gateways/openai")).headers["ETag"].strip('"')
    both = [api("PATCH", "gateways/openai", {"default_model": name}, version=read) for name in ("one", "two")]
    answers = await asyncio.gather(*both)
    assert sorted(answer.status for answer in answers) == [200, 412]
    assert next(answer.document["error"]["code"] for answer in answers if answer.status == 412) == "outdated"
    assert (await api("DELETE", "gateways/openai", version=read)).status == 412
    now = (await api("GET", "gateways/openai")).headers["ETag"].strip('"')
    assert (await api("DELETE", "gateways/openai", version=now)).status == 204


async def test_a_version_never_comes_back(api: Api) -> None:
    first = (await api("PATCH", "gateways/openai", {"default_model": "one"})).headers["ETag"].strip('"')
    await api.done("DELETE", "gateways/openai")
    await api.done("PATCH", "gateways/openai", {"default_model": "two"})
    assert (await api("PATCH", "gateways/openai", {"default_model": "three"}, version=first)).status == 412
    await api.done("DELETE", "gateways/openai")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"no_such": 1}, "gateways.ollama.no_such: no such option"),
        ({"endpoints": {"nothing": False}}, "gateways.ollama.endpoints.nothing: no such endpoint"),
        ({"model_mappings": {"a": {"model": ""}}}, "gateways.ollama.model_mappings"),
        ({"model_mappings": {"a": {"model": "m", "parameters": {"system": "a\0b"}}}}, "cannot be stored"),
        ({"enabled": "yes"}, "enabled"),
    ],
)
async def test_what_cannot_be_in_force_is_refused_in_words(api: Api, body: dict[str, Any], named: str) -> None:
    version = (await api("GET", "gateways/ollama")).headers["ETag"]
    answer = await api("PATCH", "gateways/ollama", body)
    assert answer.status == 422
    assert named in answer.message
    assert (await api("GET", "gateways/ollama")).headers["ETag"] == version


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/metrics")])
async def test_a_gateway_that_is_not_there_is_named(api: Api, method: str, path: str) -> None:
    answer = await api(method, f"gateways/olama{path}", {} if method == "PATCH" else None)
    assert answer.status == 404
    assert "'olama'" in answer.message
    assert "ollama" in answer.message.replace("'olama'", "")


async def test_figures_are_those_of_the_family(api: Api) -> None:
    before = (await api.done("GET", "gateways/anthropic/metrics"))["figures"]["requests"]
    assert (await api("GET", "/anthropic/v1/models")).status == 200
    found = await api.done("GET", "gateways/anthropic/metrics")
    assert (found["figures"]["requests"], found["window_s"]) == (before + 1, 60)


async def test_gateways_are_for_those_who_may_manage_them(api: Api) -> None:
    await api.done("POST", "roles", {"name": "watcher", "permissions": ["view_metrics"]})
    watcher = await api.user("watcher", role="watcher")
    refused = await api("PATCH", "gateways/ollama", {"enabled": False}, key=watcher)
    assert (refused.status, "manage_models" in refused.message) == (403, True)
    assert (await api("GET", "gateways/ollama/metrics", key=watcher)).status == 200
    assert (await api("GET", "gateways/ollama", key="")).status == 401


async def test_a_body_that_breaks_off_is_no_bug(api: Api) -> None:
    head = (
        f"PATCH /admin/v1/gateways/ollama HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {api.root}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"
    )
    reader, writer = await api.gateway.raw(head.encode())
    writer.write(b"zz\r\n")
    status = await reader.readline()
    writer.close()
    await writer.wait_closed()
    assert b" 400 " in status


async def test_the_records_know_who_changes_them(api: Api) -> None:
    family = Families(Plugins.load().classes(), {})["openai"]
    records = GatewayRecords(api.gateway.database)
    made = await records.change(family, lambda _: {"default_model": "m"})
    with pytest.raises(Outdated, match="openai has changed"):
        await records.forget(family, version=made.version - 1)
    assert (await records.forget(family, version=made.version)).settings == {}
    assert [row["actor"] for row in await audited(api, "openai")][-2:] == ["server", "server"]
