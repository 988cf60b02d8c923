"""The client whose calls are awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

import httpx2

from parallama.client.answers import Chat, Delta, Embeddings, Generation, Model
from parallama.client.dialects import Dialect, Texts, dialect_of
from parallama.client.session import Answered, Renew, Request, Session, Step, Wait, cut_short, read, unreachable
from parallama.errors import UpstreamFailed

if TYPE_CHECKING:
    from parallama.client.admin import AsyncAdmin
    from parallama.client.uses import Use

T = TypeVar("T")


class Completions:
    """`client.completions`, in the words of the SDKs."""

    def __init__(self, client: AsyncParallamaClient) -> None:
        self.create = client.generate
        """The same as `client.generate`."""


class AsyncParallamaClient:
    """ParallamaClient for asyncio: every call is awaited, and streams are `async for delta in await client.chat(...)`.

    With `api_key`, or with `username` and `password` for a login that renews itself. Raises the errors of
    `parallama.errors` that the gateway answers, and Unavailable when it does not answer within `timeout_s` of silence.
    What is answered 429 or 503 is sent again when its Retry-After has passed, at most `max_retries` times; what changes
    a record only after 429, as a 503 may come when it is done. An asynchronous context manager; tasks of one event loop
    may share it. The request of a stream is sent with its first use.
    """

    def __init__(
        self,
        *,
        base_url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        gateway: str = "ollama",
        username: str | None = None,
        password: str | None = None,
        timeout_s: float = 600.0,
        max_retries: int = 2,
    ) -> None:
        self._dialect: Dialect = dialect_of(gateway)
        self._session = Session(api_key, username, password, max_retries)
        # by default the 101st waits for one of 100 streams to end, which they may not do before it is read
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100)
        self._http = httpx2.AsyncClient(base_url=base_url, timeout=timeout_s, limits=limits)
        self._renewing = asyncio.Lock()
        self.completions = Completions(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    @cached_property
    def admin(self) -> AsyncAdmin:
        """Users, keys, roles, gateways, and one's own keys: the operations of the API for administration."""
        from parallama.client.admin import AsyncAdmin

        return AsyncAdmin(self._use)

    async def list_models(self) -> list[Model]:
        """The models that the caller may use, aliases among them."""
        return await self._read(self._dialect.list_request(), self._dialect.models)

    @overload
    async def generate(
        self, *, model: str, prompt: str, stream: Literal[False] = False, **parameters: Any
    ) -> Generation: ...
    @overload
    async def generate(
        self, *, model: str, prompt: str, stream: Literal[True], **parameters: Any
    ) -> AsyncIterator[Delta]: ...
    async def generate(
        self, *, model: str, prompt: str, stream: bool = False, **parameters: Any
    ) -> Generation | AsyncIterator[Delta]:
        """The answer to a prompt. Further keywords are parameters of the gateway: `temperature`, `max_tokens`, ..."""
        request = self._dialect.generate_request(model, prompt, parameters, stream=stream)
        return self._deltas(request) if stream else await self._read(request, self._dialect.generation)

    @overload
    async def chat(
        self, *, model: str, messages: Sequence[Mapping[str, Any]], stream: Literal[False] = False, **parameters: Any
    ) -> Chat: ...
    @overload
    async def chat(
        self, *, model: str, messages: Sequence[Mapping[str, Any]], stream: Literal[True], **parameters: Any
    ) -> AsyncIterator[Delta]: ...
    async def chat(
        self, *, model: str, messages: Sequence[Mapping[str, Any]], stream: bool = False, **parameters: Any
    ) -> Chat | AsyncIterator[Delta]:
        """The answer in a chat; `messages` are `{role, content}`."""
        request = self._dialect.chat_request(model, messages, parameters, stream=stream)
        return self._deltas(request) if stream else await self._read(request, self._dialect.chat)

    async def embeddings(self, *, model: str, input: Texts, **parameters: Any) -> Embeddings:
        """A vector for each text."""
        return await self._read(self._dialect.embed_request(model, input, parameters), self._dialect.embeddings)

    async def export(self, path: str) -> AsyncGenerator[bytes, None]:
        """What a path answers, in parts of any size, however much it is: such as `/me/usage/export?format=csv`. Raises
        UpstreamFailed when it breaks off, after which what came is not the whole. To be closed when it is left early.
        """
        answered = await self._carry(self._session.ask(Request(method="GET", path=path)), stream=True)
        response: httpx2.Response = answered.response
        try:
            async for part in response.aiter_bytes():
                yield part
        except httpx2.RequestError as error:
            raise UpstreamFailed(f"the answer broke off ({type(error).__name__})") from error
        finally:
            await response.aclose()

    async def _use(self, use: Use[T]) -> T:
        return await self._carry(use(self._session.ask))

    async def _read(self, request: Request, into: Callable[[Any], T]) -> T:
        answered = await self._carry(self._session.ask(request))
        return read(answered.body, into)

    async def _deltas(self, request: Request) -> AsyncIterator[Delta]:
        answered = await self._carry(self._session.ask(request), stream=True)
        response: httpx2.Response = answered.response
        done = False
        try:
            async for line in response.aiter_lines():
                if (delta := self._dialect.delta(line)) is not None:
                    done = done or delta.done
                    yield delta
            if not done:
                raise cut_short()
        except httpx2.RequestError as error:
            raise UpstreamFailed(f"the stream broke off ({type(error).__name__})") from error
        finally:
            await response.aclose()

    async def _carry(self, steps: Generator[Step, Any, T], *, stream: bool = False) -> T:
        """Do what the steps say; what they give. A good answer is left open if it is a `stream`."""
        told: Answered | None = None
        while True:
            try:
                step = steps.send(told)
            except StopIteration as end:
                done: T = end.value
                return done
            told = None
            if isinstance(step, Request):
                told = await self._ask(step, stream=stream)
            elif isinstance(step, Wait):
                await asyncio.sleep(step.seconds)
            else:
                await self._renew(step)

    async def _ask(self, request: Request, *, stream: bool) -> Answered:
        built = self._http.build_request(request.method, request.path, json=request.body, headers=request.headers)
        try:
            response = await self._http.send(built, stream=stream)
            body = b"" if stream and response.is_success else await response.aread()
        except httpx2.RequestError as error:
            raise unreachable(self._http.base_url, error) from error
        return Answered(response.status_code, response.headers, body, response)

    async def _renew(self, step: Renew) -> None:
        async with self._renewing:
            if (steps := self._session.renew(step)) is not None:
                await self._carry(steps)
