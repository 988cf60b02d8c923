"""A fake Ollama: the whole native API on a real socket, with the bytes, the pace and the errors of a real one.

`parallama simulate` runs it, tests build on it (testing.fake_ollama). This module holds the routes and the
management of models; simulated.inference lets the models speak.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any

from parallama.simulated.access import admitted
from parallama.simulated.go import Fields, Refused, decode, encode
from parallama.simulated.http import Headers, Request, Responder
from parallama.simulated.inference import NDJSON, Inference, Line
from parallama.simulated.models import DEFAULT_MODELS, Model, Models, full_name, valid_name
from parallama.simulated.server import HttpServer

Handler = Callable[[Fields, Responder], Awaitable[None]]
Lines = Callable[[Fields], AsyncIterator[Line]]
Plain = Callable[[Responder], Awaitable[None]]

JSON = [("Content-Type", "application/json")]
PULL_STEPS = 10


class Simulator(HttpServer):
    """A fake Ollama. `async with Simulator() as node:` listens on a free port of 127.0.0.1; see `start` for others."""

    def __init__(
        self,
        models: Iterable[Model | str] = DEFAULT_MODELS,
        *,
        tokens_per_s: float = 0,
        answer_tokens: int | None = None,
        load_s: float = 0,
        parallel: int = 4,
        mark: bool = False,
        version: str = "0.0.0",
    ) -> None:
        """`tokens_per_s` 0: as fast as possible. `answer_tokens`: the length of every answer; None: 25 to 60.
        `parallel`: slots of each model (OLLAMA_NUM_PARALLEL). `mark`: `x-parallama-simulated: 1` on every answer."""
        super().__init__()
        self.marks: Headers = [("x-parallama-simulated", "1")] if mark else []
        self.models = Models(models, load_s=load_s, parallel=parallel)
        self._version = version
        self._pull_step_s = load_s / PULL_STEPS
        self._inference = Inference(self.models, tokens_per_s=tokens_per_s, answer_tokens=answer_tokens)
        self._gets: dict[str, tuple[str, Plain]] = {
            "/": ("GET, HEAD", self._root),
            "/api/version": ("GET, HEAD", self._get_version),
            "/api/status": ("GET", self._status),
            "/api/tags": ("GET, HEAD", self._tags),
            "/api/ps": ("GET", self._ps),
        }
        self._posts: dict[str, tuple[str, str, Handler]] = {
            "/api/generate": ("POST", "GenerateRequest", self._inference.generate),
            "/api/chat": ("POST", "ChatRequest", self._inference.chat),
            "/api/embed": ("POST", "EmbedRequest", self._inference.embed),
            "/api/embeddings": ("POST", "EmbeddingRequest", self._inference.embeddings),
            "/api/show": ("POST", "ShowRequest", self._show),
            "/api/pull": ("POST", "PullRequest", self._progress(self._pull)),
            "/api/push": ("POST", "PushRequest", self._progress(self._push)),
            "/api/create": ("POST", "CreateRequest", self._progress(self._create)),
            "/api/copy": ("POST", "CopyRequest", self._copy),
            "/api/delete": ("DELETE", "DeleteRequest", self._delete),
        }

    async def answer(self, request: Request, responder: Responder) -> None:
        try:
            if not admitted(request, self.host):
                await responder.document(403, b"", [])
            else:
                await self._route(request, responder)
        except Refused as refused:
            await responder.json({"error": str(refused)}, refused.status)

    async def _route(self, request: Request, responder: Responder) -> None:
        path, method = request.path, request.method
        if path.startswith("/api/blobs/") and path.count("/") == 3:
            await self._blob(request, responder)
        elif get := self._gets.get(path):
            allowed, plain = get
            await (plain(responder) if method in allowed.split(", ") else _not_allowed(responder, allowed))
        elif post := self._posts.get(path):
            allowed, struct, handler = post
            if method != allowed:
                await _not_allowed(responder, allowed)
            else:
                await handler(decode(await request.read(), struct), responder)
        elif (place := path.rstrip("/")) in {*self._gets, *self._posts}:
            await _moved(request, responder, place)
        else:
            await responder.text("404 page not found", 404)

    async def _root(self, responder: Responder) -> None:
        await responder.text("Ollama is running", mime="text/plain; charset=utf-8")

    async def _get_version(self, responder: Responder) -> None:
        await responder.json({"version": self._version})

    async def _status(self, responder: Responder) -> None:
        await responder.json({"cloud": {"disabled": False, "source": "none"}})

    async def _tags(self, responder: Responder) -> None:
        await responder.json({"models": self.models.tags()})

    async def _ps(self, responder: Responder) -> None:
        await responder.json({"models": self.models.loaded()})

    async def _show(self, fields: Fields, responder: Responder) -> None:
        if not (name := _name(fields)):
            raise Refused(400, "model is required")
        if (model := self.models.find(name)) is None:
            raise Refused(404, f"model '{full_name(name)}' not found")
        await responder.json(model.show())

    async def _copy(self, fields: Fields, responder: Responder) -> None:
        source, destination = fields.take("source", str, ""), fields.take("destination", str, "")
        for role, name in (("source", source), ("destination", destination)):
            if not valid_name(name):
                raise Refused(400, f'{role} "{name}" is invalid')
        if (model := self.models.find(source)) is None:
            raise Refused(404, f'model "{source}" not found')
        self.models.add(replace(model, name=destination, modified_ns=time.time_ns()))
        await responder.document(200, b"", [])

    async def _delete(self, fields: Fields, responder: Responder) -> None:
        name = _name(fields)
        if not valid_name(name):
            raise Refused(400, f'name "{name}" is invalid')
        if not self.models.find(name):
            raise Refused(404, f"model '{name}' not found")
        self.models.remove(name)
        await responder.document(200, b"", [])

    def _pull(self, fields: Fields) -> AsyncIterator[Line]:
        if not valid_name(name := _name(fields)):
            raise Refused(400, "invalid model name")
        return self._pulling(name)

    async def _pulling(self, name: str) -> AsyncIterator[Line]:
        yield {"status": "pulling manifest"}
        if "nosuch" in name.lower():
            raise Refused(500, "pull model manifest: file does not exist")
        model = self.models.find(name) or Model(name=name)
        for digest, size in model.layers():
            for step in range(PULL_STEPS + 1) if size > 10**6 else [PULL_STEPS]:
                await asyncio.sleep(self._pull_step_s)
                done = {"completed": size * step // PULL_STEPS} if step else {}
                yield {"status": f"pulling {digest[7:19]}", "digest": digest, "total": size, **done}
        for status in ("verifying sha256 digest", "writing manifest"):
            yield {"status": status}
        self.models.add(model)
        yield {"status": "success"}

    def _push(self, fields: Fields) -> AsyncIterator[Line]:
        if not valid_name(name := _name(fields)):
            raise Refused(400, "invalid model name")
        return self._pushing(name)

    async def _pushing(self, name: str) -> AsyncIterator[Line]:
        yield {"status": "retrieving manifest"}
        if (model := self.models.find(name)) is None:
            raise Refused(500, f"couldn't retrieve manifest for specified model {full_name(name)}")
        for digest, size in model.layers():
            yield {"status": f"pushing {digest[7:19]}", "digest": digest, "total": size, "completed": size}
        yield {"status": "pushing manifest"}
        yield {"status": "success"}

    def _create(self, fields: Fields) -> AsyncIterator[Line]:
        if not valid_name(name := _name(fields)):
            raise Refused(400, "invalid model name")
        return self._creating(name, fields)

    async def _creating(self, name: str, fields: Fields) -> AsyncIterator[Line]:
        base, files = fields.take("from", str, ""), fields.take("files", dict, {})
        if not base and not files:
            raise Refused(400, "neither 'from' or 'files' was specified")
        if base and not self.models.find(base):
            async for line in self._pulling(base):
                if line["status"] != "success":
                    yield line
        if missing := next((digest for digest in files.values() if digest not in self.models.blobs), None):
            raise Refused(400, f"open /models/blobs/{missing.replace(':', '-')}: no such file or directory")
        if files:
            yield {"status": "parsing GGUF"}
        model = self._made(name, base, fields)
        for number, (digest, _) in enumerate(model.layers()):
            yield {"status": f"{'creating new' if number else 'using existing'} layer {digest}"}
        yield {"status": "writing manifest"}
        self.models.add(model)
        yield {"status": "success"}

    def _made(self, name: str, base: str, fields: Fields) -> Model:
        model = (base and self.models.find(base)) or Model(name=name)
        given: dict[str, Any] = fields.take("parameters", dict, {})
        return replace(
            model,
            name=name,
            system=fields.take("system", str, model.system),
            template=fields.take("template", str, model.template),
            parameters=model.parameters | given,
            num_ctx=int(given.get("num_ctx", model.num_ctx)),
            modified_ns=time.time_ns(),
        )

    def _progress(self, lines: Lines) -> Handler:
        """The handler that sends `lines` one by one, or for `stream: false` only how it ended."""

        async def handler(fields: Fields, responder: Responder) -> None:
            stream = fields.take("stream", bool, True)
            # what is wrong with the request itself is raised here, before anything becomes a stream
            progress = lines(fields)
            await (_streamed(progress, responder) if stream else _summed_up(progress, responder))

        return handler

    async def _blob(self, request: Request, responder: Responder) -> None:
        digest = request.path.rpartition("/")[2].replace("%3A", ":")
        if request.method not in ("HEAD", "POST"):
            return await _not_allowed(responder, "HEAD, POST")
        if not re.fullmatch(r"sha256[:-][0-9a-fA-F]{64}", digest):
            raise Refused(400, "invalid digest format")
        digest = digest.replace("-", ":").lower()
        if digest in self.models.blobs:
            return await responder.document(200, b"", [])
        if request.method == "HEAD":
            raise Refused(404, f'blob "{digest}" not found')
        await self._take_blob(digest, request)
        await responder.document(201, b"", [])

    async def _take_blob(self, digest: str, request: Request) -> None:
        found, size = hashlib.sha256(), 0
        async for piece in request.pieces():
            found.update(piece)
            size += len(piece)
        if (got := f"sha256:{found.hexdigest()}") != digest:
            raise Refused(400, f'digest mismatch, expected "{digest}", got "{got}"')
        self.models.blobs[digest] = size


def _name(fields: Fields) -> str:
    return fields.take("model", str, "") or fields.take("name", str, "")


async def _streamed(progress: AsyncIterator[Line], responder: Responder) -> None:
    """Each line as it comes. An error keeps its status only where it comes first."""
    started = False
    try:
        async for line in progress:
            if not started:
                await responder.start(200, NDJSON)
                started = True
            await responder.send(encode(line) + b"\n")
    except Refused as refused:
        error = encode({"error": str(refused)})
        if not started:
            await responder.start(refused.status, JSON)
        await responder.send(error + b"\n" if started else error)
    await responder.finish()


async def _summed_up(progress: AsyncIterator[Line], responder: Responder) -> None:
    """The last line alone, once there is one."""
    status, last = 200, Line()
    try:
        async for line in progress:
            last = line
    except Refused as refused:
        status, last = refused.status, {"error": str(refused)}
    await responder.document(status, encode(last), JSON)


async def _not_allowed(responder: Responder, allowed: str) -> None:
    await responder.text("405 method not allowed", 405, "text/plain", ("Allow", allowed))


async def _moved(request: Request, responder: Responder, place: str) -> None:
    """gin's redirect for a trailing slash; a GET gets a little page with it."""
    if request.method == "GET":
        page = f'<a href="{place}">Moved Permanently</a>.\n\n'
        await responder.text(page, 301, "text/html; charset=utf-8", ("Location", place))
    else:
        await responder.document(307, b"", [("Location", place)])
