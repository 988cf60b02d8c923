"""The Python client: ParallamaClient and AsyncParallamaClient, for either gateway, with the same calls.

Stands outside the layers of the server and imports nothing of ours but the errors, which it raises as the server has
answered them.
"""

from parallama.client.answers import Chat, Delta, Embeddings, Generation, Model, Usage
from parallama.client.awaited import AsyncParallamaClient
from parallama.client.waiting import ParallamaClient

__all__ = [
    "AsyncParallamaClient",
    "Chat",
    "Delta",
    "Embeddings",
    "Generation",
    "Model",
    "ParallamaClient",
    "Usage",
]
