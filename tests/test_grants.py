"""What a user holds at a moment, put together of what assignments give."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from parallama.identity.grants import Grant, held, parse

NOW = datetime(2031, 1, 1, tzinfo=UTC)
SOON, LATER = NOW + timedelta(seconds=1), NOW + timedelta(hours=1)


def grant(role: str, expires_at: datetime | None = None) -> Grant:
    return Grant(roles=(role, "all"), permissions=(f"use_{role}", "use_all"), expires_at=expires_at)


def test_the_rows_of_the_database_are_read() -> None:
    text = (
        '[{"roles": ["a", "b"], "permissions": ["use_x"], "expires_at": "2031-01-01T02:00:00.000001+02:00"},'
        ' {"roles": ["c"], "permissions": [], "expires_at": null}]'
    )
    first, second = parse(text)
    assert (first.roles, first.permissions) == (("a", "b"), ("use_x",))
    assert first.expires_at == NOW + timedelta(microseconds=1)
    assert (second.roles, second.permissions, second.expires_at) == (("c",), (), None)
    assert parse("[]") == ()


def test_all_that_is_live_is_held_until_the_first_of_it_expires() -> None:
    now = held([grant("b", LATER), grant("a"), grant("c", SOON), grant("d", NOW)], NOW)
    assert now.roles == ("a", "all", "b", "c")
    assert now.permissions == {"use_a", "use_b", "use_c", "use_all"}
    assert now.until == SOON
    assert held([grant("a"), grant("c", SOON)], SOON).until is None


def test_who_holds_nothing_waits_for_nothing() -> None:
    nothing = held([grant("a", NOW)], NOW)
    assert (nothing.roles, nothing.permissions, nothing.until, nothing.admin) == ((), frozenset(), None, False)


def test_the_role_admin_makes_an_admin_and_so_does_one_below_it() -> None:
    assert held([Grant(roles=("boss", "admin"), permissions=(), expires_at=SOON)], NOW).admin
    assert not held([Grant(roles=("boss", "admin"), permissions=(), expires_at=SOON)], SOON).admin
