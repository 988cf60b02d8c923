"""`parallama ratelimit`: the commands of `parallama limits`."""

from __future__ import annotations

from parallama.cli.limits import ratelimit

__all__ = ["ratelimit"]
