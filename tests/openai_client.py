"""OpenAI's own SDK before a codec, with no network between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx2
import openai

from parallama.errors import ApiError
from parallama.gateway.api import Codec
from parallama.testing import Transcript

Answer = Callable[[httpx2.Request], httpx2.Response]


@contextmanager
def client(answer: Answer) -> Iterator[openai.OpenAI]:
    """The SDK, whose requests `answer` answers."""
    with httpx2.Client(transport=httpx2.MockTransport(answer)) as http:
        yield openai.OpenAI(api_key="x", base_url="http://test/v1", http_client=http, max_retries=0)


def answered(codec: Codec, transcript: Transcript) -> httpx2.Response:
    """What comes of a node's answer behind a head that has gone out: failures are told in the stream."""
    codec.begin(transcript.head)
    out = b""
    try:
        out = codec.feed(transcript.body)
        out += codec.finish()
    except ApiError as error:
        out += codec.fail(error)
    return httpx2.Response(200, headers=dict(codec.reply.headers), content=out)
