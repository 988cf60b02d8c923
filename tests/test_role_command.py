"""`parallama role`, on a real database."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click import BadParameter
from commands import Run, command_line, refused, said, told

from parallama.cli.moments import earlier, later, span
from parallama.cli.words import words, words_if_any

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Run:
    return command_line(database_url, tmp_path)


def roles(run: Run) -> dict[str, dict[str, Any]]:
    return {role["name"]: role for role in told(run, "role", "list")}


def held(run: Run, name: str) -> list[str]:
    found: list[str] = told(run, "user", "info", name)["roles"]
    return found


def test_the_seeded_roles_are_listed(parallama: Run, run: Run) -> None:
    found = roles(run)
    assert set(found) >= {"admin", "basic", "premium"}
    assert found["basic"]["permissions"] == ["basic_rate_limits", "use_ollama"]
    assert "basic_rate_limits" in parallama("role", "list").stdout


def test_a_role_is_made_with_permissions_and_a_parent(run: Run) -> None:
    permissions = ["--permission", "use_openai, view_metrics", "--permission", "use_anthropic"]
    said(run, "role", "create", "staff", *permissions, "--parent", "basic", "--description", "Who works here.")
    staff = roles(run)["staff"]
    assert staff["permissions"] == ["use_anthropic", "use_openai", "view_metrics"]
    assert staff["inherited"] == ["basic_rate_limits", "use_ollama"]
    assert (staff["parent"], staff["description"], staff["users"]) == ("basic", "Who works here.", 0)


def test_what_an_update_does_not_name_stays(run: Run) -> None:
    said(run, "role", "create", "staff", "--permission", "use_openai,view_metrics", "--parent", "basic")
    said(run, "role", "update", "staff", "--add-permission", "use_ollama", "--remove-permission", "view_metrics")
    assert roles(run)["staff"]["permissions"] == ["use_ollama", "use_openai"]
    assert roles(run)["staff"]["parent"] == "basic"
    said(run, "role", "update", "staff", "--rename", "team", "--description", "All of us.")
    assert "staff" not in roles(run)
    assert (roles(run)["team"]["parent"], roles(run)["team"]["description"]) == ("basic", "All of us.")
    said(run, "role", "update", "team", "--no-parent")
    assert (roles(run)["team"]["parent"], roles(run)["team"]["permissions"]) == (None, ["use_ollama", "use_openai"])


def test_a_role_is_given_and_taken_and_the_history_kept(run: Run) -> None:
    said(run, "user", "create", "alice")
    assert said(run, "role", "assign", "ALICE", "premium") == "user alice has role premium\n"
    assert held(run, "alice") == ["basic", "premium"]
    said(run, "role", "remove", "alice", "premium")
    assert held(run, "alice") == ["basic"]
    basic, premium = told(run, "role", "history", "alice")
    assert (basic["role"], basic["main"], basic["state"]) == ("basic", True, "active")
    assert (premium["role"], premium["main"], premium["state"]) == ("premium", False, "ended")
    assert premium["assigned_by"] == premium["ended_by"]
    assert "premium" in said(run, "role", "history", "alice")


def test_an_assignment_ends_when_it_was_told_to(run: Run) -> None:
    said(run, "user", "create", "alice")
    before = datetime.now(UTC)
    shown = said(run, "role", "assign", "alice", "premium", "--expires", "30d")
    assert re.fullmatch(r"user alice has role premium until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\n", shown)
    (_, premium) = told(run, "role", "history", "alice")
    left = datetime.fromisoformat(premium["expires_at"]) - before
    assert timedelta(days=30) <= left < timedelta(days=30, minutes=5)


def test_a_date_begins_at_midnight_in_the_time_zone_of_the_settings(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("timezone: Asia/Tokyo\n")
    said(run, "user", "create", "alice")
    said(run, "role", "assign", "alice", "premium", "--expires", "2100-01-01", "--config", str(config))
    (_, premium) = told(run, "role", "history", "alice")
    assert premium["expires_at"] == "2099-12-31T15:00:00Z"


def test_a_role_that_somebody_has_is_deleted_only_by_cascade(run: Run) -> None:
    said(run, "role", "create", "staff", "--permission", "use_openai")
    said(run, "user", "create", "alice", "--role", "staff")
    assert "cascade takes it" in refused(run, "role", "delete", "staff", "--yes")
    said(run, "role", "delete", "staff", "--cascade", "--yes")
    assert "staff" not in roles(run)
    assert (held(run, "alice"), told(run, "user", "info", "alice")["role"]) == ([], None)
    assert "alice" in said(run, "user", "list")


@pytest.mark.parametrize(("answer", "code", "there"), [("n\n", 1, True), ("", 1, True), ("y\n", 0, False)])
def test_deleting_asks(run: Run, answer: str, code: int, there: bool) -> None:
    said(run, "role", "create", "staff")
    assert run("role", "delete", "staff", stdin=answer).returncode == code
    assert ("staff" in roles(run)) == there


def test_what_cannot_be_done_is_said_on_one_line(run: Run) -> None:
    said(run, "user", "create", "alice")
    said(run, "role", "create", "staff", "--parent", "basic")
    for args, message in {
        ("create", "staff"): "there is a role staff already",
        ("create", "No Role"): "it must be a small letter",
        ("create", "other", "--permission", "fly"): "there is no permission 'fly': it must be one of",
        ("create", "other", "--parent", "boss"): "there is no role 'boss': it must be one of admin, basic",
        ("update", "boss", "--no-parent"): "there is no role 'boss'",
        ("update", "basic", "--parent", "staff"): "cannot be below staff",
        ("update", "basic", "--rename", "other"): "cannot be renamed",
        ("update", "admin", "--description", "x"): "cannot be changed",
        ("delete", "premium", "--yes"): "cannot be deleted",
        ("delete", "basic", "--yes"): "cannot be deleted",
        ("assign", "bob", "premium"): "there is no user 'bob'",
        ("assign", "alice", "boss"): "there is no role 'boss': it must be one of admin, basic",
        ("assign", "alice", "basic"): "has the role basic already",
        ("assign", "alice", "premium", "--expires", "2020-01-01"): "must lie in the future",
        ("remove", "alice", "premium"): "does not have the role 'premium'",
        ("history", "bob"): "there is no user 'bob'",
    }.items():
        assert message in refused(run, "role", *args)


@pytest.mark.parametrize(
    "args",
    [
        ["create"],
        ["update", "staff"],
        ["update", "staff", "--parent", "basic", "--no-parent"],
        ["assign", "alice"],
        ["assign", "alice", "premium", "--expires", "soon"],
    ],
)
def test_wrong_usage_is_exit_code_2(tmp_path: Path, args: list[str]) -> None:
    assert command_line("postgresql://127.0.0.1:1/none", tmp_path)("role", *args).returncode == 2


# times and lists as they are typed


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("15m", 900), ("24h", 86_400), ("7d", 604_800), ("0", 0), ("0s", 0)]
)
def test_a_span_is_read(text: str, seconds: int) -> None:
    assert span(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "1", "1w", "-1h", "1.5h", "h", "1 h", "36501d", "9999999999d", "٣d"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(BadParameter):
        span(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("30d", NOW + timedelta(days=30)),
        ("0", NOW),
        ("2026-12-31", datetime(2026, 12, 31, tzinfo=UTC) - timedelta(hours=1)),
        ("2026-07-01", datetime(2026, 7, 1, tzinfo=UTC) - timedelta(hours=2)),
        ("2026-12-31T18:00:00Z", datetime(2026, 12, 31, 18, tzinfo=UTC)),
        ("2026-12-31T18:00:00+02:00", datetime(2026, 12, 31, 16, tzinfo=UTC)),
    ],
)
def test_a_moment_is_read(text: str, moment: datetime) -> None:
    assert later(text, "Europe/Berlin", NOW) == moment


def test_a_span_counts_forwards_or_backwards() -> None:
    assert earlier("12h", "UTC", NOW) == datetime(2026, 11, 21, tzinfo=UTC)
    assert later(None, "UTC", NOW) is earlier(None, "UTC", NOW) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "2026-13-01",
        "2026-12-31T18:00:00",
        "2026-12-31 25:00Z",
        "36501d",
        "0001-01-01",
        "9999-12-31T23:59-12",
    ],
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(BadParameter):
        later(text, "Asia/Tokyo", NOW)


def test_lists_are_repeated_or_have_commas() -> None:
    assert words(["a, b", "c", " ,"]) == ["a", "b", "c"]
    assert words_if_any([]) is None
    assert words_if_any([""]) == []
