"""CPU time and memory of processes, as Linux counts them in /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def cpu_ns(pids: Iterable[int]) -> int:
    """Nanoseconds of CPU that these processes have used, all threads; one that has ended counts nothing."""
    return sum(_of(pid) for pid in pids)


def waited_ns(pids: Iterable[int]) -> int:
    """Nanoseconds that their threads could have run and others did on their CPU; 0 where Linux does not count them."""
    return sum(one for pid in pids for one in _schedstat(pid, 1))


def rss(pid: int) -> int:
    """Bytes of memory that the process holds."""
    pages = (_PROC / str(pid) / "statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def tree(pid: int) -> list[int]:
    """The process and its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdecimal() and (fields := _stat(entry)):
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


def threads(pid: int) -> list[int]:
    """The ids of the process's threads."""
    return [int(entry.name) for entry in (_PROC / str(pid) / "task").iterdir()]


def _of(pid: int) -> int:
    if threads := _schedstat(pid, 0):
        return sum(threads)
    fields = _stat(_PROC / str(pid))
    return (int(fields[11]) + int(fields[12])) * _TICK_NS if fields else 0


def _schedstat(pid: int, field: int) -> list[int]:
    """The field for every thread: 0 CPU time, 1 time waited for a CPU; empty when there is none to be had."""
    try:
        return [int(file.read_text().split()[field]) for file in (_PROC / str(pid) / "task").glob("*/schedstat")]
    except (OSError, IndexError):
        return []


def _stat(process: Path) -> list[str]:
    """The fields of /proc/PID/stat after the command's name (which may hold anything): state, parent, ..."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
