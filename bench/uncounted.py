"""Runs `parallama ...` as if it had no ledger: nothing is written down, reserved or settled.

Only to be measured beside the real one: `python -m bench.uncounted quickstart ...`.
"""

from __future__ import annotations

import sys

from parallama.cli import main
from parallama.ledger.journal import Journal
from parallama.proxy.admission import Admission
from parallama.proxy.books import Books


def _nothing(*_: object) -> None:
    """In place of what is not to be measured."""


async def _admitted(*_: object) -> None:
    """The same where somebody waits for it."""


if __name__ == "__main__":
    for of, step in ((Journal, "admit"), (Journal, "dispatch"), (Books, "close")):
        setattr(of, step, _nothing)
    setattr(Admission, "admit", _admitted)  # noqa: B010 - a method of it, on purpose
    sys.argv[0] = "parallama"
    main()
