"""How much of everything: with FAST in the environment what fits into a few minutes on two cores, else a good deal."""

from __future__ import annotations

import os

FAST = bool(os.environ.get("FAST"))

KILLS = 8 if FAST else 50
"""Of one group of gateways."""
HANG_S = 5.0 if FAST else 30.0
"""How long a server is stopped."""
DOOMED = ("mixed",) if FAST else ("streams", "documents")
"""What the clients of a gateway that is about to die ask for."""
LOST = 10 if FAST else 100
"""Answers of Redis that never arrive."""
FLUSHES = 2 if FAST else 6
CLIENTS = 4
"""Of each gateway."""
