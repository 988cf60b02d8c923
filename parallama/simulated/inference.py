"""/api/generate, /api/chat, /api/embed and /api/embeddings of the simulator: from a request to its lines.

The words come from simulated.text, the bytes go through simulated.http; this is the order of things between them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from parallama.simulated.go import Fields, Refused, duration_ns, encode
from parallama.simulated.http import Responder
from parallama.simulated.models import (
    DEFAULT_KEEP_ALIVE_NS,
    Model,
    Models,
    Runner,
    full_name,
    timestamp,
    valid_name,
)
from parallama.simulated.plan import context_of, inputs, plan, prompt_tokens
from parallama.simulated.text import Said, count_tokens, rng, vector

NDJSON = [("Content-Type", "application/x-ndjson")]
PROMPT_SPEED = 20
"""How many times faster a prompt is read than an answer is written."""

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Task:
    """One generation, as asked for and as planned."""

    asked: str
    """The model's name as the client wrote it; echoed in every line."""
    model: Model
    fields: Fields
    said: Said
    prompt_tokens: int
    part: Callable[[Said], Line]
    """The members of a line that hold what was said."""
    context: list[int]
    """What /api/generate returns in its last line; empty: left out."""

    def facts(self, *, total: int, load: int, prompt: int, answer: int) -> Line:
        """The members of the last line; all spans in nanoseconds, and never 0, as that would be left out."""
        return {
            "done": True,
            "done_reason": self.said.reason,
            **({"context": self.context} if self.context else {}),
            "total_duration": total,
            "load_duration": load,
            "prompt_eval_count": self.prompt_tokens,
            "prompt_eval_duration": max(prompt, 1),
            "eval_count": self.said.eval_count,
            "eval_duration": max(answer, 1),
        }


