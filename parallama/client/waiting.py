"""The client that waits for its answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

import httpx2

from parallama.client.answers import Chat, Delta, Embeddings, Generation, Model
from parallama.client.dialects import Dialect, Texts, dialect_of
from parallama.client.session import Answered, Renew, Request, Session, Step, Wait, cut_short, read, unreachable
from parallama.errors import UpstreamFailed

if TYPE_CHECKING:
    from parallama.client.admin import Admin
    from parallama.client.uses import Use

T = TypeVar("T")


class Completions:
    """`client.completions`, in the words of the SDKs."""

    def __init__(self, client: ParallamaClient) -> None:
        self.create = client.generate
        """The same as `client.generate`."""


class ParallamaClient:
    """A client of one gateway of a Parallama, `ollama` or `openai`.

    With `api_key`, or with `username` and `password` for a login that renews itself. Raises the errors of
    `parallama.errors` that the gateway answers, and Unavailable when it does not answer within `timeout_s` of silence.
    What is answered 429 or 503 is sent again when its Retry-After has passed, at most `max_retries` times; what changes
    a record only after 429, as a 503 may come when it is done. A context manager; threads may share it. With
    `stream=True` an iterator is given, and the request is sent with its first use.
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
        self._http = httpx2.Client(base_url=base_url, timeout=timeout_s, limits=limits)
        self._renewing = threading.Lock()
        self.completions = Completions(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    @cached_property
    def admin(self) -> Admin:
        """Users, keys, roles, gateways, and one's own keys: the operations of the API for administration."""
        from parallama.client.admin import Admin

        return Admin(self._use)

    def list_models(self) -> list[Model]:
        """The models that the caller may use, aliases among them."""
        return self._read(self._dialect.list_request(), self._dialect.models)

    @overload
    def generate(self, *, model: str, prompt: str, stream: Literal[False] = False, **parameters: Any) -> Generation: ...
    @overload
    def generate(self, *, model: str, prompt: str, stream: Literal[True], **parameters: Any) -> Iterator[Delta]: ...
    def generate(
        self, *, model: str, prompt: str, stream: bool = False, **parameters: Any
    ) -> Generation | Iterator[Delta]:
        """The answer to a prompt. Further keywords are parameters of the gateway: `temperature`, `max_tokens`, ..."""
        request = self._dialect.generate_request(model, prompt, parameters, stream=stream)
        return self._deltas(request) if stream else self._read(request, self._dialect.generation)

    @overload
    def chat(
        self, *, model: str, messages: Sequence[Mapping[str, Any]], stream: Literal[False] = False, **parameters: Any
    ) -> Chat: ...
    @overload
    def chat(
        self, *, model: str, messages: Sequence[Mapping[str, Any]], stream: Literal[True], **parameters: Any
    ) -> Iterator[Delta]: ...
    def chat(
        self, *, model: str, messages: Sequence[Mapping[str, Any]], stream: bool = False, **parameters: Any
    ) -> Chat | Iterator[Delta]:
        """The answer in a chat; `messages` are `{role, content}`."""
        request = self._dialect.chat_request(model, messages, parameters, stream=stream)
        return self._deltas(request) if stream else self._read(request, self._dialect.chat)

    def embeddings(self, *, model: str, input: Texts, **parameters: Any) -> Embeddings:
        """A vector for each text."""
        return self._read(self._dialect.embed_request(model, input, parameters), self._dialect.embeddings)

    def export(self, path: str) -> Generator[bytes, None, None]:
        """What a path answers, in parts of any size, however much it is: such as `/me/usage/export?format=csv`. Raises
        UpstreamFailed when it breaks off, after which what came is not the whole. To be closed when it is left early.
        """
        response: httpx2.Response = self._carry(
            self._session.ask(Request(method="GET", path=path)), stream=True
        ).response
        try:
            yield from response.iter_bytes()
        except httpx2.RequestError as error:
            raise UpstreamFailed(f"the answer broke off ({type(error).__name__})") from error
        finally:
            response.close()

    def _use(self, use: Use[T]) -> T:
        return self._carry(use(self._session.ask))

    def _read(self, request: Request, into: Callable[[Any], T]) -> T:
        answered = self._carry(self._session.ask(request))
        return read(answered.body, into)

    def _deltas(self, request: Request) -> Iterator[Delta]:
        response: httpx2.Response = self._carry(self._session.ask(request), stream=True).response
        done = False
        try:
            for line in response.iter_lines():
                if (delta := self._dialect.delta(line)) is not None:
                    done = done or delta.done
                    yield delta
            if not done:
                raise cut_short()
        except httpx2.RequestError as error:
            raise UpstreamFailed(f"the stream broke off ({type(error).__name__})") from error
        finally:
            response.close()

    def _carry(self, steps: Generator[Step, Any, T], *, stream: bool = False) -> T:
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
                told = self._ask(step, stream=stream)
            elif isinstance(step, Wait):
                time.sleep(step.seconds)
            else:
                self._renew(step)

    def _ask(self, request: Request, *, stream: bool) -> Answered:
        built = self._http.build_request(request.method, request.path, json=request.body, headers=request.headers)
        try:
            response = self._http.send(built, stream=stream)
            body = b"" if stream and response.is_success else response.read()
        except httpx2.RequestError as error:
            raise unreachable(self._http.base_url, error) from error
        return Answered(response.status_code, response.headers, body, response)

    def _renew(self, step: Renew) -> None:
        with self._renewing:
            if (steps := self._session.renew(step)) is not None:
                self._carry(steps)
