"""The recordings as cases for the gateway: which are replayed, what is sent, and what is to be expected of each."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import recorded

from parallama.testing import EVERY_BYTE, Answer, load_recording
from parallama.testing import Recording as Wire

FOLDER = Path(recorded.__file__).parent / "recordings"

_LEFT = "the client left: there is no whole answer to compare"
_SYNTAX = "a case of HTTP's grammar or of several requests on one connection, not of the relay"
_SITE = "Ollama's rule for browsers; the gateway has keys instead"

NOT_REPLAYED = {
    "budget-num-predict-0-never-ends": _LEFT,
    "http-length-only-half-close": _LEFT,
    "leave-loading": _LEFT,
    "leave-queued": _LEFT,
    "leave-stream": _LEFT,
    "pull-leave": _LEFT,
    "pull-two-leader-leaves": _LEFT,
    "http-11-no-host": _SYNTAX,
    "http-error-then-reuse": _SYNTAX,
    "http-h2-preface": _SYNTAX,
    "http-huge-header": _SYNTAX,
    "http-length-and-chunked": _SYNTAX,
    "http-length-too-long": _SYNTAX,
    "http-pipelined-two": _SYNTAX,
    "http-two-lengths": _SYNTAX,
    "host-foreign": _SITE,
    "origin-foreign": _SITE,
    "preflight-local": _SITE,
    "http-absolute-form": "refused here: it names another host than its Host header",
    "cloud-name": "refused here: the request would leave the node",
    "root-get": "the root tells of the gateway itself",
}

ANSWERED_HERE = (
    *("generate-bad-json", "generate-empty-body", "generate-no-model", "show-empty", "pull-empty"),
    *("json-bom", "json-num-predict-1e400", "json-options-string", "json-stream-string", "http-gzip-body"),
    *("generate-get", "http-404-unread-body", "root-head", "trailing-slash", "unknown-path"),
)

BROKEN = ("repeat-chat", "repeat-generate", "server-killed")
"""Streams without their last line: the answer, then one error line."""

READ_ANEW = (
    *("json-invalid-utf8-model", "json-model-then-null", "json-model-twice", "json-model-twice-case"),
    *("json-num-predict-then-null", "json-num-predict-twice", "json-options-long-s", "json-options-then-null"),
    *("json-options-then-upper", "json-options-twice-disjoint", "json-options-twice-same", "json-options-upper"),
    "json-two-documents",
)
"""Bodies that two readers may read in two ways: the node gets our encoding of what Ollama understood."""

NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
PASSED_ON = [name for name in NAMES if name not in NOT_REPLAYED and name not in ANSWERED_HERE]

OPERATIONS = {
    **{f"/api/{name}": "list" for name in ("tags", "ps", "version")},
    **{f"/api/{name}": "manage" for name in ("pull", "push", "create", "copy", "delete")},
    **{"/api/generate": "generate", "/api/chat": "chat", "/api/embed": "embed", "/api/embeddings": "embed"},
    "/api/show": "show",
}


@dataclass
class Case:
    """One recording, and what is to be expected of the gateway for it."""

    name: str

    @cached_property
    def wire(self) -> Wire:
        return load_recording(FOLDER / f"{self.name}.json")

    @cached_property
    def asked(self) -> recorded.Recording:
        return recorded.recording(self.name)

    @cached_property
    def body(self) -> bytes:
        """Of the request, without its framing."""
        if self.name == "http-404-unread-body":
            return b"x" * 400_000
        if "Transfer-Encoding" not in self.asked.headers:
            return self.asked.body
        return b"".join(self.asked.body.split(b"\r\n")[1::2])

    def request(self, key: str) -> tuple[bytes, bytes]:
        """Head and body as they were recorded, with a key and the name of the case."""
        lines = self.wire.request_head.decode().removesuffix("\r\n\r\n").split("\r\n")
        kept = [line for line in lines if not line.lower().startswith(("authorization:", "content-length:"))]
        kept += [f"Authorization: Bearer {key}", f"X-Request-ID: {self.name}"]
        if "Transfer-Encoding" in self.asked.headers:
            return _head(kept), self.asked.body
        if "Content-Length" in self.asked.headers:
            kept.append(f"Content-Length: {len(self.body)}")
        return _head(kept), self.body

    @property
    def path(self) -> str:
        return "/api/" + self.asked.path.partition("/api/")[2]

    @property
    def last(self) -> dict[str, Any]:
        """The last message of the answer, or its one document; empty: it had none."""
        return self.asked.messages[-1] if self.wire.body else {}

    @property
    def streamed(self) -> bool:
        return ("Content-Type", "application/x-ndjson") in self.wire.headers

    @property
    def model(self) -> str | None:
        """The name as Ollama understood it; its generations echo it."""
        if "model" in self.last or not self.body.startswith(b"{"):
            return self.last.get("model")
        sent: dict[str, str] = json.loads(self.body.decode(errors="replace"))
        return sent.get("model") or sent.get("source")

    def end(self) -> tuple[int, str, str | None]:
        """Status, outcome and error of the row."""
        status = self.wire.status or 0
        if status >= 400:
            return status, "refused" if status < 500 else "failed", "node_error"
        failed = self.name in BROKEN or "error" in self.last or self.last.get("done") is False
        return (502, "failed", "upstream_failed") if failed else (status, "ok", None)

    def row(self) -> dict[str, Any]:
        """The columns that the recording determines."""
        status, outcome, error = self.end()
        operation = OPERATIONS.get(self.path, "manage")
        known: dict[str, Any] = {
            "gateway": "ollama",
            "operation": operation,
            "model_asked": self.model,
            "model": self.model,
        }
        known |= {"status": status, "outcome": outcome, "error": error}
        known |= {"streamed": self.streamed, "request_bytes": len(self.body), "username": "root", "node": "node-1"}
        if not self.is_cut:
            counts = (self.last.get("prompt_eval_count"), self.last.get("eval_count"))
            known |= {"prompt_tokens": counts[0], "output_tokens": counts[1], "estimated": False}
        return known

    @property
    def is_cut(self) -> bool:
        """Whether a generation began and ended before the node counted it."""
        return self.end()[2] == "upstream_failed" and "done" in self.asked.messages[0]

    @property
    def least_output(self) -> int:
        """One token for each line that brought text."""
        return sum("error" not in message for message in self.asked.messages)


def _head(lines: Sequence[str]) -> bytes:
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def ways_to_cut(wire: Wire) -> list[Answer]:
    """At once, byte by byte, as it was written, and twice at random."""
    answer = Answer.of(wire)
    ways: list[tuple[list[bytes], Sequence[int]]] = [
        ([wire.response_bytes()], ()),
        ([wire.response_bytes()], EVERY_BYTE),
        (wire.pieces(), ()),
    ]
    for seed in (1, 2):
        size = len(wire.response_bytes())
        ways.append(([wire.response_bytes()], sorted(random.Random(seed).sample(range(size), min(30, size // 2)))))
    return [Answer(raw=raw, raw_ends=answer.raw_ends, cuts=cuts) for raw, cuts in ways]
