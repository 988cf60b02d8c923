"""`parallama auth`, on a real database with real sessions."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Run, command_line, refused, said

from parallama.config import AuthSettings
from parallama.db.pool import Database
from parallama.errors import NotAuthenticated
from parallama.identity.actor import SERVER
from parallama.identity.sessions import Opened, Sessions
from parallama.identity.users import Users


@pytest.fixture
async def sessions(database: Database) -> Sessions:
    """Of a database with the users alice and bob."""
    for name in ("alice", "bob"):
        await Users(database).create(name)
    return Sessions(database, SERVER, AuthSettings())


@pytest.fixture
async def opened(database: Database, sessions: Sessions) -> dict[str, Opened]:
    """A session of each of them."""
    return {name: await sessions.open((await Users(database).get(name)).id, None) for name in ("alice", "bob")}


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Run:
    return command_line(database_url, tmp_path)


async def test_revoking_all_ends_the_sessions_of_one_user(
    run: Run, sessions: Sessions, opened: dict[str, Opened]
) -> None:
    assert said(run, "auth", "revoke-all", "ALICE", "--yes") == "revoked 1 sessions of user ALICE\n"
    with pytest.raises(NotAuthenticated):
        await sessions.rotate(opened["alice"].refresh_token)
    assert (await sessions.rotate(opened["bob"].refresh_token)).session_id == opened["bob"].session_id
    (ended,) = await sessions.list("alice", ended=True)
    assert ended.revoked_for == "admin"


async def test_rotating_tokens_ends_access_tokens_but_no_session(
    run: Run, sessions: Sessions, opened: dict[str, Opened]
) -> None:
    assert said(run, "auth", "rotate-tokens", "alice") == "ended the access tokens of 1 sessions of user alice\n"
    alice = await sessions.rotate(opened["alice"].refresh_token)
    assert (alice.session_id, alice.generation) == (opened["alice"].session_id, opened["alice"].generation + 1)
    assert (await sessions.rotate(opened["bob"].refresh_token)).generation == opened["bob"].generation


@pytest.mark.parametrize(("answer", "code", "left"), [("n\n", 1, 1), ("", 1, 1), ("y\n", 0, 0)])
async def test_revoking_all_asks(
    run: Run, sessions: Sessions, opened: dict[str, Opened], answer: str, code: int, left: int
) -> None:
    assert run("auth", "revoke-all", "alice", stdin=answer).returncode == code
    assert len(await sessions.list("alice")) == left


def test_an_unknown_user_is_said_on_one_line(run: Run) -> None:
    for args in (["rotate-tokens", "bob"], ["revoke-all", "bob", "--yes"]):
        assert "there is no user 'bob'" in refused(run, "auth", *args)


@pytest.mark.parametrize("args", [["rotate-tokens"], ["revoke-all"], ["login", "alice"]])
def test_wrong_usage_is_exit_code_2(tmp_path: Path, args: list[str]) -> None:
    assert command_line("postgresql://127.0.0.1:1/none", tmp_path)("auth", *args).returncode == 2
