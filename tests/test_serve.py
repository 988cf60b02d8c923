"""`parallama serve`: on which database it runs, and how it says that it cannot."""

from __future__ import annotations

import re
import socket
from typing import Any

import asyncpg
import pytest
from processes import Place, ask

NODE: dict[str, Any] = {"PARALLAMA__NODES__0__NAME": "gone", "PARALLAMA__NODES__0__URL": "http://127.0.0.1:1"}
"""A node that is not there."""


def said(here: Place, *arguments: str, **env: str) -> str:
    """What `serve` says on the one line before it ends with exit code 1."""
    done = here.run("serve", "--port", "0", *arguments, **env)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert re.fullmatch("Error: .+\n", done.stderr)
    return done.stderr


def test_it_runs_on_the_configured_database_and_makes_none(here: Place, database_url: str) -> None:
    env: dict[str, Any] = {"PARALLAMA_DB_URL": database_url, **NODE}
    assert here.run("user", "create", "alice", "--admin", **env).returncode == 0
    key = here.run("key", "generate", "alice", **env).stdout.strip()
    running = here.start("serve", "--port", "0", **env).ready()
    assert ask(f"{running.url}/metrics", key=key).status == 200
    assert running.end() == 0
    assert not (here.data / "postgres").exists()
    assert running.logged()[-1]["event"] == "stopped"


def test_it_never_simulates(here: Place, database_url: str) -> None:
    env: dict[str, Any] = {"PARALLAMA_DB_URL": database_url, **NODE}
    here.run("user", "create", "alice", **env)
    key = here.run("key", "generate", "alice", **env).stdout.strip()
    running = here.start("serve", "--port", "0", **env).ready()
    answer = ask(f"{running.url}/api/generate", {"model": "llama3.2:1b", "prompt": "hello"}, key)
    assert (answer.status, answer.headers["x-parallama-simulated"]) == (502, None)


def test_it_runs_on_the_database_that_quickstart_made(here: Place) -> None:
    first = here.quickstart().ready()
    key = first.key()
    assert first.end() == 0
    running = here.start("serve", "--port", "0", **NODE).ready()
    assert ask(f"{running.url}/status", key=key).json()["gateways"]["ollama"]["status"] == "down"
    assert running.end() == 0


def test_a_new_database_is_refused_until_it_is_migrated(here: Place, empty_database_url: str) -> None:
    env: dict[str, Any] = {"PARALLAMA_DB_URL": empty_database_url, **NODE}
    assert "parallama db migrate" in said(here, **env)
    assert here.run("db", "migrate", **env).returncode == 0
    assert here.start("serve", "--port", "0", **env).ready().end() == 0


async def test_a_schema_that_is_behind_names_what_is_missing(here: Place, database_url: str) -> None:
    await execute(database_url, "DELETE FROM schema_migrations WHERE version = 1")
    text = said(here, PARALLAMA_DB_URL=database_url)
    assert "0001_foundation.sql" in text
    assert "parallama db migrate" in text


async def test_a_schema_that_is_ahead_is_refused(here: Place, database_url: str) -> None:
    await execute(database_url, "INSERT INTO schema_migrations VALUES (9999, '9999_later.sql', 'x')")
    text = said(here, PARALLAMA_DB_URL=database_url)
    assert "9999_later.sql" in text
    assert "older than the database" in text


async def execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


def test_wrong_settings_are_named(here: Place) -> None:
    config = here.root / "config.yaml"
    config.write_text("server: {port: many}\n")
    assert f"{config}:1: server.port" in here.run("serve", "--config", str(config)).stderr
    assert here.run("serve", "--config", str(config)).returncode == 1
    assert "PARALLAMA__SERVER__PROT" in said(here, PARALLAMA__SERVER__PROT="1")


def test_options_of_a_gateway_that_is_not_there_are_named(here: Place, database_url: str) -> None:
    text = said(here, PARALLAMA_DB_URL=database_url, PARALLAMA__GATEWAYS="{nowhere: {}}")
    assert "gateways.nowhere: no such gateway; there are anthropic, ollama, openai" in text


def test_a_database_that_does_not_answer_is_said(here: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    text = said(here, PARALLAMA_DB_URL=f"postgresql://me:hunter2hunter2@127.0.0.1:{port}/db")
    assert "database" in text
    assert "hunter2" not in text


def test_a_taken_port_is_one_line_with_the_remedy(here: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = here.run("serve", "--port", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: port {port} on 127.0.0.1 is taken; choose another: --port N\n"


def test_a_log_directory_that_cannot_be_written_is_named(here: Place) -> None:
    (here.root / "file").write_text("")
    assert f"{here.root / 'file'}" in said(here, PARALLAMA__LOGS__DIRECTORY=str(here.root / "file" / "logs"))


@pytest.mark.parametrize("arguments", [["--prot", "1"], ["--port", "many"], ["--port", "65536"], ["extra"]])
def test_wrong_usage_is_exit_code_2(here: Place, arguments: list[str]) -> None:
    done = here.run("serve", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
