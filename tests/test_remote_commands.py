"""Commands with --server: what they do on another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from admin_api import Api, api, in_one_loop
from commands import Commands, at_server, command_line
from e2e.databases import named

from parallama import AsyncParallamaClient
from parallama.cli.changes import Changes
from parallama.cli.gateway import configured
from parallama.client.admin import AsyncAdmin
from parallama.client.uses import Use
from parallama.errors import Outdated

__all__ = ["api"]

pytestmark = in_one_loop

PASSWORD = "correct horse battery staple"


@pytest.fixture
def there(api: Api, tmp_path: Path) -> Commands:
    """Commands at the server, as its admin root."""
    return Commands(at_server(api.gateway.url, api.root, tmp_path / "state"))


@pytest_asyncio.fixture(loop_scope="module")
async def here(api: Api, postgres: str, tmp_path: Path) -> Commands:
    """Commands on the records of the same server."""
    async with api.gateway.database.connection() as one:
        database = await one.fetchval("SELECT current_database()")
    return Commands(command_line(named(postgres, database), tmp_path / "state"))


# what they do


async def test_users_are_administered(there: Commands) -> None:
    created = await there.said("user", "create", "ann", "--role", "premium", "--password", stdin=f"{PASSWORD}\n")
    assert created == "created user ann (role premium, active)\n"
    ann = await there.told("user", "info", "ANN")
    assert (ann["roles"], ann["has_password"]) == (["premium"], True)
    assert await there.said("user", "update", "ann", "--inactive") == "user ann is now role premium, inactive\n"
    assert await there.said("user", "passwd", "ann", stdin="another horse\n") == "user ann has a new password\n"
    assert await there.said("user", "delete", "ann", "--yes") == "deleted user ann\n"
    assert "there is no user 'ann'" in await there.refused("user", "info", "ann")
    assert "it must be a letter or digit" in await there.refused("user", "create", "no body")


async def test_deleting_asks_before_the_server_is_asked(there: Commands) -> None:
    assert (await there.done("user", "delete", "alice", stdin="n\n")).returncode == 1
    assert (await there.told("user", "info", "alice"))["username"] == "alice"


async def test_keys_are_administered(there: Commands) -> None:
    await there.said("user", "create", "ben")
    made = await there.done("key", "generate", "ben", "--models", "llama3*", "--expires-in", "30")
    assert made.stdout.startswith("plm_")
    (record,) = await there.told("key", "list", "--username", "ben")
    assert (record["models"], record["state"]) == (["llama3*"], "active")
    await there.said("key", "update", record["id"], "--description", "laptop", "--no-limit", "models")
    changed = await there.told("key", "info", record["id"])
    assert (changed["description"], changed["models"]) == ("laptop", None)
    for verb, state in (("disable", "disabled"), ("enable", "active")):
        await there.said("key", verb, record["id"])
        assert (await there.told("key", "info", record["id"]))["state"] == state
    rotated = await there.done("key", "rotate", record["id"], "--grace", "15m")
    assert "the old secret works until" in rotated.stderr
    assert rotated.stdout != made.stdout
    await there.said("key", "revoke", record["id"], "--yes")
    assert [key["state"] for key in await there.told("key", "list", "--username", "ben", "--show-expired")] == [
        "revoked"
    ]
    await there.said("key", "delete", record["id"], "--yes")
    assert f"there is no key with the id {record['id']}" in await there.refused("key", "info", record["id"])
    assert (await there.done("key", "create", "ben")).returncode == 0
    assert await there.said("key", "revoke-all", "ben", "--yes") == "revoked 1 keys of user ben\n"


async def test_roles_are_administered(there: Commands, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("timezone: Asia/Tokyo\n")
    await there.said("user", "create", "cat")
    await there.said("role", "create", "staff", "--permission", "use_openai", "--parent", "basic")
    await there.said("role", "update", "staff", "--rename", "team", "--add-permission", "view_metrics", "--no-parent")
    (team,) = [role for role in await there.told("role", "list") if role["name"] == "team"]
    assert (team["permissions"], team["parent"]) == (["use_openai", "view_metrics"], None)
    until = ["--expires", "2100-01-01", "--config", str(config)]
    assert "until 2099-12-31 15:00:00 UTC" in await there.said("role", "assign", "cat", "team", *until)
    assert await there.said("role", "remove", "cat", "team") == "user cat no longer has role team\n"
    assert "does not have the role 'team'" in await there.refused("role", "remove", "cat", "team")
    states = [(held["role"], held["state"]) for held in await there.told("role", "history", "cat")]
    assert states == [("basic", "active"), ("team", "ended")]
    assert await there.said("role", "delete", "team", "--cascade", "--yes") == "deleted role team\n"


async def test_sessions_are_ended(api: Api, there: Commands) -> None:
    await api.done("POST", "users", {"username": "dan", "password": PASSWORD})
    login = {"username": "dan", "password": PASSWORD}
    token = (await api.done("POST", "/auth/login", login, key=""))["access_token"]
    shown = await there.said("auth", "rotate-tokens", "dan")
    assert shown == "ended the access tokens of 1 sessions of user dan\n"
    assert (await api("GET", "/me", key=token)).status == 401
    assert await there.said("auth", "revoke-all", "dan", "--yes") == "revoked 1 sessions of user dan\n"


async def test_who_has_the_key_is_who_made_the_change(there: Commands) -> None:
    await there.said("user", "create", "eve")
    change, *_ = await there.told("audit", "list", "--user", "eve", "--action", "user.create", "--limit", "1")
    assert (change["actor"], change["via"]) == ("root", "api")
    assert change["request_id"] is not None


async def test_gateways_are_administered(there: Commands, tmp_path: Path) -> None:
    file = tmp_path / "openai.yaml"
    file.write_text("endpoints: {embeddings: false}\n")
    mapping = ["--model-mapping", "gpt-4=llama3.2:1b", "--num-ctx", "gpt-4=4096", "--from", str(file)]
    found = await there.told("gateway", "config", "openai", *mapping)
    assert (found["model_mappings"]["gpt-4"]["num_ctx"], found["endpoints"]["embeddings"]) == (4096, False)
    assert found["from"]["model_mappings.gpt-4"] == "recorded"
    assert "gateway openai is now disabled: /openai/v1, /v1 answer 404" in await there.said(
        "gateway", "toggle", "openai", "--enabled", "no"
    )
    states = {state["name"]: state for state in await there.told("gateway", "status")}
    assert (states["openai"]["enabled"], states["ollama"]["enabled"]) == (False, True)
    message = await there.refused("gateway", "config", "openai", "--option", "max_embedding_input=3")
    assert "did you mean max_embedding_inputs?" in message
    reset = await there.told("gateway", "config", "openai", "--reset")
    assert set(reset["from"].values()) == {"default"}


def meddled(api: Api, client: AsyncParallamaClient, times: int) -> AsyncAdmin:
    """The client's operations; behind the first uses somebody else switches an endpoint of ollama."""
    left = list(range(times))

    async def carry(use: Use[Any]) -> Any:
        found = await client.admin.carry(use)
        if left:
            await api.done("PATCH", "gateways/ollama", {"endpoints": {"chat": bool(left.pop() % 2)}})
        return found

    return AsyncAdmin(carry)