class Inference:
    """Runs generations on the models of one node."""

    def __init__(self, models: Models, *, tokens_per_s: float, answer_tokens: int | None) -> None:
        self._models = models
        self._tokens_per_s = tokens_per_s
        self._answer_tokens = answer_tokens

    async def generate(self, fields: Fields, responder: Responder) -> None:
        """POST /api/generate."""
        asked, prompt = fields.take("model", str, ""), fields.take("prompt", str, "")
        model = self._find(asked, f"model '{asked}' not found")
        if not prompt:
            return await self._load_only(model, "generate", fields, responder, _generate_part(Said()))
        _require(model, "generate", asked)
        raw = fields.take("raw", bool, False)
        if raw and any(fields.get(name) for name in ("template", "system", "context")):
            raise Refused(400, "raw mode does not support template, system, or context")
        said = plan(model, fields, [prompt], [], self._answer_tokens)
        tokens = prompt_tokens(model, fields, f"{fields.take('system', str, '')} {prompt}", 1 if raw else 4)
        dice = rng(model.digest, prompt)
        context = [] if raw else [dice.randrange(1000) for _ in range(tokens + len(said.content))]
        await self._run(Task(asked, model, fields, said, tokens, _generate_part, context), responder)

    async def chat(self, fields: Fields, responder: Responder) -> None:
        """POST /api/chat."""
        asked, messages = fields.take("model", str, ""), fields.objects("messages")
        if not asked:
            raise Refused(400, "model is required")
        texts = [message.take("content", str, "") for message in messages]
        tools: list[Any] = fields.take("tools", list, [])
        model = self._find(asked, f"model '{asked}' not found")
        if not messages:
            return await self._load_only(model, "chat", fields, responder, _chat_part(Said()))
        _require(model, "chat", asked)
        if tools and "tools" not in model.capabilities:
            raise Refused(400, f"registry.ollama.ai/library/{full_name(asked)} does not support tools")
        answered = messages[-1].take("role", str, "").lower() == "tool"
        said = plan(model, fields, texts, [] if answered else tools, self._answer_tokens)
        tokens = prompt_tokens(model, fields, " ".join(texts), 4 * len(messages) + 1)
        await self._run(Task(asked, model, fields, said, tokens, _chat_part, []), responder)

    async def embed(self, fields: Fields, responder: Responder) -> None:
        """POST /api/embed."""
        asked = fields.take("model", str, "")
        texts = inputs(fields.get("input"))
        dimensions = fields.take("dimensions", int, 0)
        model = self._find_embedding(asked)
        start = time.perf_counter_ns()
        async with self._running(model, fields) as (_, load_ns):
            vectors = [vector(model.digest, text, model.embedding_length, dimensions) for text in texts]
        if not texts:
            return await responder.json({"model": asked, "embeddings": []})
        total = time.perf_counter_ns() - start
        counts = sum(count_tokens(text) + 2 for text in texts)
        spans = {"total_duration": total, "load_duration": load_ns, "prompt_eval_count": counts}
        await responder.json({"model": asked, "embeddings": vectors, **spans})

    async def embeddings(self, fields: Fields, responder: Responder) -> None:
        """POST /api/embeddings, the old one."""
        if not (asked := fields.take("model", str, "")):
            raise Refused(400, "model is required")
        model = self._find_embedding(asked)
        prompt = fields.take("prompt", str, "")
        async with self._running(model, fields):
            numbers = vector(model.digest, prompt, model.embedding_length) if prompt else []
        await responder.json({"embedding": numbers})

    def _find(self, asked: str, missing: str) -> Model:
        if asked and not valid_name(asked):
            raise Refused(400, "invalid model name")
        if (model := self._models.find(asked)) is None:
            raise Refused(404, missing)
        return model

    def _find_embedding(self, asked: str) -> Model:
        model = self._find(asked, f'model "{asked}" not found, try pulling it first' if asked else "model '' not found")
        if "embedding" not in model.capabilities:
            raise Refused(501, "This server does not support embeddings. Start it with `--embeddings`")
        return model

    async def _load_only(self, model: Model, use: str, fields: Fields, responder: Responder, part: Line) -> None:
        """A request without a prompt: loads the model, or with `keep_alive` 0 lets it go. Needs no slot."""
        asked, keep_alive = fields.take("model", str, ""), _keep_alive(fields)
        if keep_alive:
            _require(model, use, asked)
            async with self._models.running(model, context_of(model, fields), keep_alive):
                pass
        else:
            self._models.unload(model)
        head = {"model": asked, "created_at": timestamp(time.time_ns())}
        await responder.json({**head, **part, "done": True, "done_reason": "load" if keep_alive else "unload"})

    @asynccontextmanager
    async def _running(self, model: Model, fields: Fields) -> AsyncIterator[tuple[Runner, int]]:
        """The model loaded and one slot of it taken, with the nanoseconds that it took."""
        start = time.perf_counter_ns()
        async with self._models.running(model, context_of(model, fields), _keep_alive(fields)) as runner:
            async with runner.slots:
                yield runner, max(time.perf_counter_ns() - start, 1)

    async def _run(self, task: Task, responder: Responder) -> None:
        stream = task.fields.take("stream", bool, True)
        begun = time.perf_counter_ns()
        async with self._running(task.model, task.fields) as (_, load_ns):
            read = time.perf_counter_ns()
            await self._pause(task.prompt_tokens / PROMPT_SPEED)
            write = time.perf_counter_ns()
            if stream:
                await responder.start(200, NDJSON)
            async for line in self._lines(task):
                if stream:
                    await responder.send(encode(line) + b"\n")
            end = time.perf_counter_ns()
        facts = task.facts(total=end - begun, load=load_ns, prompt=write - read, answer=end - write)
        if stream:
            await responder.send(encode(_line(task, Said()) | facts) + b"\n")
            await responder.finish()
        else:
            await responder.json(_line(task, task.said) | facts)

    async def _lines(self, task: Task) -> AsyncIterator[Line]:
        """Every line but the last, in the model's own time."""
        due = time.perf_counter()
        for one in task.said.apart():
            due += 1 / self._tokens_per_s if self._tokens_per_s else 0
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            yield _line(task, one) | {"done": False}

    async def _pause(self, tokens: float) -> None:
        await asyncio.sleep(tokens / self._tokens_per_s if self._tokens_per_s else 0)


def _line(task: Task, said: Said) -> Line:
    return {"model": task.asked, "created_at": timestamp(time.time_ns()), **task.part(said)}


def _generate_part(said: Said) -> Line:
    thinking = {"thinking": "".join(said.thinking)} if said.thinking else {}
    return {"response": "".join(said.content), **thinking}


def _chat_part(said: Said) -> Line:
    message: Line = {"role": "assistant", "content": "".join(said.content)}
    message |= {"thinking": "".join(said.thinking)} if said.thinking else {}
    message |= {"tool_calls": said.calls} if said.calls else {}
    return {"message": message}


def _require(model: Model, use: str, asked: str) -> None:
    if "completion" not in model.capabilities:
        raise Refused(400, f'"{asked}" does not support {use}')


def _keep_alive(fields: Fields) -> int:
    return duration_ns(fields.get("keep_alive"), DEFAULT_KEEP_ALIVE_NS)
