"""API keys over HTTP: those of any user."""

from __future__ import annotations

from uuid import uuid4

import pytest
from admin_api import Api, api, in_one_loop
from running import eventually

__all__ = ["api"]
pytestmark = in_one_loop


async def test_a_key_is_shown_once(api: Api) -> None:
    await api.user("kim")
    made = await api("POST", "users/kim/keys", {"description": "laptop"})
    assert made.status == 201
    text = made.document.pop("key")
    assert text.startswith("plm_")
    assert (await api("GET", "/me", key=text)).document["username"] == "kim"
    read = await api.done("GET", f"users/kim/keys/{made.document['id']}")
    assert read == made.document | {"last_used_at": read["last_used_at"]}
    listed = await api("GET", "users/kim/keys")
    assert [key["description"] for key in listed.document["items"]] == ["", "laptop"]
    assert text not in str(read) + str(listed.document)


async def test_a_key_is_limited_and_the_limits_change(api: Api) -> None:
    await api.user("lim")
    limits = {"models": ["qwen*"], "gateways": [], "networks": ["10.0.0.0/8"], "priority_ceiling": "low"}
    made = await api.done("POST", "users/lim/keys", {**limits, "expires_in_days": 30})
    assert {name: made[name] for name in limits} == limits
    assert made["expires_at"] is not None
    changed = await api.done("PATCH", f"users/lim/keys/{made['id']}", {"models": None, "expires_at": None})
    assert {name: changed[name] for name in limits} == limits | {"models": None}
    assert changed["expires_at"] is None
    assert (changed["description"], changed["enabled"]) == ("", True)


@pytest.mark.parametrize("body", [
    {"expires_at": "2020-01-01T00:00:00Z"}, {"expires_at": "2127-01-01T00:00:00"}, {"expires_at": 4102444800},
    {"expires_at": "0001-01-01T00:00:00+14:00"}, {"expires_in_days": 0}, {"expires_in_days": "3"},
    {"expires_in_days": 3, "expires_at": "2127-01-01T00:00:00Z"}, {"description": "x" * 201}, {"description": "\0"},
    {"models": [""]}, {"models": "all"}, {"gateways": ["Open AI"]}, {"networks": ["10.0.0.1/8"]},
    {"networks": ["home"]}, {"priority_ceiling": "highest"}, {"colour": "red"},
])  # fmt: skip
async def test_a_key_that_cannot_be_is_refused(api: Api, body: dict[str, object]) -> None:
    refused = await api("POST", "users/root/keys", body)
    assert (refused.status, refused.document["error"]["code"]) == (422, "invalid")


@pytest.mark.parametrize("body", [{"enabled": None}, {"description": None}, {"enabled": 1}, {"revoked_at": None}])
async def test_a_change_that_cannot_be_is_refused(api: Api, body: dict[str, object]) -> None:
    (key, *_) = (await api.done("GET", "users/root/keys"))["items"]
    assert (await api("PATCH", f"users/root/keys/{key['id']}", body)).status == 422


async def test_a_list_is_paged_without_gaps(api: Api) -> None:
    await api.user("many")
    made = [(await api.done("POST", "users/many/keys", {}))["id"] for _ in range(4)]
    found = [key["id"] for key in await api.everything("users/many/keys", 2)]
    assert found[1:] == made
    await api.done("POST", f"users/many/keys/{made[0]}/revoke")
    assert [key["id"] for key in await api.everything("users/many/keys", 2)][1:] == made[1:]
    assert [key["id"] for key in await api.everything("users/many/keys?ended=true", 2)][1:] == made


@pytest.mark.parametrize("cursor", ["WyJhIiwiYiJd", "WzFd", "!", "WyIwMDAxLTAxLTAxVDAwOjAwOjAwKzE0OjAwIiwieCJd"])
async def test_a_cursor_of_another_list_is_refused(api: Api, cursor: str) -> None:
    assert (await api("GET", f"users/root/keys?cursor={cursor}")).status == 422


