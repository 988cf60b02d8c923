"""`parallama user`, on a real database."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from commands import Run, command_line, refused, said, told
from running import PATIENT

from parallama.db.pool import Database
from parallama.identity.passwords import Passwords
from parallama.identity.users import Users

PASSWORD = "correct horse battery staple"


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Run:
    return command_line(database_url, tmp_path)


def listed(run: Run, *args: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = told(run, "user", "list", *args)
    return rows


async def opens(database_url: str, name: str, password: str) -> bool:
    """Whether the user can log in with the password."""
    async with Database(database_url, PATIENT).running() as database:
        known = await Users(database).password_of(name)
    async with Passwords().running() as passwords:
        return (await passwords.verify(known.password if known else None, password)).ok


def test_users_are_created_and_listed(parallama: Run, run: Run) -> None:
    assert listed(run) == []
    assert parallama("user", "create", "alice").returncode == 0
    assert run("user", "create", "root", "--role", "premium", "--admin").returncode == 0
    alice, root = listed(run)
    assert list(alice) == ["id", "username", "role", "admin", "active", "created_at"]
    assert (alice["username"], alice["role"], alice["admin"], alice["active"]) == ("alice", "basic", False, True)
    assert (root["username"], root["role"], root["admin"]) == ("root", "premium", True)
    created_at = str(alice["created_at"])
    assert created_at.endswith("Z")
    assert datetime.fromisoformat(created_at).utcoffset() == timedelta(0)
    assert listed(run, "--role", "premium") == [root]
    table = parallama("user", "list").stdout
    assert "username" in table
    assert str(alice["id"]) in table


def test_a_user_is_shown_by_name_or_id(run: Run) -> None:
    said(run, "user", "create", "alice")
    (alice,) = listed(run)
    for name in ("ALICE", str(alice["id"])):
        shown = told(run, "user", "info", name)
        assert alice.items() <= shown.items()
        assert (shown["roles"], shown["has_password"], shown["last_login_at"]) == (["basic"], False, None)
    assert str(alice["id"]) in said(run, "user", "info", "alice")


def test_a_user_is_changed(run: Run) -> None:
    said(run, "user", "create", "alice")
    assert "premium, admin, inactive" in said(
        run, "user", "update", "alice", "--role", "premium", "--admin", "--inactive"
    )
    (alice,) = listed(run)
    assert (alice["role"], alice["admin"], alice["active"]) == ("premium", True, False)
    said(run, "user", "update", "alice", "--no-admin", "--active")
    (alice,) = listed(run)
    assert (alice["role"], alice["admin"], alice["active"]) == ("premium", False, True)


def test_a_user_may_have_any_role_that_there_is(run: Run) -> None:
    said(run, "role", "create", "staff", "--permission", "use_ollama")
    said(run, "user", "create", "alice", "--role", "staff")
    assert [user["username"] for user in listed(run, "--role", "staff")] == ["alice"]


def test_the_last_admin_stays_one(run: Run) -> None:
    said(run, "user", "create", "root", "--admin")
    for change in (["update", "root", "--no-admin"], ["update", "root", "--inactive"], ["delete", "root", "--yes"]):
        assert "make another admin first" in refused(run, "user", *change)
    (root,) = listed(run)
    assert (root["admin"], root["active"]) == (True, True)


async def test_a_password_comes_from_one_line_of_stdin(run: Run, database_url: str) -> None:
    said(run, "user", "create", "alice", "--password", stdin=f"{PASSWORD}\nsecond line\n")
    assert told(run, "user", "info", "alice")["has_password"]
    assert await opens(database_url, "alice", PASSWORD)
    done = run("user", "passwd", "ALICE", stdin="another horse battery\r\n")
    assert (done.returncode, done.stdout) == (0, "user alice has a new password\n")
    assert await opens(database_url, "alice", "another horse battery")
    assert not await opens(database_url, "alice", PASSWORD)


def test_a_password_that_may_not_be_is_refused_and_nothing_is_made(run: Run) -> None:
    for password in ("short", "alice12345", "x" * 5000):
        assert password not in refused(run, "user", "create", "alice", "--password", stdin=password + "\n")
    assert listed(run) == []


def test_without_a_password_on_stdin_nothing_is_made(run: Run) -> None:
    done = run("user", "create", "alice", "--password")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no password on stdin" in done.stderr
    assert listed(run) == []


async def test_a_terminal_is_asked_twice_without_echo(run: Run, database_url: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    env = {**os.environ, "PARALLAMA_DB_URL": database_url, "PARALLAMA_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "parallama", "user", "create", "alice", "--password"]
    with subprocess.Popen(
        command, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        shown = b""
        for typed in (PASSWORD, "something else", PASSWORD, PASSWORD):
            asked = b""
            while not asked.rstrip().endswith(b":"):
                asked += os.read(ours, 1000)
            os.write(ours, typed.encode() + b"\n")
            shown += asked
        assert process.wait(60) == 0
    os.close(ours)
    assert shown.count(b"Password:") == 2
    assert PASSWORD.encode() not in shown
    assert await opens(database_url, "alice", PASSWORD)


@pytest.mark.parametrize(("answer", "code", "left"), [("n\n", 1, 1), ("", 1, 1), ("y\n", 0, 0)])
def test_deleting_asks(run: Run, answer: str, code: int, left: int) -> None:
    said(run, "user", "create", "alice")
    assert run("user", "delete", "alice", stdin=answer).returncode == code
    assert len(listed(run)) == left


def test_deleting_does_not_ask_when_told_so(run: Run) -> None:
    said(run, "user", "create", "alice")
    said(run, "user", "delete", "alice", "--yes")
    assert listed(run) == []


def test_what_cannot_be_done_is_said_on_one_line(run: Run) -> None:
    said(run, "user", "create", "alice")
    for args, message in {
        ("create", "ALICE"): "the user name ALICE is taken",
        ("create", "no body"): "it must be a letter or digit",
        ("create", "bob", "--role", "boss"): "one of admin, basic, premium",
        ("update", "alice", "--role", "boss"): "one of admin, basic, premium",
        ("list", "--role", "boss"): "one of admin, basic, premium",
        ("info", "bob"): "there is no user 'bob'",
        ("update", "bob", "--admin"): "there is no user 'bob'",
        ("delete", "bob", "--yes"): "there is no user 'bob'",
    }.items():
        assert message in refused(run, "user", *args)
    assert "there is no user 'bob'" in refused(run, "user", "passwd", "bob", stdin=PASSWORD)


@pytest.mark.parametrize("args", [["create"], ["update", "alice"], ["list", "alice"], ["passwd"], ["frobnicate"]])
def test_wrong_usage_is_exit_code_2(tmp_path: Path, args: list[str]) -> None:
    assert command_line("postgresql://127.0.0.1:1/none", tmp_path)("user", *args).returncode == 2
