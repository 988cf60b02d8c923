"""The gateways as the client speaks to them: what is sent for each call, and what the answers say. Pure.

`ollama` is the simplified dialect below `/ollama/v1`, `openai` OpenAI's below `/openai/v1`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from parallama.client.answers import Chat, Delta, Embeddings, Generation, Model, Usage
from parallama.client.session import Request, message_of, read
from parallama.errors import UpstreamFailed

Document = Mapping[str, Any]
Texts = str | Sequence[str]
Messages = Sequence[Mapping[str, Any]]


class Dialect(ABC):
    """One gateway."""

    base: str
    generate_path = "/generate"
    chat_path = "/chat"

    def list_request(self) -> Request:
        return Request(method="GET", path=f"{self.base}/models")

    def generate_request(self, model: str, prompt: str, parameters: Document, *, stream: bool) -> Request:
        return self._post(self.generate_path, {"model": model, "prompt": prompt}, parameters, stream)

    def chat_request(self, model: str, messages: Messages, parameters: Document, *, stream: bool) -> Request:
        return self._post(self.chat_path, {"model": model, "messages": messages}, parameters, stream)

    def embed_request(self, model: str, input: Texts, parameters: Document) -> Request:
        return self._post("/embeddings", {"model": model, "input": input}, parameters, False)

    def _post(self, path: str, asked: Document, parameters: Document, stream: bool) -> Request:
        body = self.body(asked, parameters, stream=stream)
        return Request(method="POST", path=f"{self.base}{path}", body=body)

    @abstractmethod
    def body(self, asked: Document, parameters: Document, *, stream: bool) -> Document:
        """What is posted for `asked`, such as `{model, prompt}`, with `parameters` that may hold any of the gateway."""

    @abstractmethod
    def models(self, answer: Document) -> list[Model]: ...

    @abstractmethod
    def generation(self, answer: Document) -> Generation: ...

    @abstractmethod
    def chat(self, answer: Document) -> Chat: ...

    @abstractmethod
    def embeddings(self, answer: Document) -> Embeddings: ...

    def delta(self, line: str) -> Delta | None:
        """One line of a stream; None: it tells nothing. Raises UpstreamFailed when it tells of a failure, or nothing
        that this client understands."""
        document = self.document(line)
        return read(document, lambda told: self.piece(_good(told))) if document else None

    @abstractmethod
    def document(self, line: str) -> str:
        """The JSON in a line of a stream; empty when there is none."""

    @abstractmethod
    def piece(self, told: Document) -> Delta | None:
        """What a document of a stream tells; None: nothing."""


class Ollama(Dialect):
    """`/ollama/v1`."""

    base = "/ollama/v1"

    def body(self, asked: Document, parameters: Document, *, stream: bool) -> Document:
        return {**asked, **({"parameters": parameters} if parameters else {}), **({"stream": True} if stream else {})}

    def models(self, answer: Document) -> list[Model]:
        return [_model(one, "name") for one in answer["models"]]

    def generation(self, answer: Document) -> Generation:
        return Generation(model=answer["model"], text=answer["text"], usage=usage(answer))

    def chat(self, answer: Document) -> Chat:
        return Chat(model=answer["model"], message=answer["messages"][0], usage=usage(answer))

    def embeddings(self, answer: Document) -> Embeddings:
        return Embeddings(model=answer["model"], embeddings=answer["embeddings"], usage=usage(answer))

    def document(self, line: str) -> str:
        return line.strip()

    def piece(self, told: Document) -> Delta | None:
        said = (message.get("content") or "" for message in told.get("messages", ()))
        text = "".join((told.get("text") or "", *said))
        done = bool(told.get("done"))
        return Delta(text=text, usage=usage(told) if done else None, done=done)


class OpenAI(Dialect):
    """`/openai/v1`."""

    base = "/openai/v1"
    generate_path = "/completions"
    chat_path = "/chat/completions"

    def body(self, asked: Document, parameters: Document, *, stream: bool) -> Document:
        streaming = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        return {**asked, **parameters, **streaming}

    def models(self, answer: Document) -> list[Model]:
        return [_model(one, "id") for one in answer["data"]]

    def generation(self, answer: Document) -> Generation:
        return Generation(model=answer["model"], text=answer["choices"][0]["text"], usage=usage(answer))

    def chat(self, answer: Document) -> Chat:
        return Chat(model=answer["model"], message=answer["choices"][0]["message"], usage=usage(answer))

    def embeddings(self, answer: Document) -> Embeddings:
        vectors = [one["embedding"] for one in answer["data"]]
        return Embeddings(model=answer["model"], embeddings=vectors, usage=usage(answer))

    def document(self, line: str) -> str:
        data = line[5:].strip() if line.startswith("data:") else ""
        return "" if data == "[DONE]" else data

    def piece(self, told: Document) -> Delta | None:
        text = "".join(
            one.get("text") or (one.get("delta") or {}).get("content") or "" for one in told.get("choices", ())
        )
        if told.get("usage"):
            return Delta(text=text, usage=usage(told), done=True)
        return Delta(text=text) if text else None


_DIALECTS: Mapping[str, Dialect] = {"ollama": Ollama(), "openai": OpenAI()}


def dialect_of(gateway: str) -> Dialect:
    """The dialect of a gateway. Raises ValueError for one that this client does not speak to."""
    if gateway not in _DIALECTS:
        raise ValueError(f"there is no gateway {gateway!r} for this client: it must be one of {', '.join(_DIALECTS)}")
    return _DIALECTS[gateway]


def usage(answer: Document) -> Usage:
    """Of an answer of either gateway."""
    counts = answer.get("usage") or {}
    prompt, completion = (counts.get(name) or 0 for name in ("prompt_tokens", "completion_tokens"))
    total = counts.get("total_tokens")
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion if total is None else total,
    )


def _good(told: Document) -> Document:
    if told.get("error"):
        raise UpstreamFailed(message_of(told["error"]))
    return told


def _model(one: Document, key: str) -> Model:
    return Model(name=one[key], details={name: value for name, value in one.items() if name != key})
