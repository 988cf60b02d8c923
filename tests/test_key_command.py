"""`parallama key`, on a real database."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from commands import Run, command_line, refused, said, told

from parallama.db.pool import connect
from parallama.identity import keys


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Run:
    """Commands on a database with a user alice."""
    run = command_line(database_url, tmp_path)
    said(run, "user", "create", "alice")
    return run


def listed(run: Run, *args: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = told(run, "key", "list", "--username", "alice", *args)
    return rows


def made(run: Run, *args: str) -> dict[str, Any]:
    """The record of a new key of alice."""
    assert run("key", "generate", "alice", *args).returncode == 0
    return listed(run)[-1]


def shown(run: Run, key_id: str) -> dict[str, Any]:
    record: dict[str, Any] = told(run, "key", "info", key_id)
    return record


async def stored(database_url: str) -> tuple[bytes, bytes | None]:
    """What is stored of the one key's secret, and of the one before a rotation."""
    connection = await connect(database_url)
    try:
        row = await connection.fetchrow("SELECT digest, previous_digest FROM api_keys")
    finally:
        await connection.close()
    assert row is not None
    return row["digest"], row["previous_digest"]


def alone(answer: subprocess.CompletedProcess[str], record: Mapping[str, Any]) -> bool:
    """Whether the answer has a key, which is of the record, on stdout and nothing else there."""
    key = answer.stdout.removesuffix("\n")
    assert answer.returncode == 0
    assert key not in answer.stderr
    return keys.well_formed(key) and keys.hint(key) == record["hint"] and record["id"] in answer.stderr


def test_a_new_key_is_alone_on_stdout(parallama: Run, run: Run) -> None:
    generated, created = parallama("key", "generate", "alice"), run("key", "create", "alice")
    first, second = listed(run)
    assert alone(generated, first)
    assert alone(created, second)


def test_no_command_shows_a_key_again(run: Run) -> None:
    key = run("key", "generate", "alice").stdout.strip()
    (record,) = listed(run)
    for args in (["list", "--username", "alice"], ["info", record["id"]], ["info", record["id"], "--json"]):
        answer = run("key", *args)
        assert answer.returncode == 0
        assert key not in answer.stdout + answer.stderr
        assert record["id"] in answer.stdout


