"""Answers of `/api/chat` that dialects must bring through: whole ones, broken ones, and refusals."""

from __future__ import annotations

from typing import Any

from parallama.testing import Transcript


def said(content: str = "", **more: Any) -> dict[str, Any]:
    """A message of a node; `thinking` and `tool_calls` go into its inner one."""
    inner = {key: more.pop(key) for key in ("thinking", "tool_calls") if key in more}
    return {"message": {"role": "assistant", "content": content, **inner}, "done": False, **more}


def end(content: str = "", **more: Any) -> dict[str, Any]:
    return {"done_reason": "stop", "prompt_eval_count": 7, "eval_count": 5, **said(content, **more), "done": True}


def asks(name: str, arguments: Any, **more: Any) -> dict[str, Any]:
    return {"function": {"index": 0, "name": name, "arguments": arguments}, **more}


TWO = [asks("weather", {"city": "Paris"}, id=""), asks("time", {})]
LOGPROBS = [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}, {"token": "\ud7ff", "logprob": -1}]
WHOLE: dict[str, Transcript] = {
    "text": Transcript.stream(said("Grüße, "), said("Welt 🌍"), end()),
    "separators": Transcript.stream(said("\x85\u2028\u2029\x7f"), said('data: [DONE]\n\n{"error":"none"}\r'), end()),
    "thinking": Transcript.stream(said(thinking="Let me "), said(thinking="see."), said("Blue."), end()),
    "thinking and text in one": Transcript.stream(said("Blue", thinking="Hm."), end()),
    "thinking only": Transcript.stream(said(thinking="Hm."), end(done_reason="length")),
    "two calls, both number 0": Transcript.stream(said(tool_calls=TWO), end()),
    "calls midway": Transcript.stream(said("Before. "), said(tool_calls=TWO), said(" After."), end()),
    "calls one by one": Transcript.stream(said(tool_calls=TWO[:1]), said(tool_calls=TWO[1:]), end()),
    "calls at the end": Transcript.stream(end(tool_calls=TWO)),
    "text at the end": Transcript.stream(said("Blue"), end(" sky.")),
    "text and calls at the end": Transcript.stream(end("See: ", tool_calls=TWO)),
    "empty pieces": Transcript.stream(said(), said("a"), said(), end()),
    "an empty answer": Transcript.stream(end()),
    "cut": Transcript.stream(said("Blue"), end(done_reason="length")),
    "calls, then cut": Transcript.stream(said(tool_calls=TWO), end(done_reason="length")),
    "loaded": Transcript.document({"done": True, "done_reason": "load", "message": {"content": ""}}),
    "unloaded": Transcript.document({"done": True, "done_reason": "unload"}),
    "no reason": Transcript.stream(said("a"), {"done": True}),
    "log probabilities": Transcript.stream(said("Hi", logprobs=LOGPROBS), said(logprobs=LOGPROBS[:1]), end()),
    "strange calls": Transcript.stream(
        said(tool_calls=[None, {}, {"function": 5}, asks("a", '{"a":1}'), asks("", None)]), end()
    ),
}
BROKEN: dict[str, Transcript] = {
    "an error first": Transcript.stream({"error": "out of memory"}),
    "an error midway": Transcript.stream(said("Blue"), {"error": "out of memory"}),
    "an error behind calls": Transcript.stream(said(tool_calls=TWO), {"error": "out of memory"}),
    "no end": Transcript.stream(said("Blue")),
    "nothing": Transcript(body=b""),
    "no JSON": Transcript(body=Transcript.stream(said("Blue")).body + b"<html>\n"),
    "broken off": Transcript(body=WHOLE["text"].body[:80], complete=False),
    "broken off behind its end": Transcript(body=WHOLE["text"].body, complete=False),
}
REFUSED: dict[str, Transcript] = {
    "no such model": Transcript.document({"error": "model 'x' not found"}, 404),
    "busy": Transcript.document({"error": "server busy"}, 503),
    "no tools": Transcript.document({"error": "does not support tools"}, 400),
}
