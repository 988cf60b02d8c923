"""Runs `parallama ...` under cProfile, from SIGUSR1 to the end: `python -m bench.profiled FILE quickstart ...`."""

from __future__ import annotations

import cProfile
import signal
import sys

from parallama.cli import main


def _main(file: str, arguments: list[str]) -> None:
    profile = cProfile.Profile()
    signal.signal(signal.SIGUSR1, lambda _number, _frame: profile.enable())
    sys.argv[:] = ["parallama", *arguments]
    try:
        main()
    finally:
        profile.disable()
        profile.dump_stats(file)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
