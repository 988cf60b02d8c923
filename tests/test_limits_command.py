"""`parallama limits` and `ratelimit`, and the limits of `user create`, on a real database and on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from admin_api import Api, api, in_one_loop
from asking import MODEL
from commands import Commands, Run, at_server, command_line
from e2e.databases import named
from running import eventually

__all__ = ["api"]
pytestmark = in_one_loop


@pytest.fixture
def there(api: Api, tmp_path: Path) -> Commands:
    """Commands at the server, as its admin root."""
    return Commands(at_server(api.gateway.url, api.root, tmp_path / "state"))


@pytest_asyncio.fixture(loop_scope="module")
async def run(api: Api, postgres: str, tmp_path: Path) -> Run:
    async with api.gateway.database.connection() as one:
        database = await one.fetchval("SELECT current_database()")
    return command_line(named(postgres, database), tmp_path / "state")


@pytest.fixture
def here(run: Run) -> Commands:
    """Commands on the records of the same server."""
    return Commands(run)


@pytest.fixture(params=["here", "there"])
def commands(request: pytest.FixtureRequest) -> Commands:
    found: Commands = request.getfixturevalue(request.param)
    return found


def called(name: str) -> str:
    """A name that no other test has."""
    return f"{name}{uuid4().hex[:10]}"


def brief(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(row["from"], row["gateway"], row["model"], row["meter"], row["period"], row["amount"]) for row in rows]


async def wrong(commands: Commands, *args: str) -> str:
    """Why a command is wrong usage."""
    done = await commands.done(*args)
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


async def test_limits_are_set_in_every_spelling_and_what_is_not_named_stays(commands: Commands) -> None:
    bob = called("bob")
    await commands.said("user", "create", bob)
    long = ["--token-limit-daily", "1000", "--token-limit-hourly", "100"]
    await commands.said("limits", "set", bob, *long, "--gateway", "openai")
    await commands.said("ratelimit", "set", bob.upper(), "openai", "--token-hourly", "50", "--request-daily", "0")
    found = await commands.told(
        "limits", "set", bob, "--gateway", "openai", "--request-limit-hourly", "7", "--concurrency", "2"
    )
    expected = [
        (f"user {bob}", "openai", None, "concurrency", "now", 2),
        (f"user {bob}", "openai", None, "requests", "day", 0),
        (f"user {bob}", "openai", None, "requests", "hour", 7),
        (f"user {bob}", "openai", None, "total_tokens", "day", 1000),
        (f"user {bob}", "openai", None, "total_tokens", "hour", 50),
    ]
    assert brief(found) == expected
    for spelling in (["limits", "show"], ["limits", "get"], ["ratelimit", "show"], ["ratelimit", "get"]):
        assert brief(await commands.told(*spelling, bob)) == expected
        assert brief(await commands.told(*spelling, bob, "openai")) == expected
        assert await commands.told(*spelling, bob, "--gateway", "ollama") == []
    left = await commands.told("limits", "set", bob, "openai", "--request-daily", "none", "--concurrency", "none")
    assert [one[3:5] for one in brief(left)] == [
        ("requests", "hour"),
        ("total_tokens", "day"),
        ("total_tokens", "hour"),
    ]


@pytest.mark.parametrize(
    ("word", "meter"),
    [
        ("token", "total_tokens"),
        ("request", "requests"),
        ("prompt-token", "prompt_tokens"),
        ("output-token", "output_tokens"),
    ],
)
async def test_each_limit_has_an_option(here: Commands, word: str, meter: str) -> None:
    bob, periods = called("bob"), {"minute": "minute", "hourly": "hour", "daily": "day", "monthly": "month"}
    long, short = (
        [part for often in periods for part in (f"--{word}{infix}-{often}", f"{len(often)}")]
        for infix in ("-limit", "")
    )
    expected = {(f"user {bob}", "*", None, meter, period, len(often)) for often, period in periods.items()}
    await here.said("user", "create", bob, *long)
    assert set(brief(await here.told("limits", "show", bob))) == expected
    assert set(brief(await here.told("limits", "set", "--role", "premium", *short))) == {
        ("role premium", *one[1:]) for one in expected
    }
    await here.said("limits", "reset", "--role", "premium", "--to-default", "--yes")


async def test_how_a_limit_is_kept_is_set_with_it_and_stays(commands: Commands) -> None:
    bob = called("bob")
    await commands.said("user", "create", bob)
    terms = ["--admission", "estimate", "--outage", "open", "--max-output-tokens", "64", "--model", "Llama3*"]
    await commands.said("limits", "set", bob, "--token-daily", "9", "--request-daily", "8", *terms)
    requests, tokens = await commands.told("limits", "set", bob, "--token-daily", "5", "--model", "llama3*")
    assert (requests["admission"], requests["outage"], requests["max_output_tokens"]) == ("estimate", "open", None)
    assert (tokens["amount"], tokens["admission"], tokens["max_output_tokens"]) == (5, "estimate", 64)
    unset = ["--max-output-tokens", "none", "--admission", "strict"]
    *_, tokens = await commands.told("limits", "set", bob, "--token-daily", "5", "--model", "llama3*", *unset)
    assert (tokens["admission"], tokens["max_output_tokens"]) == ("strict", None)


async def test_keys_and_roles_are_limited_and_shown_as_where_limits_are_from(commands: Commands) -> None:
    bob, role = called("bob"), called("role")
    await commands.said("role", "create", role)
    await commands.said("user", "create", bob, "--role", role)
    await commands.done("key", "generate", bob)
    (key,) = [row["id"] for row in await commands.told("key", "list", "--username", bob)]
    await commands.said("limits", "set", "--role", role, "--token-daily", "10", "--request-daily", "20")
    await commands.said("limits", "set", "--key", key, "--gateway", "ollama", "--token-daily", "5")
    await commands.said("limits", "set", bob, "--token-daily", "7")
    own = [(f"role {role}", "*", None, "requests", "day", 20), (f"user {bob}", "*", None, "total_tokens", "day", 7)]
    assert brief(await commands.told("limits", "show", bob)) == own
    of_key = (f"key {key}", "ollama", None, "total_tokens", "day", 5)
    assert brief(await commands.told("limits", "show", "--key", key)) == [*own, of_key]
    assert len(await commands.told("ratelimit", "get", "--role", role)) == 2
    table = await commands.said("limits", "show", bob)
    assert f"role {role}" in table
    every = brief(await commands.told("limits", "list"))
    assert of_key in every
    assert of_key in brief(await commands.told("limits", "list", "--gateway", "ollama"))
    assert own[1] not in brief(await commands.told("ratelimit", "list", "--gateway", "ollama"))


async def test_a_reset_leaves_what_the_roles_give(commands: Commands) -> None:
    bob, role = called("bob"), called("role")
    await commands.said("role", "create", role)
    await commands.said("limits", "set", "--role", role, "--token-daily", "10")
    await commands.said("user", "create", bob, "--role", role, "--token-limit-daily", "1", "--request-limit-daily", "1")
    await commands.said("limits", "set", bob, "openai", "--request-daily", "1")
    assert "--to-default" in await wrong(commands, "limits", "reset", bob, "--to-default", "--model", "llama3")
    assert (await commands.done("limits", "reset", bob, "--to-default", stdin="n\n")).returncode == 1
    some = await commands.said("limits", "reset", bob, "--gateway", "openai", "--to-default", "--yes")
    assert some == f"limits of user {bob} taken away: 1\n"
    assert len(await commands.told("limits", "show", bob)) == 2
    await commands.said("limits", "reset", bob, "--to-default", "--yes")
    assert brief(await commands.told("limits", "show", bob)) == [(f"role {role}", "*", None, "total_tokens", "day", 10)]


async def test_a_reset_lets_what_was_used_count_as_nothing(api: Api, commands: Commands) -> None:
    bob = called("bob")
    key = await api.user(bob)
    (its,) = await commands.told("key", "list", "--username", bob)
    await commands.said("limits", "set", bob, "--request-monthly", "1")

    async def status() -> int:
        body = {"model": MODEL, "prompt": "one", "stream": False}
        return (await api("POST", "/api/generate", body, key=key)).status

    async def let_in() -> bool:
        return await status() == 200

    await eventually(let_in)
    for spelling, whose, reset in (
        ("limits", [bob.upper()], "users whose counts were reset: 1"),
        ("ratelimit", [bob, "*"], "users whose counts were reset: 1"),
        ("limits", ["--role", "basic"], "users whose counts were reset: "),
    ):
        assert await status() == 429
        assert (await commands.done(spelling, "reset", *whose, stdin="n\n")).returncode == 1
        assert reset in await commands.said(spelling, "reset", *whose, "--yes")
        await eventually(let_in)
    for other in (["--key", its["id"]], [bob, "--gateway", "openai"], [bob, "--model", "llama3*"]):
        await commands.said("limits", "reset", *other, "--yes")
        assert await status() == 429
    assert brief(await commands.told("limits", "show", bob)) == [(f"user {bob}", "*", None, "requests", "month", 1)]
    assert "nobody" in await commands.refused("limits", "reset", "nobody", "--yes")


async def test_a_user_is_made_with_the_limits_or_not_at_all(commands: Commands) -> None:
    bob = called("bob")
    message = await commands.refused("user", "create", bob, "--gateway", "opnai", "--token-limit-daily", "5")
    assert "must be one of *, anthropic, ollama, openai" in message
    assert f"there is no user '{bob}'" in await commands.refused("user", "info", bob)
    named = ["--gateway", "openai", "--token-limit-daily", "5", "--request-limit-hourly", "none"]
    await commands.said("user", "create", bob, *named)
    assert brief(await commands.told("limits", "show", bob)) == [
        (f"user {bob}", "openai", None, "total_tokens", "day", 5)
    ]
    assert "--gateway" in await wrong(commands, "user", "create", called("ann"), "--gateway", "openai")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["root"], "nothing to set"),
        (["--token-daily", "1"], "give one of NAME"),
        (["root", "--role", "basic", "--token-daily", "1"], "give one of NAME"),
        (["root", "openai", "--gateway", "openai", "--token-daily", "1"], "gateway once"),
        (["root", "--token-daily", "-1"], "whole number from 0 on, or none"),
        (["root", "--token-daily", "1.5"], "whole number"),
        (["root", "--token-daily", "٣"], "whole number"),
        (["root", "--token-daily", "9" * 5000], "whole number"),
        (["root", "--token-daily", "1", "--max-output-tokens", "0"], "from 1 on"),
        (["root", "--admission", "strict"], "name it too"),
        (["root", "--request-daily", "1", "--max-output-tokens", "9"], "limit of tokens"),
        (["--key", "abc", "--token-daily", "1"], "UUID"),
    ],
)
async def test_what_makes_no_sense_is_wrong_usage(here: Commands, args: list[str], told: str) -> None:
    assert told in await wrong(here, "limits", "set", *args)
    assert await here.told("limits", "show", "root") == []


async def test_who_is_not_there_has_no_limits(commands: Commands) -> None:
    assert "no user 'nobody'" in await commands.refused("limits", "set", "nobody", "--token-daily", "1")
    assert "no role 'nothing'" in await commands.refused("limits", "show", "--role", "nothing")
    too_much = await commands.refused("limits", "set", "root", "--token-daily", "9007199254740992")
    assert "amount" in too_much
