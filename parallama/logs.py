"""JSON lines by topic, on stderr or in rotating files, written in batches by a thread of their own.

The topics are the loggers `parallama.api`, `.gateway`, `.usage`, `.auth` and `.error`. Fields beside the message come
in `extra={"fields": {...}}`. Keys and configured secrets are masked in whatever is logged.
"""

from __future__ import annotations

import logging
import logging.handlers
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from parallama.config import LogsSettings

TOPICS = ("api", "gateway", "usage", "auth", "error")

_BATCH_S = 0.05
"""A line waits so long for others."""
_PIECE = 32
"""So many lines are made in one go: one after another they cost half of what each costs alone."""
_LEVELS = {level: logging.getLevelName(level).lower() for level in range(10, 60, 10)}
_FLUSH_S = 1.0
_MASK = "********"
_KEY = re.compile(r"(?:plm|rt)_[0-9A-Za-z_]{8,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}")
"""API keys, refresh tokens, access tokens."""
_USERINFO = re.compile(r"(?<=://)[^/@\s\"\\]+(?=@)")


class Masker:
    """Replaces API keys and tokens, the user part of URLs, and the configured secrets."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = plain = {s for s in secrets if len(s) >= 4}
        self._plain = known = sorted({*plain, *(orjson.dumps(s).decode()[1:-1] for s in plain)}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        if "plm_" in text or "rt_" in text or "eyJ" in text:
            text = _KEY.sub(_MASK, text)
        if "://" in text:
            text = _USERINFO.sub(_MASK, text)
        return self._known.sub(_MASK, text) if self._known and any(map(text.__contains__, self._plain)) else text

    def hiding(self, secret: str) -> Masker:
        """One that replaces `secret` too."""
        return Masker({*self._secrets, secret})


@lru_cache(256)
def topic_of(name: str) -> str:
    """The topic of a logger; what other libraries log belongs to `error`."""
    topic = name.partition("parallama.")[2].partition(".")[0]
    return topic if topic in TOPICS else "error"


@lru_cache(2)
def _second(seconds: int) -> str:
    """RFC 3339 of these seconds since 1970, with a place for milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%%03d+00:00")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts (RFC 3339 UTC), level, topic, event, then the fields."""

    def __init__(self, mask: Masker) -> None:
        super().__init__()
        self.mask = mask

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": _second(int(record.created)) % (record.created % 1 * 1000),
            "level": _LEVELS.get(record.levelno) or record.levelname.lower(),
            "topic": topic_of(record.name),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return self.mask(orjson.dumps(line, default=str).decode())


class _Stderr:
    def write_lines(self, lines: Sequence[str]) -> None:
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        """It is not ours."""


class _File(logging.handlers.RotatingFileHandler):
    """Rotates as logging's own does, but reaches the disk once a batch."""

    def write_lines(self, lines: Sequence[str]) -> None:
        if self.stream is None:  # the last change of files failed
            self.stream = self._open()
        size = self.stream.tell()
        for line in lines:
            data = len(line.encode()) + 1
            if size and size + data > self.maxBytes:
                self.doRollover()
                size = 0
            assert self.stream is not None
            self.stream.write(line + "\n")
            size += data
        self.stream.flush()


def _files(settings: LogsSettings) -> Mapping[str, _Stderr | _File]:
    """Where the lines of each topic go."""
    directory = settings.directory
    if directory is None:
        return dict.fromkeys(TOPICS, _Stderr())
    directory.mkdir(parents=True, exist_ok=True, mode=0o750)
    size = settings.max_mb * 1024 * 1024
    return {
        topic: _File(directory / f"{topic}.log", maxBytes=size, backupCount=settings.backups, encoding="utf-8")
        for topic in TOPICS
    }


