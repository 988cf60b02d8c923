"""`parallama audit`, on a real database."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Any

import pytest
from commands import Run, command_line, said, told


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Run:
    """Commands on a database in which alice was made, and is an admin by now."""
    run = command_line(database_url, tmp_path)
    said(run, "user", "create", "alice", "--password", stdin="correct horse battery staple\n")
    said(run, "user", "update", "alice", "--admin")
    return run


def changes(run: Run, *args: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = told(run, "audit", "list", *args)
    return rows


def actions(run: Run, *args: str) -> list[str]:
    return [row["action"] for row in changes(run, *args)]


def test_every_change_is_listed_newest_first_with_who_made_it(run: Run) -> None:
    assert actions(run, "--user", "alice") == ["user.change", "assignment.create", "user.create"]
    changed, *_, made = changes(run, "--user", "ALICE")
    assert (changed["before"], changed["after"]) == ({"admin": False}, {"admin": True})
    assert (changed["actor"], changed["via"], changed["actor_id"]) == (getpass.getuser(), "command", None)
    assert made["before"] is None
    assert made["after"]["username"] == "alice"
    assert changed["at"] > made["at"]


def test_the_table_tells_what_has_changed(run: Run) -> None:
    newest, *_ = [line for line in said(run, "audit", "list").splitlines() if " alice " in line]
    assert "user.change" in newest
    assert "admin: false → true" in newest


def test_no_secret_is_listed(run: Run) -> None:
    key = run("key", "generate", "alice").stdout.strip()
    for shown in (said(run, "audit", "list"), said(run, "audit", "list", "--json")):
        assert "argon2" not in shown
        assert key not in shown
    (made,) = changes(run, "--action", "key.create")
    assert made["after"]["digest"] == "********"


def test_the_list_is_narrowed(run: Run) -> None:
    said(run, "role", "create", "staff")
    me = getpass.getuser()
    assert actions(run, "--action", "role") == ["role.create"]
    assert actions(run, "--action", "user.create") == ["user.create"]
    assert actions(run, "--limit", "2") == ["role.create", "user.change"]
    assert len(actions(run, "--actor", me, "--user", "alice")) == 3
    assert actions(run, "--actor", "nobody") == actions(run, "--user", "bob") == []


def test_a_period_begins_at_its_first_moment_and_ends_before_its_last(run: Run) -> None:
    newest, middle, oldest = changes(run, "--user", "alice")
    of_alice = ["--user", "alice"]
    assert changes(run, *of_alice, "--since", newest["at"]) == [newest]
    assert changes(run, *of_alice, "--until", newest["at"]) == [middle, oldest]
    assert changes(run, *of_alice, "--since", "1d") == [newest, middle, oldest]
    assert changes(run, *of_alice, "--until", "1d") == changes(run, *of_alice, "--since", "2100-01-01") == []


@pytest.mark.parametrize("args", [["--since", "yesterday"], ["--until", ""], ["--limit", "0"], ["alice"]])
def test_wrong_usage_is_exit_code_2(tmp_path: Path, args: list[str]) -> None:
    done = command_line("postgresql://127.0.0.1:1/none", tmp_path)("audit", "list", *args)
    assert (done.returncode, done.stdout) == (2, "")
