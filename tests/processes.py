"""The program as its users start it: real processes with a clean environment, in a place of their own below /tmp."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

CEILING_S = 30.0
"""Only a hang reaches it."""

PROGRAM = (str(Path(sys.executable).with_name("parallama")),)

T = TypeVar("T")


def wait_for(what: Callable[[], T], ceiling_s: float = CEILING_S) -> T:
    """Poll `what` until it gives something true. Not on the event loop: use asyncio.to_thread there."""
    give_up = time.monotonic() + ceiling_s
    while not (found := what()):
        assert time.monotonic() < give_up, f"{what} did not become true"
        time.sleep(0.01)
    return found


@dataclass
class Answer:
    """An HTTP answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def ask(url: str, body: object = None, key: str | None = None, method: str | None = None, **headers: str) -> Answer:
    """One request on a connection of its own: POST with a body (bytes, or what becomes JSON), else GET."""
    parts = urlsplit(url)
    sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    if key:
        headers["Authorization"] = f"Bearer {key}"
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=CEILING_S)
    try:
        path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        connection.request(method or ("GET" if body is None else "POST"), path, sent, headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


@dataclass
class Running:
    """A command that runs in a process group of its own; what it writes goes to files."""

    popen: subprocess.Popen[bytes]
    data: Path
    outfile: Path
    errfile: Path

    @property
    def out(self) -> str:
        return self.outfile.read_text()

    @property
    def err(self) -> str:
        return self.errfile.read_text()

    @property
    def url(self) -> str:
        """Where it listens, as its state directory tells."""
        return str(json.loads((self.data / "server.json").read_text())["url"])

    def key(self) -> str:
        """The key that quickstart has printed."""
        (key,) = re.findall(r"^plm_\w+$", self.out, re.MULTILINE)
        return str(key)

    def ready(self) -> Running:
        """Wait until /readyz answers 200."""

        def is_ready() -> bool:
            assert self.popen.poll() is None, f"it ended with {self.popen.returncode}: {self.err}"
            with suppress(OSError, KeyError):
                mine = json.loads((self.data / "server.json").read_text())["pid"] == self.popen.pid
                return mine and ask(f"{self.url}/readyz").status == 200
            return False

        wait_for(is_ready)
        return self

    def interrupt(self) -> int:
        """Ctrl-C: SIGINT to the whole group; the exit code."""
        os.killpg(self.popen.pid, signal.SIGINT)
        return self.popen.wait(CEILING_S)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal; the exit code."""
        self.popen.send_signal(number)
        return self.popen.wait(CEILING_S)

    def logged(self) -> list[dict[str, Any]]:
        """Its log lines; fails when stderr has anything else."""
        return [json.loads(line) for line in self.err.splitlines()]


@dataclass
class Place:
    """A home directory, a state directory, and what was started there."""

    root: Path
    user: str | None = None
    """Whose processes: None: ours."""
    program: Sequence[str] = PROGRAM
    started: list[Running] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def data(self) -> Path:
        return self.root / "data"

    def env(self, more: Mapping[str, str]) -> dict[str, str]:
        return {"PATH": os.defpath, "HOME": str(self.home), "PARALLAMA_DATA_DIR": str(self.data), **more}

    def start(self, *arguments: str, data: Path | None = None, wrap: str | None = None, **env: Any) -> Running:
        """Start `parallama` with the arguments. `wrap`: through a shell, as this command with "$@" in it."""
        number = len(self.started)
        outfile, errfile = self.root / f"{number}.out", self.root / f"{number}.err"
        more = env if data is None else {**env, "PARALLAMA_DATA_DIR": str(data)}
        shell = [] if wrap is None else ["/bin/sh", "-c", wrap, "sh"]
        with outfile.open("wb") as out, errfile.open("wb") as err:
            popen = subprocess.Popen(
                [*shell, *self.program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self.env(more),
                cwd=self.root,
                start_new_session=True,
                **self._identity(),
            )
        running = Running(popen, data or self.data, outfile, errfile)
        self.started.append(running)
        return running

    def quickstart(self, *arguments: str, **more: Any) -> Running:
        """Start `parallama quickstart` on a free port. No Ollama of this machine is asked."""
        return self.start("quickstart", "--port", "0", *arguments, **{"OLLAMA_HOST": "127.0.0.1:1", **more})

    def run(self, *arguments: str, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        """Run `parallama` with the arguments to its end; None: its stdin is ours."""
        command = [*self.program, *arguments]
        kept: dict[str, Any] = {"env": self.env(env), "cwd": self.root, "timeout": CEILING_S, **self._identity()}
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, **kept)

    def _identity(self) -> dict[str, Any]:
        return {} if self.user is None else {"user": self.user, "group": "nogroup", "extra_groups": []}

    def postgres(self, data: Path | None = None) -> list[int]:
        """The pids of the PostgreSQL below the state directory, its workers too."""
        return cluster_pids((data or self.data) / "postgres")


@contextmanager
def place(user: str | None = None, program: Sequence[str] = PROGRAM) -> Iterator[Place]:
    """A place; at the end every process that was started there is killed, its PostgreSQL too."""
    root = Path(tempfile.mkdtemp(prefix="pl-", dir="/tmp"))
    root.chmod(0o711)
    found = Place(root, user, program)
    for made in (found.home, found.data):
        made.mkdir(mode=0o711)
        if user is not None:
            shutil.chown(made, user)
    try:
        yield found
    finally:
        for running in found.started:
            with suppress(ProcessLookupError):
                os.killpg(running.popen.pid, signal.SIGKILL)
            running.popen.wait()
        for postmaster in root.glob("*/postgres/postmaster.pid"):
            for pid in cluster_pids(postmaster.parent):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not processes_of(root))
        shutil.rmtree(root)


def cluster_pids(data: Path) -> list[int]:
    """The postmaster of a data directory and its children; empty when it does not run."""
    try:
        postmaster = int((data / "postmaster.pid").read_text().partition("\n")[0])
    except FileNotFoundError:
        return []
    children = [pid for pid, parent in _parents() if parent == postmaster]
    return [postmaster, *children] if postmaster in processes_of(data) else []


def processes_of(path: Path) -> list[int]:
    """The pids of live processes whose command line or environment names `path`."""
    found = []
    for pid, _ in _parents():
        with suppress(OSError):
            proc = Path(f"/proc/{pid}")
            if os.fsencode(path) in proc.joinpath("cmdline").read_bytes() + proc.joinpath("environ").read_bytes():
                found.append(pid)
    return found


def alive(pids: Sequence[int]) -> list[int]:
    """Those that still run; a zombie does not."""
    return [pid for pid, _ in _parents() if pid in pids]


def _parents() -> Iterator[tuple[int, int]]:
    """Every live process with its parent."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid, _, rest = stat.read_text().partition(" (")
            state, parent = rest.rpartition(") ")[2].split()[:2]
            if state != "Z":
                yield int(pid), int(parent)
