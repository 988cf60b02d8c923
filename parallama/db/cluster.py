"""The data directory of the private PostgreSQL: made by `initdb`, run by `postgres`, never as root.

Who may start and stop it, and when, is decided in `embedded`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import asyncpg

from parallama.db.wheel import Account, account_for, first_closed, programs
from parallama.errors import ConfigError

_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "io_method": "sync",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}
_LOCALE = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")

_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}
"""All that PostgreSQL gets of ours: the rest may hold secrets, or PG* variables that change what it does."""

_LONGEST_SOCKET = 103
"""Bytes of a unix socket's path; 107 on Linux, 103 on macOS."""

_LONGEST_LOG = 10_000_000
"""Bytes; a log beyond it is emptied at the next start."""

_INITDB_S = 300.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """A data directory, who runs it, and where its socket is."""

    state: Path
    account: Account
    data: Path
    sockets: Path

    @classmethod
    def of(cls, state: Path) -> Cluster:
        """The cluster below `state`, an existing directory, resolved. Raises ConfigError."""
        with usable(state):
            data = state / "postgres"
            account = account_for(data)
            if closed := first_closed(state, account):
                raise ConfigError(
                    f"the user {account.name}, who runs PostgreSQL, cannot enter {closed} on the way to "
                    f"{state}: choose another directory with --data DIR, or open this one with `chmod o+x {closed}`"
                )
            if data.exists() and data.stat().st_uid != account.uid:
                raise ConfigError(f"{data} belongs to another user than {account.name}: run this as its owner")
            return cls(state, account, data, socket_directory(state))

    @property
    def dsn(self) -> str:
        return f"postgresql://parallama@/parallama?host={quote(str(self.sockets), safe='')}&port=5432"

    @property
    def log(self) -> Path:
        return self.state / "postgres.log"

    def pid(self) -> int | None:
        """The live postmaster; None when there is none."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().partition("\n")[0])
        except (FileNotFoundError, ValueError):
            return None
        return pid if self.is_postmaster(pid) else None

    def is_postmaster(self, pid: int) -> bool:
        """False also for a zombie, and for another program that got the number of a dead postmaster."""
        try:
            if Path("/proc/self").exists():
                return os.fsencode(self.data) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            os.kill(pid, 0)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return True

    async def answers(self) -> bool:
        """Whether the server takes queries."""
        try:
            connection = await asyncpg.connect(self.dsn, timeout=2)
        except asyncpg.TooManyConnectionsError:
            return True
        except (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError):
            return False
        await connection.close(timeout=2)
        return True

    def prepare(self) -> Path:
        """Make the data directory when there is none; the directory of the programs. Blocks for seconds.

        Call it only when no server runs. Raises ConfigError.
        """
        with usable(self.state):
            binaries = programs(self.state, self.account)
            if not self.data.exists():
                self._initdb(binaries)
            return binaries

    def _initdb(self, binaries: Path) -> None:
        for old in self.state.glob("postgres.new-*"):
            shutil.rmtree(old)
        unfinished = self.state / f"postgres.new-{os.getpid()}"
        _own_directory(unfinished, self.account)
        names = ("--username=parallama", "--auth=trust", "--no-instructions")
        self._run(binaries / "initdb", "-D", str(unfinished), *names, *_LOCALE)
        single = ("--single", "-D", str(unfinished), "postgres")
        self._run(binaries / "postgres", *single, given="CREATE DATABASE parallama\n")
        unfinished.rename(self.data)

    def _run(self, program: Path, *arguments: str, given: str = "") -> None:
        done = subprocess.run(
            [program, *arguments],
            input=given,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_INITDB_S,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
            **self.account.identity(),
        )
        if done.returncode != 0:
            raise ConfigError(f"{program.name} failed in {self.state}: {_last_lines(done.stderr)}")

    def launch(self, binaries: Path) -> Callable[[], bool]:
        """Start the server; the function says whether it is alive. Call it only when no server runs."""
        with usable(self.state):
            self._clear()
            log = open_file(self.log, os.O_APPEND)
            try:
                if os.fstat(log).st_size > _LONGEST_LOG:
                    os.ftruncate(log, 0)
                server = self._spawn(binaries / "postgres", log)
            finally:
                os.close(log)
        # a killed server stays a zombie, which the next one takes for alive, until somebody waits for it
        threading.Thread(target=server.wait, name="postgres-reaper", daemon=True).start()
        # some 20 ms, and not to be interrupted: who leaves before the pid is written cannot stop the server
        while server.poll() is None and self.pid() is None:
            time.sleep(0.002)
        return lambda: server.poll() is None

    def _spawn(self, program: Path, log: int) -> subprocess.Popen[bytes]:
        quoted = str(self.sockets).replace('"', '""')
        settings = {**_SETTINGS, "unix_socket_directories": f'"{quoted}"'}
        return subprocess.Popen(
            [program, "-D", self.data, *(f"--{name}={value}" for name, value in settings.items())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_ENVIRONMENT,
            cwd="/",
            # else Ctrl-C in the terminal stops the database before its users
            start_new_session=True,
            **self.account.identity(),
        )

    def _clear(self) -> None:
        """Remove what a killed server left: its pid may be another program's by now."""
        _own_directory(self.sockets, self.account)
        for stale in (self.data / "postmaster.pid", *self.sockets.glob(".s.PGSQL.5432*")):
            stale.unlink(missing_ok=True)

    def failure(self, what: str) -> ConfigError:
        """`what` went wrong, with the last lines of PostgreSQL's log."""
        text = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        return ConfigError(f"PostgreSQL in {self.data} {what}: {_last_lines(text)} (more in {self.log})")


def make_state(state: Path) -> Path:
    """The state directory, made when it is missing, without symbolic links in its path. Raises ConfigError.

    Made by root it is 0711, so that the account that runs PostgreSQL can pass; else 0700.
    """
    with usable(state):
        if not state.exists():
            state.mkdir(parents=True, exist_ok=True)
            state.chmod(0o711 if os.geteuid() == 0 else 0o700)
        return state.resolve()


@contextmanager
def usable(state: Path) -> Iterator[None]:
    """What the file system refuses in the block is a ConfigError about `state`."""
    try:
        yield
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"the state directory {state} cannot be used: {error}") from error


def open_file(path: Path, flags: int = 0) -> int:
    """A descriptor of a file in the state directory, made when missing with mode 0600. Close it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
    if os.geteuid() == 0:
        # a command that root runs must not lock out the owner of the directory
        owner = path.parent.stat()
        os.fchown(file, owner.st_uid, owner.st_gid)
    return file


def socket_directory(state: Path) -> Path:
    """Where the socket lies: in `state`, or below /tmp when that path is too long for a socket."""
    inside = state / "socket"
    if len(os.fsencode(inside / ".s.PGSQL.5432")) <= _LONGEST_SOCKET:
        return inside
    return Path("/tmp", f"parallama-{hashlib.sha256(os.fsencode(state)).hexdigest()[:16]}")  # noqa: S108


def _own_directory(path: Path, account: Account) -> None:
    """Make `path` a directory of `account` alone; raises ConfigError when it is somebody else's."""
    path.mkdir(mode=0o700, exist_ok=True)
    seen = path.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid not in (account.uid, os.geteuid()) or seen.st_mode & 0o077:
        raise ConfigError(f"{path} must be a directory of the user {account.name} with mode 0700: remove it")
    account.own(path)


def _last_lines(text: str) -> str:
    return " / ".join(text.split("\n")[-3:]).strip(" /") or "it said nothing"
