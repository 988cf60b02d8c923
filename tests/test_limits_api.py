"""Limits over HTTP: made, set, changed and taken away, by whom that may, and told whose they are."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from admin_api import Api, api, in_one_loop

__all__ = ["api"]
pytestmark = in_one_loop


def name() -> str:
    return f"u-{uuid4().hex[:10]}"


async def user(api: Api, role: str = "basic") -> str:
    made = name()
    await api.done("POST", "users", {"username": made, "role": role})
    return made


def a_limit(user: str, **settings: Any) -> dict[str, Any]:
    return {"user": user, "meter": "requests", "period": "day", "amount": 5, **settings}


async def test_a_limit_is_made_read_changed_and_deleted(api: Api) -> None:
    bob = await user(api)
    made = await api("POST", "limits", a_limit(bob, gateway="openai", model="Qwen3:*"))
    assert made.status == 201
    assert (made.document["user"], made.document["model"], made.document["version"]) == (bob, "qwen3:*", 1)
    path = f"limits/{made.document['id']}"
    read = await api("GET", path)
    assert (read.document, read.headers["ETag"]) == (made.document, '"1"')
    changed = await api("PATCH", path, {"amount": 0, "outage": "open"}, version=1)
    assert (changed.document["amount"], changed.document["outage"], changed.headers["ETag"]) == (0, "open", '"2"')
    assert (await api("PATCH", path, {"amount": 1}, version=1)).status == 412
    assert (await api("DELETE", path, version=1)).status == 412
    assert (await api("DELETE", path, version=2)).status == 204
    assert (await api("GET", path)).status == 404


async def test_a_scope_has_one_limit(api: Api) -> None:
    bob = await user(api)
    await api.done("POST", "limits", a_limit(bob))
    second = await api("POST", "limits", a_limit(bob, amount=6))
    assert (second.status, "requests per day for all gateways" in second.message) == (409, True)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"amount": -1}, "amount"),
        ({"amount": 1.5}, "amount"),
        ({"amount": None}, "amount"),
        ({"meter": "tokens"}, "meter"),
        ({"period": "now"}, None),
        ({"gateway": "opnai"}, None),
        ({"model": ""}, "model"),
        ({"model": "a\0"}, None),
        ({"admission": "lax"}, "admission"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"role": "basic"}, None),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_what_no_limit_may_be_is_422_and_names_the_field(
    api: Api, given: dict[str, Any], field: str | None
) -> None:
    refused = await api("POST", "limits", a_limit("root", **given))
    assert refused.status == 422, refused.document
    if field is not None:
        assert refused.document["error"]["detail"][0]["field"] == field
    assert await api.everything("limits?user=root", 10) == []


async def test_several_are_set_at_once_or_none(api: Api) -> None:
    bob = await user(api)
    day = {"meter": "total_tokens", "period": "day", "amount": 100, "admission": "estimate"}
    found = await api.done("PATCH", "limits", {"user": bob, "gateway": "ollama", "limits": [day]})
    assert [(one["gateway"], one["amount"]) for one in found["limits"]] == [("ollama", 100)]
    hour, wrong = ({"meter": "requests", "period": period, "amount": 1} for period in ("hour", "now"))
    assert (await api("PATCH", "limits", {"user": bob, "limits": [hour, wrong]})).status == 422
    again = {"user": bob, "gateway": "ollama", "limits": [hour, {**day, "amount": 7, "outage": "open"}]}
    found = await api.done("PATCH", "limits", again)
    assert [(one["amount"], one["admission"], one["outage"]) for one in found["limits"]] == [
        (1, "strict", "closed"),
        (7, "estimate", "open"),
    ]
    gone = {"meter": "requests", "period": "hour", "amount": None}
    kept = {"meter": "total_tokens", "period": "day", "amount": 8}
    found = await api.done("PATCH", "limits", {"user": bob, "gateway": "ollama", "limits": [gone, kept]})
    (left,) = found["limits"]
    assert (left["amount"], left["admission"], left["outage"]) == (8, "estimate", "open")


async def test_the_list_is_filtered_and_paged(api: Api) -> None:
    bob, role = await user(api), f"r{uuid4().hex[:10]}"
    await api.done("POST", "roles", {"name": role})
    key = (await api.done("POST", f"users/{bob}/keys", {}))["id"]
    for period in ("minute", "hour", "day"):
        for gateway in ("*", "openai"):
            await api.done("POST", "limits", a_limit(bob, period=period, gateway=gateway))
    await api.done("POST", "limits", {**a_limit(bob), "user": None, "key": key})
    await api.done("POST", "limits", {**a_limit(bob), "user": None, "role": role})
    every = await api.everything("limits", 2)
    assert len(every) == len({one["id"] for one in every}) >= 8
    assert {one["user"] for one in await api.everything(f"limits?user={bob}", 2)} == {bob}
    assert len(await api.everything(f"limits?user={bob}&gateway=openai", 2)) == 3
    assert [one["key"] for one in await api.everything(f"limits?key={key}", 2)] == [key]
    assert [one["role"] for one in await api.everything(f"limits?role={role}", 2)] == [role]
    for wrong, status in (("user=nobody", 404), (f"user={bob}&role={role}", 422), ("gateway=opnai", 422)):
        assert (await api("GET", f"limits?{wrong}")).status == status
    assert (await api("GET", "limits?cursor=WyJhIl0")).status == 422


async def test_what_is_in_force_says_whose_limit_it_is(api: Api) -> None:
    role = f"r{uuid4().hex[:10]}"
    await api.done("POST", "roles", {"name": role})
    bob = await user(api, role)
    key = (await api.done("POST", f"users/{bob}/keys", {}))["id"]
    await api.done("POST", "limits", {**a_limit(bob, amount=9), "user": None, "role": role})
    await api.done("POST", "limits", {**a_limit(bob, period="hour"), "user": None, "key": key})
    await api.done("POST", "limits", a_limit(bob, gateway="openai"))

    async def told(path: str) -> list[Any]:
        found = (await api.done("GET", path))["limits"]
        return [(one["user"] or one["role"] or one["key"], one["gateway"], one["amount"]) for one in found]

    assert await told(f"users/{bob}/limits") == [(role, "*", 9), (bob, "openai", 5)]
    assert await told(f"users/{bob}/limits?gateway=ollama") == [(role, "*", 9)]
    assert await told(f"keys/{key}/limits") == [(role, "*", 9), (key, "*", 5), (bob, "openai", 5)]
    assert await told(f"roles/{role}/limits") == [(role, "*", 9)]
    for nobody in ("users/nobody", f"keys/{uuid4()}", "roles/nothing"):
        assert (await api("GET", f"{nobody}/limits")).status == 404
    assert await api.done("DELETE", f"limits?user={bob}&gateway=openai") == {"deleted": 1}
    assert await told(f"users/{bob}/limits") == [(role, "*", 9)]
    assert (await api("DELETE", "limits")).status == 422


async def test_who_manages_users_limits_those_who_may_no_more(api: Api) -> None:
    manager, premium, basic = f"m{uuid4().hex[:8]}", await user(api, "premium"), await user(api)
    await api.done("POST", "roles", {"name": manager, "parent": "basic", "permissions": ["manage_users"]})
    key = await api.user(name(), role=manager)
    assert (await api("POST", "limits", a_limit(basic), key=key)).status == 201
    refused = await api("POST", "limits", a_limit(premium), key=key)
    assert (refused.status, "to limit the user" in refused.message) == (403, True)
    assert (await api("GET", "limits", key=await api.user(name()))).status == 403


async def test_who_manages_users_changes_no_limit_that_they_are_under(api: Api) -> None:
    role, other, manager = f"m{uuid4().hex[:8]}", f"r{uuid4().hex[:8]}", name()
    await api.done("POST", "roles", {"name": other})
    await api.done("POST", "roles", {"name": role, "parent": "basic", "permissions": ["manage_users"]})
    key = await api.user(manager, role=role)
    (its,) = await api.everything(f"users/{manager}/keys", 10)
    for whose in ({"user": manager}, {"key": its["id"]}, {"role": role}, {"role": "basic"}):
        mine = {**a_limit(manager, model=role), "user": None, **whose}
        assert (await api("POST", "limits", mine, key=key)).status == 403
        made = await api.done("POST", "limits", mine)
        (field, value), path = *whose.items(), f"limits/{made['id']}"
        for method, where, body in (
            ("PATCH", path, {"amount": 9}),
            ("DELETE", path, None),
            ("DELETE", f"limits?{field}={value}", None),
            ("PATCH", "limits", {**whose, "limits": [{"meter": "requests", "period": "day", "amount": None}]}),
        ):
            refused = await api(method, where, body, key=key)
            why = "this key is limited" if "key" in whose else "only an admin"
            assert (refused.status, why in refused.message) == (403, True)
        assert await api.done("GET", path) == made
        await api("DELETE", path)
    assert (await api("POST", "limits", {**a_limit(manager), "user": None, "role": other}, key=key)).status == 201
    refused = await api("PATCH", f"users/{manager}", {"role": "basic"}, key=key)
    assert (refused.status, "only an admin" in refused.message) == (403, True)


async def test_who_manages_roles_changes_nothing_that_limits_them(api: Api) -> None:
    upper, held, larger, manager = (f"{letter}{uuid4().hex[:8]}" for letter in "uhlm")
    rights = ["manage_users", "manage_roles", "use_ollama"]
    await api.done("POST", "roles", {"name": upper})
    await api.done("POST", "roles", {"name": larger})
    await api.done("POST", "roles", {"name": held, "parent": upper, "permissions": rights})
    for role, amount in ((upper, 1), (larger, 1000)):
        await api.done("POST", "limits", {**a_limit(role, amount=amount), "user": None, "role": role})
    key = await api.user(manager, role="basic")
    its = await api.done("POST", f"users/{manager}/roles", {"role": held})
    mine = f"users/{manager}/roles"
    before = await api.done("GET", f"users/{manager}/limits")
    for method, path, body in (
        ("POST", mine, {"role": larger}),
        ("DELETE", f"{mine}/{its['id']}", None),
        ("PATCH", f"{mine}/{its['id']}", {"expires_at": "2199-01-01T00:00:00Z"}),
        ("PATCH", f"users/{manager}", {"role": larger}),
        ("PATCH", f"roles/{held}", {"parent": larger}),
        ("PATCH", f"roles/{upper}", {"parent": larger}),
        ("PATCH", f"roles/{held}", {"name": f"{held}-x"}),
        ("DELETE", f"roles/{held}?cascade=true", None),
        ("DELETE", f"roles/{upper}?cascade=true", None),
        ("POST", "limits", {**a_limit(manager, amount=1000), "user": None, "role": upper, "period": "hour"}),
        ("POST", "limits", a_limit(manager, amount=1000)),
        ("POST", "limits/reset", {"user": manager}),
        ("POST", "limits/reset", {"role": upper}),
        ("DELETE", f"limits?role={upper}", None),
    ):
        refused = await api(method, path, body, key=key)
        assert (refused.status, "only an admin" in refused.message) == (403, True), (method, path, refused.document)
    assert await api.done("GET", f"users/{manager}/limits") == before
    await api.done("PATCH", f"roles/{held}", {"description": "As before."}, key=key)
    await api.done("POST", f"users/{await user(api)}/roles", {"role": larger}, key=key)
    await api.done("PATCH", f"roles/{larger}", {"parent": upper}, key=key)


async def test_a_key_that_is_less_than_its_user_lifts_no_limit(api: Api) -> None:
    made = await api.done("POST", "limits", a_limit(await user(api)))
    lesser = (await api.done("POST", "users/root/keys", {"expires_in_days": 1}))["key"]
    path = f"limits/{made['id']}"
    assert (await api("GET", path, key=lesser)).status == 200
    for method, where in (("DELETE", path), ("DELETE", f"limits?user={made['user']}"), ("PATCH", path)):
        answer = await api(method, where, {"amount": 9} if method == "PATCH" else None, key=lesser)
        assert answer.status == 403


async def test_a_key_that_is_limited_does_not_lift_its_limit(api: Api) -> None:
    await api.done("POST", "users", {"username": "lifter", "admin": True})
    made = await api.done("POST", "users/lifter/keys", {})
    given = await api.done("POST", "limits", {"key": made["id"], "meter": "requests", "period": "day", "amount": 5})
    answer = await api("DELETE", f"limits/{given['id']}", key=made["key"])
    assert (answer.status, "this key is limited" in answer.message) == (403, True)
    assert (await api("GET", f"limits/{given['id']}", key=made["key"])).status == 200
