"""`parallama` in a process that dies at a step of its work, or whose clock can be set: `python doomed.py ARGUMENTS`.

Environment: DOOM is `module:function moment number [word]`: it kills itself before or after this call of a function,
counting those calls that have the word among their arguments. SEGMENT: bytes of a file of the journal. CLOCK: a file
with a double, the seconds by which its clock is wrong.
"""

from __future__ import annotations

import inspect
import mmap
import os
import signal
import struct
import sys
import time
from collections.abc import Callable
from datetime import datetime
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any


def die() -> None:
    """As by `kill -9`."""
    os.kill(os.getpid(), signal.SIGKILL)


def doom(place: str, moment: str, number: str, *word: str) -> None:
    """Have the call of the function at `place`, such as `module:Class.method`, be the last of this process."""
    module, _, path = place.partition(":")
    *classes, name = path.split(".")
    owner: Any = import_module(module)
    for one in classes:
        owner = getattr(owner, one)
    calls = count(1)

    def is_due(arguments: object) -> bool:
        return all(one in repr(arguments) for one in word) and next(calls) == int(number)

    wrap = _waited if inspect.iscoroutinefunction(getattr(owner, name)) else _called
    setattr(owner, name, wrap(getattr(owner, name), moment == "before", is_due))


def _called(whole: Callable[..., Any], before: bool, is_due: Callable[[object], bool]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        due = is_due(arguments)
        if due and before:
            die()
        result = whole(*arguments, **named)
        if due:
            die()
        return result

    return call


def _waited(whole: Callable[..., Any], before: bool, is_due: Callable[[object], bool]) -> Callable[..., Any]:
    async def call(*arguments: Any, **named: Any) -> Any:
        due = is_due(arguments)
        if due and before:
            die()
        result = await whole(*arguments, **named)
        if due:
            die()
        return result

    return call


def set_clock(file: Path) -> None:
    """Let Python's clock be wrong by what the file says, from moment to moment."""
    with file.open("rb") as opened:
        said = mmap.mmap(opened.fileno(), 8, prot=mmap.PROT_READ)
    seconds, nanoseconds = time.time, time.time_ns

    def wrong_s() -> float:
        return float(struct.unpack_from("d", said)[0])

    time.time = lambda: seconds() + wrong_s()
    time.time_ns = lambda: nanoseconds() + round(wrong_s()) * 10**9
    _set_datetimes()


def _set_datetimes() -> None:
    """In every module of the program, since `datetime` itself cannot be changed."""
    import parallama.app
    import parallama.server  # noqa: F401 - all that a gateway consists of

    class Kind(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, datetime)

        def __getattr__(cls, name: str) -> Any:
            return getattr(datetime, name)

        def __call__(cls, *arguments: Any, **named: Any) -> datetime:
            return datetime(*arguments, **named)

    class Wrong(metaclass=Kind):
        @staticmethod
        def now(tz: Any = None) -> datetime:
            return datetime.fromtimestamp(time.time(), tz)

    for name, module in list(sys.modules.items()):
        if name.startswith("parallama") and getattr(module, "datetime", None) is datetime:
            module.datetime = Wrong  # type: ignore[attr-defined]


if __name__ == "__main__":
    if file := os.environ.get("CLOCK"):
        set_clock(Path(file))
    if size := os.environ.get("SEGMENT"):
        from parallama.ledger import journal

        journal._SEGMENT = int(size)
    if words := os.environ.get("DOOM"):
        doom(*words.split(" "))
    from parallama.cli import main

    main(prog_name="parallama")
