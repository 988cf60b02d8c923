"""How callers may come in: what is recorded over the settings file, and how every process follows it."""

from __future__ import annotations

from typing import Any

import pytest
from calling import auth, bearer, process, refused, until
from multidict import CIMultiDict

from parallama.db.pool import Database
from parallama.errors import Invalid, NotAuthenticated, Outdated
from parallama.identity.access import Access, AuthRecords
from parallama.identity.actor import Actor
from parallama.identity.api_keys import ApiKeys
from parallama.identity.callers import Callers
from parallama.identity.users import Users


def records(database: Database, **settings: Any) -> AuthRecords:
    return AuthRecords(database, auth(**settings), ("accept", "x-team"), Actor(name="root", via="api"))


async def audited(database: Database) -> list[tuple[str, str, Any, Any]]:
    async with database.connection() as one:
        rows = await one.fetch("SELECT actor, action, before, after FROM audit WHERE target = 'auth' ORDER BY id")
    return [tuple(row) for row in rows]


async def test_the_settings_file_counts_until_something_is_recorded(database: Database) -> None:
    of_file = records(database, key_header="X-File", allow_anonymous=True)
    assert await of_file.get() == Access(header_name="x-file", allow_unauthenticated=True, version=0)
    changed = await of_file.change({"header_name": "X-Recorded"})
    assert changed == Access(header_name="x-recorded", allow_unauthenticated=True, version=1)
    assert await of_file.get() == changed
    assert await of_file.change({"header_name": None, "allow_unauthenticated": False}) == Access(
        header_name=None, allow_unauthenticated=False, version=2
    )


async def test_a_change_is_in_the_audit_trail_with_who_made_it(database: Database) -> None:
    await records(database).change({"header_name": "x-key"})
    await records(database).change({"header_name": None})
    (first, second) = await audited(database)
    assert first[:3] == ("root", "settings.create", None)
    assert second[:2] == ("root", "settings.change")
    assert second[2:] == ('{"value": {"header_name": "x-key"}}', '{"value": {"header_name": null}}')


async def test_of_two_who_change_the_same_version_one_is_told(database: Database) -> None:
    one = records(database)
    await one.change({"header_name": "x-first"}, version=0)
    for stale in (0, 7):
        with pytest.raises(Outdated, match="read them again"):
            await one.change({"header_name": "x-second"}, version=stale)
    assert (await one.get()).header_name == "x-first"
    assert (await one.change({"header_name": "x-second"}, version=1)).version == 2


async def test_a_version_of_what_was_never_recorded_is_outdated(database: Database) -> None:
    with pytest.raises(Outdated):
        await records(database).change({"header_name": "x-key"}, version=3)
    assert (await records(database).get()).version == 0


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"header_name": "X-Team"}, "header_name", "relay.forward_headers"),
        ({"header_name": "Host"}, "header_name", "for keys alone"),
        ({"header_name": "user-agent"}, "header_name", "for keys alone"),
        ({"header_name": "Accept-Language"}, "header_name", "for keys alone"),
        ({"header_name": "cookie"}, "header_name", "for keys alone"),
        ({"header_name": "not a header"}, "header_name", "must be the name of a header"),
        ({"header_name": ""}, "header_name", "must be the name of a header"),
        ({"header_name": 7}, "header_name", "there are header_name"),
        ({"allow_unauthenticated": None}, "allow_unauthenticated", "true or false"),
        ({"allow_unauthenticated": 1}, "allow_unauthenticated", "true or false"),
        ({"other": True}, "other", "there are header_name"),
    ],
)
async def test_what_cannot_be_is_refused_and_nothing_is_recorded(
    database: Database, changes: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(Invalid, match=message) as refusal:
        await records(database).change({"allow_unauthenticated": True} | changes)
    assert refusal.value.param == param
    assert (await records(database).get()).version == 0


async def test_every_process_follows_the_header_that_is_recorded(database: Database) -> None:
    await Users(database).create("alice")
    key, _ = await ApiKeys(database).create("alice")
    headers = CIMultiDict({"X-Recorded": key})

    async def known(callers: Callers, sent: CIMultiDict[str]) -> bool:
        try:
            return (await callers.identify(sent)).username == "alice"
        except NotAuthenticated:
            return False

    async with process(database, key_header="x-file") as (one, _), process(database) as (other, _):
        for callers in (one, other):
            assert not await known(callers, headers)
        await records(database).change({"header_name": "x-recorded"})
        for callers in (one, other):
            await until(lambda callers=callers: known(callers, headers))
            assert not await known(callers, CIMultiDict({"x-file": key}))
            assert await known(callers, CIMultiDict({"x-api-key": key}))
            assert await known(callers, bearer(key))


async def test_every_process_follows_whether_callers_need_a_key(database: Database) -> None:
    async with process(database) as (one, _), process(database) as (other, _):
        for callers in (one, other):
            assert await refused(callers, "")
        await records(database).change({"allow_unauthenticated": True})
        for callers in (one, other):

            async def served(callers: Callers = callers) -> bool:
                return not await refused(callers, "")

            await until(served)
            assert (await callers.identify(CIMultiDict())).username == "anonymous"
        await records(database).change({"allow_unauthenticated": False})
        for callers in (one, other):
            await until(lambda callers=callers: refused(callers, ""))


async def test_what_was_recorded_before_the_start_is_in_force_from_the_start(database: Database) -> None:
    await records(database).change({"allow_unauthenticated": True})
    await Users(database).delete("anonymous")
    async with process(database) as (callers, _):
        assert (await callers.identify(CIMultiDict())).username == "anonymous"
