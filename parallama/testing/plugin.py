"""The pytest plugin, found through its entry point wherever Parallama is installed.

It imports nothing of the kit before a test asks for a fixture, and works without the extra `testing`: async fixtures
then are those of whatever runs async tests there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

try:
    from pytest_asyncio import fixture
except ImportError:
    fixture = pytest.fixture  # type: ignore[assignment]

if TYPE_CHECKING:
    from parallama.testing.fake import FakeOllama


@fixture
async def ollama_node() -> AsyncIterator[FakeOllama]:
    """A fake Ollama with the default models."""
    from parallama.testing.fake import fake_ollama

    async with fake_ollama() as node:
        yield node
