"""`parallama user`, as a real process on a real database."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


def listed(parallama: Run, *args: str) -> list[dict[str, object]]:
    answer = parallama("user", "list", "--json", *args)
    assert (answer.returncode, answer.stderr) == (0, "")
    rows: list[dict[str, object]] = json.loads(answer.stdout)
    return rows


def test_users_are_created_and_listed(parallama: Run) -> None:
    assert listed(parallama) == []
    assert parallama("user", "create", "alice").returncode == 0
    assert parallama("user", "create", "root", "--role", "premium", "--admin").returncode == 0
    alice, root = listed(parallama)
    assert list(alice) == ["id", "username", "role", "admin", "active", "created_at"]
    assert (alice["username"], alice["role"], alice["admin"], alice["active"]) == ("alice", "basic", False, True)
    assert (root["username"], root["role"], root["admin"]) == ("root", "premium", True)
    created_at = str(alice["created_at"])
    assert created_at.endswith("Z")
    assert datetime.fromisoformat(created_at).utcoffset() == timedelta(0)
    assert listed(parallama, "--role", "premium") == [root]
    table = parallama("user", "list").stdout
    assert "username" in table
    assert str(alice["id"]) in table


def test_a_user_is_shown_by_name_or_id(parallama: Run) -> None:
    parallama("user", "create", "alice")
    (alice,) = listed(parallama)
    for name in ("ALICE", str(alice["id"])):
        assert json.loads(parallama("user", "info", name, "--json").stdout) == alice
    assert str(alice["id"]) in parallama("user", "info", "alice").stdout


def test_a_user_is_changed(parallama: Run) -> None:
    parallama("user", "create", "alice")
    assert parallama("user", "update", "alice", "--role", "premium", "--admin", "--inactive").returncode == 0
    (alice,) = listed(parallama)
    assert (alice["role"], alice["admin"], alice["active"]) == ("premium", True, False)
    assert parallama("user", "update", "alice", "--no-admin", "--active").returncode == 0
    (alice,) = listed(parallama)
    assert (alice["role"], alice["admin"], alice["active"]) == ("premium", False, True)


@pytest.mark.parametrize(("answer", "code", "left"), [("n\n", 1, 1), ("", 1, 1), ("y\n", 0, 0)])
def test_deleting_asks(parallama: Run, answer: str, code: int, left: int) -> None:
    parallama("user", "create", "alice")
    assert parallama("user", "delete", "alice", stdin=answer).returncode == code
    assert len(listed(parallama)) == left


def test_deleting_does_not_ask_when_told_so(parallama: Run) -> None:
    parallama("user", "create", "alice")
    assert parallama("user", "delete", "alice", "--yes").returncode == 0
    assert listed(parallama) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["create", "ALICE"], "the user name ALICE is taken"),
        (["create", "no body"], "it must be a letter or digit"),
        (["create", "bob", "--role", "boss"], "one of admin, premium, basic"),
        (["list", "--role", "boss"], "one of admin, premium, basic"),
        (["info", "bob"], "there is no user 'bob'"),
        (["update", "bob", "--admin"], "there is no user 'bob'"),
        (["delete", "bob", "--yes"], "there is no user 'bob'"),
    ],
)
def test_what_cannot_be_done_is_said_on_one_line(parallama: Run, args: list[str], message: str) -> None:
    parallama("user", "create", "alice")
    failed = parallama("user", *args)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("Error: ")
    assert message in failed.stderr
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize("args", [["create"], ["update", "alice"], ["list", "alice"], ["frobnicate"]])
def test_wrong_usage_is_exit_code_2(parallama: Run, args: list[str]) -> None:
    assert parallama("user", *args).returncode == 2
