"""The test kit, for authors of gateways and for our own tests; docs/testing.md is the reference.

`fake_ollama` is a node that fails on cue, `check_codec` proves that a codec keeps its promises, and the pytest plugin
(parallama.testing.plugin) brings fixtures. The names are imported when asked for: pytest loads the plugin everywhere.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parallama.simulated.faults import EVERY_BYTE, Answer, Fault
    from parallama.simulated.malformed import BAD_CHUNKS, BAD_HEADS
    from parallama.simulated.models import Model
    from parallama.simulated.recordings import Framing, Recording, fragmentations, load_recording
    from parallama.testing.codecs import check_codec
    from parallama.testing.fake import BUSY, CEILING_S, FakeOllama, SeenRequest, fake_ollama
    from parallama.testing.transcripts import Transcript, inbound, read_document, read_lines

__all__ = [
    "BAD_CHUNKS",
    "BAD_HEADS",
    "BUSY",
    "CEILING_S",
    "EVERY_BYTE",
    "Answer",
    "FakeOllama",
    "Fault",
    "Framing",
    "Model",
    "Recording",
    "SeenRequest",
    "Transcript",
    "check_codec",
    "fake_ollama",
    "fragmentations",
    "inbound",
    "load_recording",
    "read_document",
    "read_lines",
]

_HOMES = (
    "parallama.testing.fake",
    "parallama.testing.transcripts",
    "parallama.testing.codecs",
    "parallama.simulated.faults",
    "parallama.simulated.malformed",
    "parallama.simulated.models",
    "parallama.simulated.recordings",
)


def __getattr__(name: str) -> Any:
    """The public names, imported on first use (PEP 562)."""
    if name in __all__:
        for home in map(importlib.import_module, _HOMES):
            if name in vars(home):
                return getattr(home, name)
    raise AttributeError(f"module 'parallama.testing' has no attribute {name!r}")