def test_description_and_expiry_are_kept(run: Run) -> None:
    run("key", "generate", "ALICE", "--description", "laptop", "--expires-in", "30")
    (record,) = listed(run)
    assert shown(run, record["id"]) == record
    assert (record["username"], record["description"], record["state"]) == ("alice", "laptop", "active")
    assert record["last_used_at"] is record["revoked_at"] is None
    UUID(record["id"])
    assert record["expires_at"].endswith("Z")
    left = datetime.fromisoformat(record["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)


def test_a_key_is_limited(run: Run) -> None:
    limits = ["--models", "llama3*, qwen2:7b", "--models", "phi*", "--gateways", "openai,ollama"]
    record = made(run, *limits, "--networks", "10.0.0.0/8", "--priority-ceiling", "low")
    assert record["models"] == ["llama3*", "qwen2:7b", "phi*"]
    assert record["gateways"] == ["openai", "ollama"]
    assert (record["networks"], record["priority_ceiling"]) == (["10.0.0.0/8"], "low")
    assert "llama3*, qwen2:7b, phi*" in said(run, "key", "info", record["id"])


def test_an_empty_list_allows_nothing_and_none_allows_all(run: Run) -> None:
    record = made(run, "--models", "")
    assert (record["models"], record["gateways"], record["networks"]) == ([], None, None)


def test_what_an_update_does_not_name_stays(run: Run) -> None:
    record = made(run, "--models", "phi*", "--gateways", "openai", "--expires-in", "3", "--description", "laptop")
    said(run, "key", "update", record["id"], "--models", "llama3*", "--priority-ceiling", "normal")
    changed = shown(run, record["id"])
    assert (changed["models"], changed["priority_ceiling"]) == (["llama3*"], "normal")
    assert all(changed[name] == record[name] for name in ("gateways", "expires_at", "description"))
    said(run, "key", "update", record["id"], "--description", "", "--expires-in", "9", "--no-limit", "models")
    changed = shown(run, record["id"])
    assert (changed["models"], changed["gateways"], changed["description"]) == (None, ["openai"], "")
    assert changed["expires_at"] > record["expires_at"]
    said(run, "key", "update", record["id"], "--no-limit", "expiry", "--no-limit", "priority-ceiling")
    assert shown(run, record["id"])["expires_at"] is shown(run, record["id"])["priority_ceiling"] is None


def test_a_disabled_key_can_be_enabled_again(run: Run) -> None:
    record = made(run)
    said(run, "key", "disable", record["id"])
    assert (shown(run, record["id"])["state"], shown(run, record["id"])["enabled"]) == ("disabled", False)
    said(run, "key", "enable", record["id"])
    assert shown(run, record["id"])["state"] == "active"


@pytest.mark.parametrize(("grace", "span"), [([], 86_400), (["--grace", "30s"], 30), (["--grace", "7d"], 604_800)])
async def test_a_rotated_key_keeps_its_old_secret_for_the_grace_time(
    run: Run, database_url: str, grace: list[str], span: int
) -> None:
    old = run("key", "generate", "alice").stdout.strip()
    (record,) = listed(run)
    done = run("key", "rotate", record["id"], *grace)
    new = done.stdout.removesuffix("\n")
    assert keys.well_formed(new)
    assert new not in done.stderr
    assert re.search(r"the old secret works until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", done.stderr)
    assert await stored(database_url) == (keys.digest(new), keys.digest(old))
    changed = shown(run, record["id"])
    rotated, until = (datetime.fromisoformat(changed[name]) for name in ("rotated_at", "previous_until"))
    assert until - rotated == timedelta(seconds=span)


async def test_without_grace_the_old_secret_is_dead(run: Run, database_url: str) -> None:
    record = made(run)
    done = run("key", "rotate", record["id"], "--grace", "0")
    assert "the old secret no longer works" in done.stderr
    assert (await stored(database_url))[0] == keys.digest(done.stdout.strip())
    assert shown(run, record["id"])["previous_until"] is None


def test_revoked_keys_are_listed_only_when_asked_for(run: Run) -> None:
    first, second = made(run), made(run)
    said(run, "key", "revoke", first["id"], "--yes")
    assert [record["id"] for record in listed(run)] == [second["id"]]
    states = {record["id"]: record["state"] for record in listed(run, "--show-expired")}
    assert states == {first["id"]: "revoked", second["id"]: "active"}


def test_all_keys_of_a_user_are_revoked(run: Run) -> None:
    made(run), made(run)
    assert said(run, "key", "revoke-all", "alice", "--yes") == "revoked 2 keys of user alice\n"
    assert listed(run) == []


def test_a_deleted_key_is_gone(run: Run) -> None:
    said(run, "key", "delete", made(run)["id"], "--yes")
    assert listed(run, "--show-expired") == []


@pytest.mark.parametrize("verb", ["revoke", "revoke-all", "delete"])
@pytest.mark.parametrize(("answer", "code", "left"), [("n\n", 1, 1), ("", 1, 1), ("y\n", 0, 0)])
def test_ending_a_key_asks(run: Run, verb: str, answer: str, code: int, left: int) -> None:
    record = made(run)
    target = "alice" if verb == "revoke-all" else record["id"]
    assert run("key", verb, target, stdin=answer).returncode == code
    assert len(listed(run)) == left


UNKNOWN = "0b92d34f-f64e-4067-af1e-0f565d5a3e72"


def test_what_cannot_be_done_is_said_on_one_line(run: Run) -> None:
    active, revoked = made(run)["id"], made(run)["id"]
    said(run, "key", "revoke", revoked, "--yes")
    nobody, nothing = "there is no user 'bob'", f"there is no key with the id {UNKNOWN}"
    for args, message in {
        ("generate", "bob"): nobody,
        ("generate", "alice", "--description", "x" * 201): "at most 200 characters",
        ("generate", "alice", "--networks", "home"): "must be an address or a range",
        ("generate", "alice", "--gateways", "Open AI"): "there is no gateway 'Open AI': it must be one of",
        ("list", "--username", "bob"): nobody,
        ("revoke-all", "bob", "--yes"): nobody,
        ("rotate", revoked): "is revoked: make a new one",
        ("rotate", active, "--grace", "31d"): "grace_s: Input should be less than or equal to 2592000",
        **{(verb, UNKNOWN, *more): nothing for verb, more in _EVERY_VERB.items()},
    }.items():
        assert message in refused(run, "key", *args)


_EVERY_VERB: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("info", "rotate", "enable", "disable"), ()),
    **dict.fromkeys(("revoke", "delete"), ("--yes",)),
    "update": ("--description", "x"),
}


@pytest.mark.parametrize(
    "args",
    [
        ["generate"],
        ["generate", "alice", "--expires-in", "0"],
        ["generate", "alice", "--expires-in", "9999999"],
        ["generate", "alice", "--priority-ceiling", "highest"],
        ["list"],
        ["info", "no-id"],
        ["revoke"],
        ["rotate", UNKNOWN, "--grace", "soon"],
        ["update", UNKNOWN],
        ["update", UNKNOWN, "--models", "a", "--no-limit", "models"],
    ],
)
def test_wrong_usage_is_exit_code_2(tmp_path: Path, args: list[str]) -> None:
    assert command_line("postgresql://127.0.0.1:1/none", tmp_path)("key", *args).returncode == 2
