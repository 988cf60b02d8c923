"""Commands run in this process, several times as fast as in one of their own; all else is as users have it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from parallama.cli import main

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def command_line(database_url: str, data: Path) -> Run:
    """What the fixture `parallama` gives, without a process: run `parallama ...` on the database."""
    return _with({"PARALLAMA_DB_URL": database_url, "PARALLAMA_DATA_DIR": str(data)})


def at_server(url: str, key: str | None, data: Path) -> Run:
    """Run `parallama ... --server URL` with the key in the environment; None: there is none."""
    return _with({"PARALLAMA_API_KEY": key, "PARALLAMA_DATA_DIR": str(data)}, "--server", url)


def _with(env: Mapping[str, str | None], *more: str) -> Run:
    clean = {key: None for key in os.environ if key.startswith("PARALLAMA")}

    def run(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done: list[Result] = []

        def invoke() -> None:
            done.append(CliRunner().invoke(main, [*args, *more], input=stdin, env={**clean, **env}))

        # a thread of its own: asyncio.run would take away the event loop of this one
        one = threading.Thread(target=invoke)
        one.start()
        one.join()
        (result,) = done
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return subprocess.CompletedProcess(args, result.exit_code, result.stdout, result.stderr)

    return run


def told(run: Run, *args: str) -> Any:
    """The one JSON document that a command prints, and nothing else."""
    done = run(*args, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def said(run: Run, *args: str, stdin: str = "") -> str:
    """The line on stdout of a command that has done its work."""
    done = run(*args, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refused(run: Run, *args: str, stdin: str = "") -> str:
    """The one line in which a command says why it has failed."""
    done = run(*args, stdin=stdin)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@dataclass(frozen=True)
class Commands:
    """Commands that are awaited, so that a server in this process can answer them."""

    run: Run

    async def done(self, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(self.run, *args, stdin=stdin)

    async def told(self, *args: str) -> Any:
        return await asyncio.to_thread(told, self.run, *args)

    async def said(self, *args: str, stdin: str = "") -> str:
        return await asyncio.to_thread(said, self.run, *args, stdin=stdin)

    async def refused(self, *args: str) -> str:
        return await asyncio.to_thread(refused, self.run, *args)