async def test_a_change_in_between_is_kept_beside_ours(api: Api) -> None:
    changes = Changes(model_mappings=[("quick", "llama3.2:1b")])
    async with AsyncParallamaClient(base_url=api.gateway.url, api_key=api.root) as client:
        state = await configured(meddled(api, client, 1), "ollama", changes, reset=False)
        assert (state.endpoints["chat"], "quick" in state.model_mappings) == (False, True)
        with pytest.raises(Outdated):
            await configured(meddled(api, client, 4), "ollama", changes, reset=False)
    await api.done("DELETE", "gateways/ollama")


async def test_figures_are_those_of_the_server_that_answers(api: Api, there: Commands) -> None:
    (before,) = await there.told("gateway", "metrics", "--gateway", "ollama")
    async with api.gateway.http.get(f"{api.gateway.url}/api/tags", headers=api.gateway.admin_auth) as answer:
        assert answer.status == 200
        await answer.read()
    (after,) = await there.told("gateway", "metrics", "--gateway", "ollama")
    assert after["requests"] == before["requests"] + 1
    assert {row["gateway"] for row in await there.told("gateway", "metrics")} >= {"ollama", "openai"}
    assert "did you mean openai?" in await there.refused("gateway", "metrics", "--gateway", "opnai")


@pytest.mark.parametrize(
    "args",
    [
        ["user", "list"],
        ["user", "info", "alice"],
        ["key", "list", "--username", "alice"],
        ["role", "list"],
        ["role", "history", "alice"],
        ["gateway", "status"],
        ["gateway", "config", "ollama"],
        ["audit", "list", "--action", "key.create", "--user", "alice"],
    ],
)
async def test_what_is_shown_is_the_same_as_on_the_machine_itself(
    here: Commands, there: Commands, args: list[str]
) -> None:
    assert await there.told(*args) == await here.told(*args)
    assert await there.said(*args) == await here.said(*args)


async def test_an_empty_filter_is_refused_rather_than_dropped(here: Commands, there: Commands) -> None:
    for commands in (here, there):
        message = await commands.refused("audit", "list", "--actor", "")
        assert message == "Error: actor: String should have at least 1 character\n"


async def test_arguments_that_are_no_text_are_refused(here: Commands, there: Commands) -> None:
    for commands in (here, there):
        for args in (["user", "info", "\udcff"], ["user", "list", "--role", "\udcff"], ["user", "create", "\udcff"]):
            done = await commands.done(*args)
            assert (done.returncode in (1, 2), done.stdout) == (True, "")
            assert "Error: " in done.stderr
