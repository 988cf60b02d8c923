"""`parallama config`: the exit codes, what is printed, and that it works without anything else running."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from parallama.cli.config import config
from parallama.config import Settings, load_settings, places


@pytest.fixture(autouse=True)
def _no_system_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(places, "SYSTEM_FILE", tmp_path / "nowhere")
    monkeypatch.delenv("PARALLAMA_CONFIG", raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(
        "server: {port: 81}\n"
        "database: {url: 'postgres://u:${PW:-hunter2hunter2}@h/d'}\n"
        "auth: {jwt_secret: hunter2hunter2-0123456789-abcdefghijklmnop-qrstuv, allow_anonymous: true}\n"
        "logs: {level: '${LEVEL}'}\n"
    )
    return path


def run(*args: object, **env: str) -> Result:
    return CliRunner().invoke(config, [str(arg) for arg in args], env={"LEVEL": "debug", **env})


def test_check_says_that_a_file_is_right(path: Path) -> None:
    for result in (run("check", path), run("check", "--config", path), run("check", PARALLAMA_CONFIG=str(path))):
        assert (result.exit_code, result.stdout) == (0, f"{path}: ok\n")


def test_check_without_a_file_says_so() -> None:
    assert run("check").stdout == "no settings file, the defaults are in force: ok\n"


def test_check_tells_every_error_and_fails(path: Path) -> None:
    path.write_text("server: {port: x}\nservr: {}\n")
    result = run("check", path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: {path}:1: server.port is 'x', but must be a whole number\n"
        f"{path}:2: unknown key servr; did you mean server?\n"
    )


def test_show_tells_every_key_in_order_with_its_origin(path: Path) -> None:
    result = run("show", "--config", path, "--json", PARALLAMA__SERVER__HOST="::1")
    rows = {row["key"]: (row["value"], row["origin"]) for row in json.loads(result.stdout)}
    sections = list(dict.fromkeys(key.partition(".")[0] for key in rows))
    assert sections == list(Settings.model_fields)
    assert rows["server.host"] == ("::1", "PARALLAMA__SERVER__HOST")
    assert rows["server.port"] == (81, f"{path}:1")
    assert rows["database.url"] == ("postgres://u:********@h/d", f"{path}:2 (${{PW}})")
    assert rows["auth.jwt_secret"] == ("********", f"{path}:3")
    assert rows["auth.allow_anonymous"] == (True, f"{path}:3")
    assert rows["logs.level"] == ("debug", f"{path}:4 (${{LEVEL}})")
    assert rows["logs.directory"] == (None, "default")
    assert rows["relay.forward_headers"] == (["accept", "content-type", "traceparent", "tracestate"], "default")
    assert rows["nodes.0.url"] == ("http://127.0.0.1:11434", "default")


def test_show_prints_a_table_without_secrets(path: Path) -> None:
    result = run("show", "--config", path)
    assert result.exit_code == 0
    lines = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line.strip()}
    assert lines["server.port"] == ["81", f"{path}:1"]
    assert lines["auth.allow_anonymous"] == ["true", f"{path}:3"]
    assert lines["logs.directory"] == ["-", "default"]
    assert "hunter2" not in result.output


def test_show_fails_on_a_broken_file(path: Path) -> None:
    path.write_text("server: [")
    result = run("show", "--config", path, "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {path}:")


def test_the_program_shows_what_it_would_run_with(path: Path) -> None:
    command = [sys.executable, "-m", "parallama", "config", "show", "--json", "--config", str(path)]
    done = subprocess.run(command, env={"LEVEL": "error"}, capture_output=True, text=True, timeout=60, check=True)
    shown = {row["key"]: row["value"] for row in json.loads(done.stdout)}
    assert done.stderr == ""
    assert shown["logs.level"] == load_settings(path, environ={"LEVEL": "error"}).logs.level == "error"


def test_options_that_no_gateway_takes_are_found(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("gateways:\n  olama: {}\n")
    done = CliRunner().invoke(config, ["check", str(file)])
    assert done.exit_code == 1
    assert f"{file}: gateways.olama: no such gateway; did you mean ollama?" in done.output