async def test_a_rotated_key_works_with_both_secrets_for_a_while(api: Api) -> None:
    old = await api.user("rota")
    (key,) = (await api.done("GET", "users/rota/keys"))["items"]
    where = f"users/rota/keys/{key['id']}/rotate"
    new = await api.done("POST", where, {})
    assert (new["id"], new["version"] > key["version"]) == (key["id"], True)
    assert new["previous_until"] is not None
    assert [(await api("GET", "/me", key=text)).status for text in (old, new["key"])] == [200, 200]
    newest = await api.done("POST", where, {"grace_s": 0})
    await eventually(lambda: _refused(api, old))
    await eventually(lambda: _refused(api, new["key"]))
    assert (await api("GET", "/me", key=newest["key"])).status == 200
    assert (await api("POST", where, {"grace_s": -1})).status == 422


async def test_a_disabled_key_is_refused_until_it_is_enabled(api: Api) -> None:
    text = await api.user("toggled")
    (key,) = (await api.done("GET", "users/toggled/keys"))["items"]
    await api.done("PATCH", f"users/toggled/keys/{key['id']}", {"enabled": False})
    await eventually(lambda: _refused(api, text))
    assert (await api("GET", "/me", key=text)).document["error"]["code"] == "disabled_api_key"
    await api.done("PATCH", f"users/toggled/keys/{key['id']}", {"enabled": True})

    async def accepted() -> bool:
        return not await _refused(api, text)

    await eventually(accepted)


async def test_a_revoked_key_is_refused_for_ever(api: Api) -> None:
    text = await api.user("revoked")
    (key,) = (await api.done("GET", "users/revoked/keys"))["items"]
    revoked = await api.done("POST", f"users/revoked/keys/{key['id']}/revoke")
    assert revoked["revoked_at"] is not None
    await eventually(lambda: _refused(api, text))
    late = await api("POST", f"users/revoked/keys/{key['id']}/rotate", {})
    assert late.status == 409
    assert "revoked" in late.message


async def test_all_keys_of_a_user_are_revoked_at_once(api: Api) -> None:
    await api.user("all")
    await api.done("POST", "users/all/keys", {})
    assert await api.done("POST", "users/all/keys/revoke") == {"revoked": 2}
    assert await api.done("POST", "users/all/keys/revoke") == {"revoked": 0}
    assert (await api.done("GET", "users/all/keys"))["items"] == []


async def test_a_key_is_deleted(api: Api) -> None:
    await api.user("del")
    (key,) = (await api.done("GET", "users/del/keys"))["items"]
    where = f"users/del/keys/{key['id']}"
    assert (await api("DELETE", where, version=key["version"] + 1)).status == 412
    assert (await api("DELETE", where, version=key["version"])).status == 204
    assert (await api("GET", where)).status == 404


async def test_who_changes_an_older_version_is_told(api: Api) -> None:
    await api.user("ver")
    (key,) = (await api.done("GET", "users/ver/keys"))["items"]
    where = f"users/ver/keys/{key['id']}"
    assert (await api("GET", where)).headers["ETag"] == f'"{key["version"]}"'
    assert (await api("PATCH", where, {"description": "a"}, version=key["version"])).status == 200
    assert (await api("PATCH", where, {"description": "b"}, version=key["version"])).status == 412
    assert (await api("POST", f"{where}/revoke", version=key["version"])).status == 412


async def test_a_key_is_found_below_its_own_user_only(api: Api) -> None:
    await api.user("mine")
    (key,) = (await api.done("GET", "users/mine/keys"))["items"]
    for where in (f"users/root/keys/{key['id']}", f"users/mine/keys/{uuid4()}", "users/mine/keys/x", "users/no/keys/x"):
        for method, path, body in (
            ("GET", where, None),
            ("PATCH", where, {"description": "stolen"}),
            ("DELETE", where, None),
            ("POST", f"{where}/rotate", {}),
            ("POST", f"{where}/revoke", None),
        ):
            assert (await api(method, path, body)).status == 404, path
    assert (await api.done("GET", f"users/mine/keys/{key['id']}"))["description"] == ""


async def test_a_key_limited_to_models_administers_nothing(api: Api) -> None:
    limited = (await api.done("POST", "users/root/keys", {"models": ["qwen*"]}))["key"]
    assert (await api("GET", "/me", key=limited)).document["username"] == "root"
    refused = await api("GET", "users", key=limited)
    assert refused.status == 403
    assert "limited" in refused.message


async def _refused(api: Api, key: str) -> bool:
    return (await api("GET", "/me", key=key)).status == 401
