"""`parallama usage` on a real database; as a real process where what a process does is promised."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from click.testing import CliRunner
from usage_rows import made_at, make_row, store

from parallama.cli import main
from parallama.cli.usage import usage
from parallama.db.pool import Database
from parallama.exchange import UsageRecord
from parallama.ledger.reports import SUMS
from parallama.ledger.usage import FIELDS

Answer = subprocess.CompletedProcess[str]
_REPORT = ("report", "--user", "nobody")

Run = Callable[..., Awaitable[Answer]]


@pytest.fixture
def environment(database_url: str, tmp_path: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PARALLAMA")}
    # a zone where it is about noon, so that no day ends between a row and the report
    noon = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"
    state = str(tmp_path / "state")
    return kept | {"PARALLAMA_DB_URL": database_url, "PARALLAMA_DATA_DIR": state, "PARALLAMA__TIMEZONE": noon}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    """Run `parallama usage ...` in this process; the answer has returncode, stdout and stderr."""

    def call(args: tuple[str, ...]) -> Answer:
        env = {name: None for name in os.environ if name.startswith("PARALLAMA")} | environment
        done = CliRunner().invoke(main, ["usage", *args], env=env)
        # not `done.stdout`: it turns the line ends of CSV into others
        return Answer(args, done.exit_code, done.stdout_bytes.decode(), (done.stderr_bytes or b"").decode())

    async def run(*args: str) -> Answer:
        return await asyncio.to_thread(call, args)

    return run


@pytest.fixture
async def rows(database: Database) -> list[UsageRecord]:
    """Three of alice's, one of them ten days old, and one of bob's, oldest first."""
    now = datetime.now(UTC)
    old = make_row(now - timedelta(days=10))
    mine = [
        make_row(),
        make_row(gateway="openai", model_asked="gpt-4", model="qwen3:8b", output_tokens=None, ttft_ms=None),
    ]
    odd = make_row(username="bob", model_asked='=1+1, "x"\r\ny', key_id=uuid4(), error="", context_full=False)
    made = [old, *mine, odd]
    await store(database, made)
    return made


async def parsed(answer: Awaitable[Answer]) -> Any:
    done = await answer
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def ids(listed: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in listed]


async def test_show_prints_today_and_this_hour(run: Run, rows: list[UsageRecord]) -> None:
    shown = await parsed(run("show", "alice", "--json"))
    assert list(shown) == ["gateways"]
    assert sorted(shown["gateways"]) == ["ollama", "openai"]
    today = shown["gateways"]["ollama"]["today"]
    assert today == {
        "total_tokens": 324,
        "total_requests": 1,
        "remaining_tokens": None,
        "remaining_requests": None,
    }
    assert list(shown["gateways"]["openai"]) == ["today", "current_hour"]
    only = await parsed(run("show", "alice", "--gateway", "openai", "--json"))
    assert list(only["gateways"]) == ["openai"]
    table = await run("show", "alice")
    assert (table.returncode, table.stderr) == (0, "")
    assert "current hour" in table.stdout
    assert "324" in table.stdout


async def test_show_says_what_limits_leave(run: Run, database: Database) -> None:
    async with database.connection() as one:
        alice = await one.fetchval("INSERT INTO users (username) VALUES ('alice') RETURNING id")
        await one.execute(
            "INSERT INTO limits (user_id, gateway, meter, period, amount) VALUES ($1, '*', 'total_tokens', 'day', 400)",
            alice,
        )
    await store(database, [make_row(user_id=UUID(int=alice.int))])
    today = (await parsed(run("show", "alice", "--json")))["gateways"]["ollama"]["today"]
    assert (today["remaining_tokens"], today["remaining_requests"]) == (76, None)
    table = (await run("show", "alice")).stdout
    assert "remaining_tokens" in table
    assert "76" in table


async def test_report_totals_the_days_asked_for(run: Run, rows: list[UsageRecord]) -> None:
    lines = await parsed(run("report", "--json"))
    assert [(line["user"], line["gateway"], line["model"], line["requests"]) for line in lines] == [
        ("alice", "ollama", "llama3.2", 2),
        ("alice", "openai", "qwen3:8b", 1),
        ("bob", "ollama", "llama3.2", 1),
    ]
    old = made_at(rows[0].id).date()
    days = ("--start-date", str(old - timedelta(days=1)), "--end-date", str(old + timedelta(days=1)))
    (line,) = await parsed(run("report", *days, "--format", "json", "--group-by", "user"))
    assert (line["user"], line["requests"], line["gateway"]) == ("alice", 1, None)
    assert await parsed(run("report", *days, "--gateway", "openai", "--json")) == []
    table = await run("report", "--user", "bob", "--group-by", "user,node")
    assert "node-1" in table.stdout
    assert "alice" not in table.stdout


async def test_report_as_csv_has_the_columns_asked_for(run: Run, rows: list[UsageRecord]) -> None:
    answer = await run("report", "--format", "csv", "--group-by", "gateway,user", "--gateway", "openai")
    assert (answer.returncode, answer.stderr) == (0, "")
    head, line, end = answer.stdout.split("\r\n")
    assert head.startswith("user,gateway,requests,ok,")
    assert (line.startswith("alice,openai,1,1,0,0,0,26,0,26,"), end) == (True, "")


async def test_list_prints_one_object_a_request_oldest_first(run: Run, rows: list[UsageRecord]) -> None:
    old, first, second, _ = (str(row.id) for row in rows)
    listed = await parsed(run("list", "alice", "--json"))
    assert ids(listed) == [first, second]
    assert tuple(listed[0]) == FIELDS
    assert datetime.fromisoformat(listed[0]["created_at"]) == made_at(rows[1].id)
    assert listed[0]["created_at"].endswith("Z")
    assert ids(await parsed(run("list", "alice", "--days", "30", "--json"))) == [old, first, second]
    assert ids(await parsed(run("list", "alice", "--gateway", "openai", "--json"))) == [second]
    assert ids(await parsed(run("list", "alice", "--model", "llama3.2:latest", "--json"))) == [first]
    table = (await run("list", "alice")).stdout
    assert "qwen3:8b" in table
    assert "298" in table


async def test_summary_prints_totals(run: Run, rows: list[UsageRecord]) -> None:
    ollama, openai = await parsed(run("summary", "alice", "--json"))
    assert tuple(ollama) == ("gateway", "model", *SUMS)
    assert (ollama["model"], ollama["requests"], ollama["total_tokens"]) == ("llama3.2", 2, 648)
    assert (openai["model"], openai["mean_ttft_ms"]) == ("qwen3:8b", None)
    (week,) = await parsed(run("summary", "alice", "--days", "7", "--gateway", "ollama", "--json"))
    assert week["requests"] == 1
    assert "qwen3:8b" in (await run("summary", "alice")).stdout


async def test_a_user_without_rows_has_an_empty_list_and_an_unknown_one_is_an_error(
    run: Run, database: Database
) -> None:
    async with database.connection() as one:
        await one.execute("INSERT INTO users (username) VALUES ('idle')")
    assert await parsed(run("list", "idle", "--json")) == []
    assert await parsed(run("summary", "idle", "--json")) == []
    assert await parsed(run("show", "idle", "--json")) == {"gateways": {}}
    assert await parsed(run("export", "idle")) == []
    assert (await run("list", "idle")).returncode == 0
    for words in (
        ("show", "nobody"),
        ("list", "nobody", "--json"),
        ("summary", "nobody"),
        ("export", "nobody"),
        _REPORT,
    ):
        failed = await run(*words)
        assert (failed.returncode, failed.stdout) == (1, "")
        assert failed.stderr == "Error: there is no user 'nobody'\n"


@pytest.mark.parametrize("words", [("usage", "report"), ("usage", "export"), ("user", "list"), ("db", "status")])
async def test_a_command_that_only_looks_makes_no_database(
    environment: dict[str, str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    where = tmp_path / "mistyped"
    elsewhere = {name: value for name, value in environment.items() if name != "PARALLAMA_DB_URL"}
    command = (sys.executable, "-m", "parallama", *words, "--data", str(where))
    process = await asyncio.create_subprocess_exec(*command, env=elsewhere, stderr=asyncio.subprocess.PIPE)
    _, complaint = await process.communicate()
    assert (process.returncode, where.exists()) == (1, False)
    assert complaint.decode().startswith(f"Error: there is no database in {where}: ")


@pytest.mark.parametrize(
    ("words", "of_all"),
    [
        ((), True),
        (("json",), True),
        (("--format", "json"), True),
        (("alice",), False),
        (("alice", "json"), False),
        (("alice", "--format", "json"), False),
    ],
)
async def test_an_export_is_one_array_of_every_row(
    run: Run, rows: list[UsageRecord], words: tuple[str, ...], of_all: bool
) -> None:
    exported = await parsed(run("export", *words))
    assert ids(exported) == [str(row.id) for row in (rows if of_all else rows[:3])]
    assert all(tuple(row) == FIELDS for row in exported)


async def test_an_export_as_csv_keeps_every_value_true(run: Run, rows: list[UsageRecord]) -> None:
    answer = await run("export", "bob", "csv")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout == (await run("export", "bob", "--format", "csv")).stdout
    assert answer.stdout.startswith(",".join(FIELDS) + "\r\n")
    assert answer.stdout.endswith("\r\n")
    (line,) = csv.DictReader(io.StringIO(answer.stdout, newline=""))
    assert line["model_asked"] == '\'=1+1, "x"\r\ny'
    assert (line["streamed"], line["context_full"], line["prompt_tokens"]) == ("true", "false", "26")
    assert line["key_id"] == str(rows[3].key_id)
    assert len(list(csv.reader(io.StringIO((await run("export", "csv")).stdout, newline="")))) == 5


async def test_an_export_of_no_rows_is_still_a_document(run: Run) -> None:
    assert await parsed(run("export")) == []
    assert (await run("export", "csv")).stdout == ",".join(FIELDS) + "\r\n"


async def test_an_export_to_a_file_replaces_it_when_it_is_whole(
    run: Run, rows: list[UsageRecord], tmp_path: Path
) -> None:
    target = tmp_path / "usage.json"
    target.write_text("old")
    answer = await run("export", "alice", "--output", str(target))
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    assert len(json.loads(target.read_text())) == 3
    assert [path.name for path in tmp_path.glob("*usage*")] == ["usage.json"]


async def test_a_failed_export_leaves_the_file_as_it_was(
    run: Run, rows: list[UsageRecord], database: Database, tmp_path: Path
) -> None:
    target = tmp_path / "usage.csv"
    target.write_text("old")
    async with database.connection() as one:
        await one.execute("ALTER TABLE usage RENAME COLUMN ttft_ms TO other")
    assert (await run("export", "csv", "--output", str(target))).returncode == 1
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.glob("*usage*")] == ["usage.csv"]
    missing = await run("export", "--output", str(tmp_path / "missing" / "usage.csv"))
    assert missing.returncode == 1
    assert "No such file or directory" in missing.stderr


async def test_an_export_to_a_device_writes_to_it(run: Run, rows: list[UsageRecord], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text, answer = await asyncio.gather(asyncio.to_thread(pipe.read_text), run("export", "--output", str(pipe)))
    assert answer.returncode == 0
    assert len(json.loads(text)) == 4
    assert stat.S_ISFIFO(pipe.stat().st_mode)


async def test_a_reader_that_has_seen_enough_ends_the_export_quietly(
    environment: dict[str, str], database: Database
) -> None:
    await store(database, [make_row() for _ in range(3000)])
    command = (sys.executable, "-m", "parallama", "usage", "export")
    seen, written = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=written, stderr=asyncio.subprocess.PIPE
    )
    os.close(written)
    start = await asyncio.to_thread(os.read, seen, 100)
    os.close(seen)
    _, complaints = await process.communicate()
    assert start.startswith(b'[\n{"id":')
    assert (process.returncode, complaints) == (0, b"")


@pytest.mark.parametrize(
    "words",
    [
        ("export", "alice", "xml"),
        ("export", "alice", "json", "csv"),
        ("export", "alice", "--format", "xml"),
        ("list", "alice", "--days", "0"),
        ("show",),
        ("report", "--start-date", "yesterday"),
        ("report", "--format", "xml"),
    ],
)
async def test_wrong_usage_is_exit_code_2(run: Run, words: tuple[str, ...]) -> None:
    assert (await run(*words)).returncode == 2


def test_every_usage_command_has_a_help_line() -> None:
    assert {name: bool(command.help) for name, command in usage.commands.items()} == dict.fromkeys(
        ("show", "list", "summary", "report", "export"), True
    )
