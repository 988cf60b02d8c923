"""A private PostgreSQL below the state directory, shared by every process that uses the directory.

Each user holds a shared flock on `pg.lock`; the last one to leave stops the server. It may outlive a user that
was killed, and is attached to next time. One process at a time starts or stops it, under `pg.start.lock`.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from parallama.db.cluster import Cluster, make_state, open_file, usable
from parallama.errors import ConfigError

_TURN_S = 90.0
_ANSWER_S = 60.0
_RETRY_S = 5.0

_STOP = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
"""Fast shutdown; immediate shutdown; for a server that is itself stopped. And the seconds to wait for each."""


@asynccontextmanager
async def embedded(state: Path) -> AsyncIterator[str]:
    """The DSN of the PostgreSQL below `state`, made and started when needed; it answers until the block ends.

    Raises ConfigError when it cannot be had; the message quotes PostgreSQL's log.
    """
    state = make_state(state)
    with _lock_file(state / "pg.lock") as users:
        joined = False
        try:
            async with _turn(state):
                fcntl.flock(users, fcntl.LOCK_SH)
                joined = True
                cluster = Cluster.of(state)
                await _start(cluster)
            yield cluster.dsn
        finally:
            if joined:
                await _leave(state, users)


@contextmanager
def only_server(state: Path) -> Iterator[None]:
    """Be the one `parallama serve` on `state`. Raises ConfigError naming the pid of another one."""
    state = make_state(state)
    with _lock_file(state / "serve.lock") as file:
        if not _locked(file):
            pid = os.pread(file, 20, 0).decode().strip() or "unknown"
            raise ConfigError(f"another `parallama serve` (pid {pid}) uses {state}: stop it, or choose --data DIR")
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        yield


async def _start(cluster: Cluster) -> None:
    """Attach to the server or start it. The caller has the turn."""
    if await cluster.answers():
        return
    retry_until = time.monotonic() + _RETRY_S
    while not await _comes_up(cluster, lambda: cluster.pid() is not None):
        binaries = await asyncio.to_thread(cluster.prepare)
        if await _comes_up(cluster, cluster.launch(binaries)):
            return
        # right after a kill its children may still hold the shared memory
        if time.monotonic() > retry_until:
            raise cluster.failure("does not start")
        await asyncio.sleep(0.2)


async def _comes_up(cluster: Cluster, alive: Callable[[], bool]) -> bool:
    """Wait until the server answers; False when it is not alive."""
    give_up = time.monotonic() + _ANSWER_S
    while alive():
        if await cluster.answers():
            return True
        if time.monotonic() > give_up:
            raise cluster.failure("does not answer")
        await asyncio.sleep(0.02)
    return False


async def _leave(state: Path, users: int) -> None:
    async with _turn(state):
        cluster = Cluster.of(state)
        if _locked(users) and cluster.pid() is not None:
            await _stop(cluster)
            with suppress(OSError):
                cluster.sockets.rmdir()


async def _stop(cluster: Cluster) -> None:
    for number, seconds in _STOP:
        pid = cluster.pid()
        if pid is None or await _ends(cluster, pid, number, seconds):
            return


async def _ends(cluster: Cluster, pid: int, number: signal.Signals, seconds: float) -> bool:
    """Send the signal; whether the process ends within `seconds`."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
    return await _until(lambda: not cluster.is_postmaster(pid), seconds)


async def _until(reached: Callable[[], bool], seconds: float) -> bool:
    give_up = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > give_up:
            return False
        await asyncio.sleep(0.01)
    return True


@asynccontextmanager
async def _turn(state: Path) -> AsyncIterator[None]:
    """Only one process at a time starts or stops the server."""
    with _lock_file(state / "pg.start.lock") as file:
        if not await _until(lambda: _locked(file), _TURN_S):
            raise ConfigError(f"another process has been starting or stopping PostgreSQL in {state} for too long")
        yield


def _locked(file: int) -> bool:
    """Take the lock alone; whether that went."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _lock_file(path: Path) -> Iterator[int]:
    with usable(path.parent):
        file = open_file(path)
    try:
        yield file
    finally:
        os.close(file)
