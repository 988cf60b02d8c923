"""The directory of a journal, locked while its process lives; the lock says how far its rows are stored.

What the files beside the lock hold is not known here.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

from parallama.ledger.segments import Place, written

LOCK = "lock"


class Home:
    """Of one journal; not there before `make`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    def make(self) -> None:
        """Make and lock it, anew if it was removed. Raises OSError, and leaves all as it was."""
        # under its name only when it is locked: nobody may take it for one that was left
        unlocked = self.path.with_name(f".{self.path.name}")
        unlocked.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = -1
        try:
            lock = os.open(unlocked / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(lock, written(("", 0)), 0)
            unlocked.rename(self.path)
        except OSError:
            if lock >= 0:
                os.close(lock)
            shutil.rmtree(unlocked, ignore_errors=True)
            raise
        self.unlock()
        self._lock = lock

    def stored(self, place: Place) -> None:
        """Its rows are stored up to there."""
        with suppress(OSError):  # not a full disk: the bytes are there
            os.pwrite(self._lock, written(place), 0)

    def unlock(self) -> None:
        """Whoever finds it may take it over."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def remove(self) -> None:
        """Delete it, which is empty but for the lock."""
        (self.path / LOCK).unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()