class _Batches(logging.Handler):
    """Has lines made and written soon: a thread that is woken for each of them costs more than the line itself."""

    def __init__(self, files: Mapping[str, _Stderr | _File]) -> None:
        super().__init__()
        self._files = files
        self._records: list[logging.LogRecord] = []
        # unbounded on purpose: a line is only dropped when it cannot be written, and writing is faster than any load
        self._lines: dict[str, list[str]] = {}
        self._news, self._hurry, self._written = threading.Event(), threading.Event(), threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._write, name="logs", daemon=True)
        self._thread.start()

    def handle(self, record: logging.LogRecord) -> bool:
        """Take one; there are no filters."""
        assert self.lock is not None
        with self.lock:
            self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Take one; the caller holds the lock."""
        self._records.append(record)
        if len(self._records) >= _PIECE:
            self._make_lines()
        if not self._news.is_set():
            self._news.set()

    def close(self) -> None:
        """Write what waits, and close the files."""
        self._over = True
        self._hurry.set()
        self._news.set()
        self._thread.join()
        for file in set(self._files.values()):
            file.close()
        super().close()

    def flush(self) -> None:
        """Write what waits, for at most a second."""
        self._written.clear()
        self._hurry.set()
        self._news.set()
        self._written.wait(_FLUSH_S)

    def _make_lines(self) -> None:
        records, self._records = self._records, []
        for record in records:
            self._lines.setdefault(topic_of(record.name), []).append(self._line(record))

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record)
        except Exception as error:  # noqa: BLE001 - one bad record must not cost the others
            record.msg, record.args = f"a record that cannot be written: {type(error).__name__}", None
            record.fields, record.exc_info = {}, None
            return self.format(record)

    def _write(self) -> None:
        over = False
        while not over:
            self._news.wait()
            if not self._over:
                self._hurry.wait(_BATCH_S)
            self._news.clear()
            over = self._over  # before what waits is taken, so that the last round takes all of it
            assert self.lock is not None
            with self.lock:
                self._make_lines()
                waiting, self._lines = self._lines, {}
            for topic, lines in waiting.items():
                with suppress(OSError, ValueError):  # a full disk, a closed stderr: there is nobody to tell
                    self._files[topic].write_lines(lines)
            self._hurry.clear()
            self._written.set()


class _Record(logging.LogRecord):
    """A record without what no line holds: where in the code it was made, by which thread and process."""

    def __init__(self, name: str, level: int, _path: str, _line: int, msg: object, args: Any, exc_info: Any, *_: Any):
        self.name, self.levelno, self.levelname = name, level, logging.getLevelName(level)
        if args and len(args) == 1 and isinstance(args[0], Mapping) and args[0]:
            args = args[0]  # as LogRecord does for "%(name)s"
        self.msg, self.args, self.exc_info = msg, args, exc_info
        self.created = time.time()


@contextmanager
def logging_to(settings: LogsSettings, secrets: Iterable[str] = ()) -> Iterator[None]:
    """Send every log of this process where the settings say, for the block; what waits is written at its end.

    Raises OSError when the directory cannot be written.
    """
    handler = _Batches(_files(settings))
    handler.setFormatter(JsonFormatter(Masker(secrets)))
    root = logging.getLogger()
    before, level = root.handlers, root.level
    root.handlers, root.level = [handler], logging.WARNING
    ours = logging.getLogger("parallama")
    ours.setLevel(settings.level.upper())
    # a traceback a second while the database is gone, which the listener has said once
    logging.getLogger("asyncpg").setLevel(logging.ERROR)
    requests = logging.getLogger("parallama.api")
    listening = requests.handlers
    # at once to all whom a line meets on its way to the root, which costs more than they do
    requests.handlers, requests.propagate = [*listening, *filter(_listens, ours.handlers), handler], False
    try:
        with _lean():
            yield
    finally:
        requests.handlers, requests.propagate = listening, True
        root.handlers, root.level = before, level
        handler.close()


def _listens(handler: logging.Handler) -> bool:
    return not isinstance(handler, logging.NullHandler)


def hide(secret: str) -> None:
    """Mask a secret that was made after the logs were begun, in this process until they end."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonFormatter):
            handler.formatter.mask = handler.formatter.mask.hiding(secret)


@contextmanager
def _lean() -> Iterator[None]:
    """Make records that cost a fourth: they need not know where they come from."""
    factory, source = logging.getLogRecordFactory(), logging._srcfile
    logging.setLogRecordFactory(_Record)
    logging._srcfile = None  # docs.python.org/3/howto/logging.html, Optimization
    try:
        yield
    finally:
        logging.setLogRecordFactory(factory)
        logging._srcfile = source
