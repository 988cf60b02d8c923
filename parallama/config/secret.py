"""Secrets: the files that hold them, and the masks that keep them out of messages, logs and `config show`."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, unquote_plus

from pydantic import SecretStr

from parallama.config.settings import Settings

MASK = "********"

_MAX_BYTES = 65_536
_OPEN_TO_OTHERS = 0o027
"""Anything for others, writing for the group."""
_IN_QUERY = re.compile(r"([?&][^=&]*(?:password|secret|token)[^=&]*=)[^&]*", re.IGNORECASE)
_IN_QUERY_NAME = re.compile(r"password|secret|token", re.IGNORECASE)


def mask_url(url: str) -> str:
    """`url` with its passwords masked; all but its scheme when it is not clear where a password ends."""
    scheme, sep, rest = url.partition("://")
    if not sep:
        return MASK if re.search(r":.*@", url, re.DOTALL) else url
    netloc = re.split(r"[/?#]", rest, maxsplit=1)[0]
    tail = rest[len(netloc) :]
    if "@" in tail:
        return f"{scheme}://{MASK}"
    userinfo, at, host = netloc.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    password = colon and f":{MASK}"
    return f"{scheme}://{user}{password}{at}{host}" + _IN_QUERY.sub(rf"\1{MASK}", tail)


def _of_url(url: str) -> Iterator[str]:
    yield url
    rest = url.partition("://")[2]
    # a password with a raw slash makes no good URL, and is a secret all the same
    for place in (rest, re.split(r"[/?#]", rest, maxsplit=1)[0]):
        password = place.rpartition("@")[0].partition(":")[2]
        yield from (password, unquote(password))
    for name, _, value in (pair.partition("=") for pair in rest.partition("?")[2].split("&")):
        if _IN_QUERY_NAME.search(name):
            yield from (value, unquote_plus(value))


def secrets(settings: Settings) -> list[str]:
    """Every value that must never be logged, longest first: secrets, and the passwords in URLs.

    A URL with a password is there as a whole too; a password as written and percent-decoded.
    """
    found: set[str] = set()
    for url in (settings.database.url, settings.redis.url):
        if url and mask_url(url.get_secret_value()) != url.get_secret_value():
            found.update(_of_url(url.get_secret_value()))
    for key in (settings.auth.jwt_secret, settings.auth.jwt_previous_secret):
        if key:
            found.add(key.get_secret_value())
    return sorted(found - {""}, key=lambda secret: (-len(secret), secret))


def shown(secret: SecretStr, *, is_url: bool) -> str:
    """What may be shown of `secret`."""
    return mask_url(secret.get_secret_value()) if is_url else MASK


def read_secret(path: Path) -> str:
    """The content of `path` without its final newline.

    Raises ValueError, in words that follow the file's name, when it is missing, no regular file, open to
    others, empty or no text.
    """
    try:
        # a FIFO would be waited for
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    try:
        _check_mode(path, os.fstat(descriptor).st_mode)
        data = os.read(descriptor, _MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"is longer than {_MAX_BYTES} bytes")
    try:
        text = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None
    if not text:
        raise ValueError("is empty")
    return text


def _check_mode(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise ValueError("is not a regular file")
    if mode & _OPEN_TO_OTHERS:
        raise ValueError(
            f"has mode {stat.S_IMODE(mode):04o}, which opens it to others: chmod 600 {shlex.quote(str(path))}"
        )
