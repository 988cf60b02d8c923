"""`parallama key`, as a real process on a real database."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from parallama.identity import keys

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def parallama(parallama: Run) -> Run:
    """Commands on a database with a user alice."""
    assert parallama("user", "create", "alice").returncode == 0
    return parallama


def listed(parallama: Run, *args: str) -> list[dict[str, str]]:
    answer = parallama("key", "list", "--username", "alice", "--json", *args)
    assert (answer.returncode, answer.stderr) == (0, "")
    rows: list[dict[str, str]] = json.loads(answer.stdout)
    return rows


@pytest.mark.parametrize("verb", ["generate", "create"])
def test_a_new_key_is_alone_on_stdout(parallama: Run, verb: str) -> None:
    answer = parallama("key", verb, "alice")
    assert answer.returncode == 0
    assert keys.well_formed(answer.stdout.removesuffix("\n"))
    assert answer.stdout.strip() not in answer.stderr
    (record,) = listed(parallama)
    assert record["id"] in answer.stderr
    assert record["hint"] == keys.hint(answer.stdout.strip())


def test_no_command_shows_a_key_again(parallama: Run) -> None:
    key = parallama("key", "generate", "alice").stdout.strip()
    (record,) = listed(parallama)
    for args in (["list", "--username", "alice"], ["info", record["id"]], ["info", record["id"], "--json"]):
        shown = parallama("key", *args)
        assert shown.returncode == 0
        assert key not in shown.stdout + shown.stderr
        assert record["id"] in shown.stdout


def test_description_and_expiry_are_kept(parallama: Run) -> None:
    parallama("key", "generate", "ALICE", "--description", "laptop", "--expires-in", "30")
    (record,) = listed(parallama)
    shown = json.loads(parallama("key", "info", record["id"], "--json").stdout)
    assert shown == record
    assert (record["username"], record["description"], record["state"]) == ("alice", "laptop", "active")
    assert record["last_used_at"] is record["revoked_at"] is None
    UUID(record["id"])
    assert record["expires_at"].endswith("Z")
    left = datetime.fromisoformat(record["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)


def test_revoked_keys_are_listed_only_when_asked_for(parallama: Run) -> None:
    for _ in range(2):
        parallama("key", "generate", "alice")
    first, second = listed(parallama)
    assert parallama("key", "revoke", first["id"], "--yes").returncode == 0
    assert [record["id"] for record in listed(parallama)] == [second["id"]]
    states = {record["id"]: record["state"] for record in listed(parallama, "--show-expired")}
    assert states == {first["id"]: "revoked", second["id"]: "active"}


def test_all_keys_of_a_user_are_revoked(parallama: Run) -> None:
    for _ in range(2):
        parallama("key", "generate", "alice")
    answer = parallama("key", "revoke-all", "alice", "--yes")
    assert (answer.returncode, answer.stdout) == (0, "revoked 2 keys of user alice\n")
    assert listed(parallama) == []


def test_a_deleted_key_is_gone(parallama: Run) -> None:
    parallama("key", "generate", "alice")
    (record,) = listed(parallama)
    assert parallama("key", "delete", record["id"], "--yes").returncode == 0
    assert listed(parallama, "--show-expired") == []


@pytest.mark.parametrize("verb", ["revoke", "revoke-all", "delete"])
@pytest.mark.parametrize(("answer", "code", "left"), [("n\n", 1, 1), ("", 1, 1), ("y\n", 0, 0)])
def test_ending_a_key_asks(parallama: Run, verb: str, answer: str, code: int, left: int) -> None:
    parallama("key", "generate", "alice")
    (record,) = listed(parallama)
    target = "alice" if verb == "revoke-all" else record["id"]
    assert parallama("key", verb, target, stdin=answer).returncode == code
    assert len(listed(parallama)) == left


UNKNOWN = "0b92d34f-f64e-4067-af1e-0f565d5a3e72"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["generate", "bob"], "there is no user 'bob'"),
        (["generate", "alice", "--description", "x" * 201], "at most 200 characters"),
        (["list", "--username", "bob"], "there is no user 'bob'"),
        (["revoke-all", "bob", "--yes"], "there is no user 'bob'"),
        (["info", UNKNOWN], f"there is no key with the id {UNKNOWN}"),
        (["revoke", UNKNOWN, "--yes"], f"there is no key with the id {UNKNOWN}"),
        (["delete", UNKNOWN, "--yes"], f"there is no key with the id {UNKNOWN}"),
    ],
)
def test_what_cannot_be_done_is_said_on_one_line(parallama: Run, args: list[str], message: str) -> None:
    failed = parallama("key", *args)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("Error: ")
    assert message in failed.stderr
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "args",
    [
        ["generate"],
        ["generate", "alice", "--expires-in", "0"],
        ["generate", "alice", "--expires-in", "9999999"],
        ["list"],
        ["info", "no-id"],
        ["revoke"],
    ],
)
def test_wrong_usage_is_exit_code_2(parallama: Run, args: list[str]) -> None:
    assert parallama("key", *args).returncode == 2
