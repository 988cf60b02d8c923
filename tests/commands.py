"""Commands run in this process, several times as fast as in one of their own; all else is as users have it."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from parallama.cli import main

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def command_line(database_url: str, data: Path) -> Run:
    """What the fixture `parallama` gives, without a process: run `parallama ...` on the database."""
    env: dict[str, str | None] = {key: None for key in os.environ if key.startswith("PARALLAMA")}
    env |= {"PARALLAMA_DB_URL": database_url, "PARALLAMA_DATA_DIR": str(data)}

    def run(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done: list[Result] = []
        # a thread of its own: asyncio.run would take away the event loop of this one
        one = threading.Thread(target=lambda: done.append(CliRunner().invoke(main, args, input=stdin, env=env)))
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
