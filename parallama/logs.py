"""JSON lines by topic, on stderr or in rotating files, written by a thread of their own.

The topics are the loggers `parallama.api`, `.gateway`, `.usage`, `.auth` and `.error`. Fields beside the message come
in `extra={"fields": {...}}`. Keys and configured secrets are masked in whatever is logged.
"""

from __future__ import annotations

import logging
import logging.handlers
import queue
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import orjson

from parallama.config import LogsSettings

TOPICS = ("api", "gateway", "usage", "auth", "error")

_MASK = "********"
_KEY = re.compile(r"plm_[0-9A-Za-z_]{8,}")
_USERINFO = re.compile(r"(?<=://)[^/@\s\"\\]+(?=@)")


class Masker:
    """Replaces API keys, the user part of URLs, and the configured secrets."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        plain = {s for s in secrets if len(s) >= 4}
        known = sorted({*plain, *(orjson.dumps(s).decode()[1:-1] for s in plain)}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        text = _KEY.sub(_MASK, text)
        text = _USERINFO.sub(_MASK, text)
        return self._known.sub(_MASK, text) if self._known else text


def topic_of(record: logging.LogRecord) -> str:
    """The topic of a record; what other libraries log belongs to `error`."""
    topic = record.name.partition("parallama.")[2].partition(".")[0]
    return topic if topic in TOPICS else "error"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts (RFC 3339 UTC), level, topic, event, then the fields."""

    def __init__(self, mask: Masker) -> None:
        super().__init__()
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "topic": topic_of(record),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return self._mask(orjson.dumps(line, default=str).decode())


class _Topic(logging.Filter):
    """Lets one topic pass; `error` also takes what other libraries log."""

    def __init__(self, topic: str) -> None:
        super().__init__()
        self._topic = topic

    def filter(self, record: logging.LogRecord) -> bool:
        return topic_of(record) == self._topic


class _Handoff(logging.handlers.QueueHandler):
    """Hands records over as they are: the formatter runs in the writing thread."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record


def _handlers(settings: LogsSettings, formatter: logging.Formatter) -> Iterator[logging.Handler]:
    if settings.directory is None:
        handler: logging.Handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(formatter)
        yield handler
        return
    settings.directory.mkdir(parents=True, exist_ok=True, mode=0o750)
    for topic in TOPICS:
        handler = logging.handlers.RotatingFileHandler(
            settings.directory / f"{topic}.log",
            maxBytes=settings.max_mb * 1024 * 1024,
            backupCount=settings.backups,
            encoding="utf-8",
        )
        handler.setFormatter(formatter)
        handler.addFilter(_Topic(topic))
        yield handler


@contextmanager
def logging_to(settings: LogsSettings, secrets: Iterable[str] = ()) -> Iterator[None]:
    """Send every log of this process where the settings say, for the block; what waits is written at its end.

    Raises OSError when the directory cannot be written.
    """
    handlers = list(_handlers(settings, JsonFormatter(Masker(secrets))))
    # unbounded on purpose: a line is never dropped, and the writing thread is faster than any load of requests
    waiting: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handoff = _Handoff(waiting)
    listener = logging.handlers.QueueListener(waiting, *handlers)
    root = logging.getLogger()
    before, level = root.handlers, root.level
    root.handlers, root.level = [handoff], logging.WARNING
    ours = logging.getLogger("parallama")
    ours.setLevel(settings.level.upper())
    # a traceback a second while the database is gone, which the listener has said once
    logging.getLogger("asyncpg").setLevel(logging.ERROR)
    listener.start()
    try:
        yield
    finally:
        listener.stop()
        root.handlers, root.level = before, level
        for handler in handlers:
            handler.close()
