"""The client that waits for its answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self, overload

import httpx2

from parallama.client.answers import Chat, Delta, Embeddings, Generation, Model
from parallama.client.dialects import Dialect, Texts, dialect_of
from parallama.client.session import Answered, Renew, Request, Session, Steps, Wait, unreachable
from parallama.errors import UpstreamFailed


class Completions:
    """`client.completions`, in the words of the SDKs."""

    def __init__(self, client: ParallamaClient) -> None:
        self.create = client.generate
        """The same as `client.generate`."""


class ParallamaClient:
    """A client of one gateway of a Parallama, `ollama` or `openai`.

    With `api_key`, or with `username` and `password` for a login that renews itself. Raises the errors of
    `parallama.errors` that the gateway answers, and Unavailable when it does not answer within `timeout_s` of silence.
    What is answered 429 or 503 is sent again when its Retry-After has passed, at most `max_retries` times. A context
    manager; threads may share it. With `stream=True` an iterator is given, and the request is sent with its first use.
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
        self._http = httpx2.Client(base_url=base_url, timeout=timeout_s)
        self._renewing = threading.Lock()
        self.completions = Completions(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def list_models(self) -> list[Model]:
        """The models that the caller may use, aliases among them."""
        return self._dialect.models(self._document(self._dialect.list_request()))

    @overload
    def generate(self, *, model: str, prompt: str, stream: Literal[False] = False, **parameters: Any) -> Generation: ...
    @overload
    def generate(self, *, model: str, prompt: str, stream: Literal[True], **parameters: Any) -> Iterator[Delta]: ...
    def generate(
        self, *, model: str, prompt: str, stream: bool = False, **parameters: Any
    ) -> Generation | Iterator[Delta]:
        """The answer to a prompt. Further keywords are parameters of the gateway: `temperature`, `max_tokens`, ..."""
        request = self._dialect.generate_request(model, prompt, parameters, stream=stream)
        return self._deltas(request) if stream else self._dialect.generation(self._document(request))

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
        return self._deltas(request) if stream else self._dialect.chat(self._document(request))

    def embeddings(self, *, model: str, input: Texts, **parameters: Any) -> Embeddings:
        """A vector for each text."""
        return self._dialect.embeddings(self._document(self._dialect.embed_request(model, input, parameters)))

    def _document(self, request: Request) -> Any:
        return self._carry(self._session.ask(request)).json()

    def _deltas(self, request: Request) -> Iterator[Delta]:
        response = self._carry(self._session.ask(request), stream=True)
        try:
            for line in response.iter_lines():
                if (delta := self._dialect.delta(line)) is not None:
                    yield delta
        except httpx2.TransportError as error:
            raise UpstreamFailed(f"the stream broke off ({type(error).__name__})") from error
        finally:
            response.close()

    def _carry(self, steps: Steps, *, stream: bool = False) -> httpx2.Response:
        """Do what the steps say; the answer to the last request, which is open if it is a `stream`."""
        told: Answered | None = None
        while True:
            try:
                step = steps.send(told)
            except StopIteration as end:
                done: httpx2.Response = end.value.response
                return done
            told = None
            if isinstance(step, Request):
                response = self._ask(step, stream=stream)
                body = response.read() if response.is_error or not stream else b""
                told = Answered(response.status_code, response.headers, body, response)
            elif isinstance(step, Wait):
                time.sleep(step.seconds)
            else:
                self._renew(step)

    def _ask(self, request: Request, *, stream: bool) -> httpx2.Response:
        built = self._http.build_request(request.method, request.path, json=request.body, headers=request.headers)
        try:
            return self._http.send(built, stream=stream)
        except httpx2.TransportError as error:
            raise unreachable(self._http.base_url, error) from error

    def _renew(self, step: Renew) -> None:
        with self._renewing:
            if (steps := self._session.renew(step.stale)) is not None:
                self._carry(steps)
