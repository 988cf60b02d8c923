"""The recordings of a real Ollama as values: what was asked, and what came."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parallama.gateway.api import Body, Codec, Gateway, Head, Inbound, Route

_FOLDER = Path(__file__).parent / "recordings"
NAMES = sorted(path.stem for path in _FOLDER.glob("*.json"))
_DEEP = b'{"model":"wordy","prompt":"Why?","x":' + b"[" * 9998 + b"]" * 9998 + b"}"
_TOO_LONG_TO_KEEP = {"json-deep": _DEEP, "chat-truncate-off-too-long": b'{"model":"wordy","messages":[]}'}


@dataclass(frozen=True)
class Recording:
    name: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    head: Head | None
    chunks: list[bytes]
    end: str

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The answer's lines, or its one document."""
        return [json.loads(line) for line in self.data.split(b"\n") if line]


class NoModels:
    """Nothing is known of any model, but perhaps the context of all of them, and aliases."""

    def __init__(self, context: int | None = None, aliases: Mapping[str, str] | None = None) -> None:
        self._context = context
        self._aliases = aliases or {}

    def exists(self, name: str) -> bool:
        return True

    def capabilities(self, name: str) -> frozenset[str]:
        return frozenset()

    def context(self, name: str) -> int | None:
        return self._context

    def longest_context(self, name: str) -> int | None:
        return None

    def aliases(self) -> Mapping[str, str]:
        return self._aliases

    def limited(self) -> bool:
        return False

    def usable(self, name: str) -> bool:
        return True

    def tokens(self, name: str, text_bytes: int) -> int:
        return max(1, text_bytes // 4)


def recording(name: str) -> Recording:
    kept = json.loads((_FOLDER / f"{name}.json").read_text())
    lines = kept["request"]["head"].split("\r\n")
    method, path, _version = lines[0].split(" ", 2)
    response = kept["response"]
    return Recording(
        name=name,
        method=method,
        path=path,
        headers=dict(line.split(": ", 1) for line in lines[1:] if line),
        body=_TOO_LONG_TO_KEEP.get(name) or _bytes(kept["request"]["body"]),
        head=_head(response["head"]),
        chunks=[_bytes(chunk) for _at, chunk in response["chunks"]],
        end=response["end"],
    )


def _bytes(data: Any) -> bytes:
    if isinstance(data, dict):
        return base64.b64decode(data["base64"])
    return (data or "").encode()


def _head(text: str | None) -> Head | None:
    if text is None:
        return None
    status, *headers = text.rstrip("\r\n").split("\r\n")
    pairs = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in headers))
    return Head(int(status.split(" ")[1]), pairs)


def find_route(gateway: Gateway, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """The route for a path below the mount, with the variables of the path."""
    for route in gateway.routes():
        pattern, given = route.path.split("/"), path.split("/")
        if route.method != method or len(pattern) != len(given):
            continue
        pairs = list(zip(pattern, given, strict=True))
        if all(part == value or part.startswith("{") for part, value in pairs):
            return route, {part.strip("{}"): value for part, value in pairs if part.startswith("{")}
    return None


def open_codec(
    gateway: Gateway,
    method: str,
    path: str,
    body: bytes = b"",
    context: int | None = None,
    *,
    aliases: Mapping[str, str] | None = None,
    default_model: str | None = None,
) -> Codec:
    """Open the route for `path`, which lies below the gateway's last mount."""
    found = find_route(gateway, method, path)
    assert found is not None, f"no route for {method} {path}"
    route, params = found
    return route.open(
        Inbound(
            id="0190a5d6c3f07abc8def0123456789ab",
            at=1_720_000_000,
            method=method,
            mount=gateway.paths[-1],
            path=path,
            params=params,
            query={},
            headers={},
            raw=body if route.body is Body.JSON else b"",
            models=NoModels(context, aliases),
            default_model=default_model,
        )
    )


def fragmentations(data: bytes, count: int = 200) -> Iterator[list[bytes]]:
    """Ways to cut `data`: whole, byte by byte, and `count` at random, the same ones in every run."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    choice = random.Random(len(data))
    for _ in range(count):
        cuts = sorted(choice.choices(range(len(data) + 1), k=choice.randint(1, 12)))
        yield [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
