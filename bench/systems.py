"""What is measured, as processes: the fake node, the bare proxy, and Parallama with all that its users get.

The proxies run on a CPU of their own; the node, the load and PostgreSQL share the others.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from bench import proc

ROOT = Path(__file__).parent.parent
_FILES = 8192
"""Open files: a proxied stream takes two."""
_CEILING_S = 60.0


class Failed(Exception):
    """What is to be measured does not run, or answers wrongly."""


@dataclass(frozen=True)
class Cpus:
    """Their numbers: the proxy's, and everybody else's. Both empty where there is only one."""

    proxy: Sequence[int]
    others: Sequence[int]


@dataclass(frozen=True)
class System:
    """One way to the node."""

    name: str
    port: int
    pid: int | None = None
    """Of the proxy; None: the node is asked itself."""
    key: str = "none"
    postgres: int | None = None
    """The pid of its PostgreSQL."""


@dataclass(frozen=True)
class Systems:
    """All of them, and the node that they lead to."""

    cpus: Cpus
    node_pid: int
    direct: System
    bare: System
    parallama: System

    @property
    def all(self) -> tuple[System, System, System]:
        """In the order of the table."""
        return self.direct, self.bare, self.parallama


def cpus() -> Cpus:
    """Those that this process may use, shared out."""
    *others, proxy = sorted(os.sched_getaffinity(0))
    return Cpus([proxy], others) if others else Cpus([], [])


def raise_limits() -> None:
    """Let this process and its children open many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def place(pid: int, where: Sequence[int]) -> None:
    """Keep every thread of the process on these CPUs; those it starts later inherit it."""
    if where:
        for thread in proc.threads(pid):
            os.sched_setaffinity(thread, where)


@contextmanager
def running(*, profile: Path | None = None) -> Iterator[Systems]:
    """Start them all; nothing is left of them at the end. With `profile` Parallama writes its cProfile there."""
    shared = cpus()
    place(os.getpid(), shared.others)  # what is started below begins there
    with ExitStack() as stack:
        root = stack.enter_context(directory())
        node, node_port = stack.enter_context(python(root, "bench.upstream"))
        url = f"http://127.0.0.1:{node_port}"
        bare, bare_port = stack.enter_context(python(root, "bench.bare", url))
        module = ("parallama",) if profile is None else ("bench.profiled", str(profile))
        parallama = stack.enter_context(gateway(root, url, module=module))
        assert parallama.pid is not None
        for proxy in (bare, parallama.pid):
            place(proxy, shared.proxy)
        yield Systems(shared, node, System("direct", node_port), System("bare", bare_port, bare), parallama)


@contextmanager
def directory() -> Iterator[Path]:
    """A directory below /tmp, whatever TMPDIR says: PostgreSQL may run as another user, who must reach it."""
    root = Path(tempfile.mkdtemp(prefix="pl-bench-", dir="/tmp"))
    root.chmod(0o711)
    try:
        yield root
    finally:
        shutil.rmtree(root)


@contextmanager
def python(root: Path, module: str, *arguments: str) -> Iterator[tuple[int, int]]:
    """A module of ours as a process: its pid and the port that it says."""
    errfile = root / f"{module}.err"
    with errfile.open("wb") as err:
        command = [sys.executable, "-m", module, *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True, cwd=ROOT)
    with process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            if not port:
                raise Failed(f"{module} does not start: {_end_of(errfile)}")
            yield process.pid, int(port)
        finally:
            process.kill()


@contextmanager
def gateway(
    root: Path, node_url: str, *, module: Sequence[str] = ("parallama",), name: str = "parallama", **settings: object
) -> Iterator[System]:
    """`parallama quickstart` with a state directory of its own: its own PostgreSQL, a real key, and default settings
    but for those that are named."""
    config = root / "config.yaml"
    config.write_text(json.dumps({"nodes": [{"name": "bench", "url": node_url}], **settings}))
    command = [sys.executable, "-m", *module, "quickstart", "--port", "0", "--config", str(config)]
    env = environment(root)
    with (root / "out").open("wb") as out, (root / "err").open("wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=env, cwd=ROOT, start_new_session=True)
    try:
        yield replace(_ready(process, root), name=name)
    finally:
        _stop(process)


def environment(root: Path) -> dict[str, str]:
    """Of the gateway with that directory, and of commands that are to find it."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(root), "PARALLAMA_DATA_DIR": str(root / "data")}


def _ready(process: subprocess.Popen[bytes], root: Path) -> System:
    """Wait until it takes requests."""
    give_up = time.monotonic() + _CEILING_S
    while time.monotonic() < give_up and process.poll() is None:
        with suppress(OSError, HTTPException, ValueError):
            url = json.loads((root / "data" / "server.json").read_text())["url"]
            port = int(url.rpartition(":")[2])
            if _status(port, "/readyz") == 200:
                key = re.findall(r"^plm_\w+$", (root / "out").read_text(), re.MULTILINE)[0]
                postgres = int((root / "data" / "postgres" / "postmaster.pid").read_text().split()[0])
                return System("parallama", port, process.pid, key, postgres)
        time.sleep(0.05)
    raise Failed(f"parallama does not start: {_end_of(root / 'err')}")


def _status(port: int, path: str) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """The orderly stop, which ends PostgreSQL too."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_CEILING_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _end_of(file: Path) -> str:
    return file.read_text(errors="replace")[-2000:].strip() or "it says nothing"
