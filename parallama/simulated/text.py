"""What the simulated models say: pure functions from a request's words to tokens and vectors.

The same model, prompt and seed always give the same text. A token is a word with the space before it.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WORDS = re.findall(
    r"\w+",
    """
a about after air all and answer any are as at because before between big blue book both but can city come day
do each earth every few find first for from gateway give go good green hand have here high home how if in into
is it just kind know large last leave light like line little long look make many may mean more most mother
mountain move much must name near never new next night no not now number of often old on one only open or other
our out over own part people place plain queue read right river round same say sea sentence set show side sky
small so some sound still story sun such take tell than that the their them then there these they thing think
this three time to token tree turn two under up us very voice wait walk warm water way we well what when where
which while white who why wide will wind with word work world would write year you
""",
)
THOUGHT = "Let me think about that."


@dataclass(slots=True)
class Said:
    """What a model says to one prompt, token by token."""

    thinking: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    """Tool calls as `{"id", "function": {"index", "name", "arguments"}}`."""
    reason: str = "stop"
    """`stop` or `length`."""
    eval_count: int = 0
    """All generated tokens, the end token and a matched stop text among them."""

    def apart(self) -> list[Said]:
        """One Said for every token, the tool calls together in the last."""
        spoken = [Said(thinking=[token]) for token in self.thinking] + [Said(content=[token]) for token in self.content]
        return [*spoken, Said(calls=self.calls)] if self.calls else spoken


def count_tokens(text: str) -> int:
    """Words and marks: what a tokenizer would roughly count."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def tokens_of(text: str) -> list[str]:
    """`text` in pieces that join to it again."""
    return re.findall(r"\s*\w+|\s*[^\w\s]|\s+$", text)


def rng(*seed: object) -> random.Random:
    """A generator that depends on nothing but `seed`."""
    return random.Random(hashlib.sha256(repr(seed).encode()).digest())  # noqa: S311


def prose(model: str, prompt: str, seed: int, length: int | None) -> list[str]:
    """An answer in plain words: `length` tokens, or as many as come (25 to 60)."""
    dice = rng(model, prompt, seed)
    tokens = tokens_of(f"This is a simulated answer from {model}.")
    length = length or dice.randint(25, 60)
    while len(tokens) < length - 1:
        words = [dice.choice(WORDS) for _ in range(dice.randint(4, 9))]
        tokens += [f" {words[0].capitalize()}", *(f" {word}" for word in words[1:]), "."]
    return [*tokens[: length - 1], "."] if len(tokens) >= length > 1 else tokens[:length]


def instance(schema: Mapping[str, Any], dice: random.Random) -> Any:
    """A small value that fits a JSON schema of the kinds that Ollama keeps."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            return {key: instance(part, dice) for key, part in schema.get("properties", {}).items()}
        case "array":
            return [instance(schema.get("items", {}), dice)]
        case "integer" | "number":
            return dice.randint(1, 99)
        case "boolean":
            return True
        case "null":
            return None
    return dice.choice(WORDS)


def tool_calls(tools: Sequence[Mapping[str, Any]], prompt: str, dice: random.Random) -> list[dict[str, Any]]:
    """A call of the first tool that `prompt` names, or of the first one where it says "tool"; none otherwise."""
    functions = [tool.get("function", {}) for tool in tools]
    named = [f for f in functions if f.get("name") and f["name"].lower() in prompt.lower()]
    asked = named[:1] or (functions[:1] if re.search(r"\btools?\b", prompt, re.I) else [])
    return [
        {
            "id": "call_" + "".join(dice.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=8)),
            "function": {
                "index": index,
                "name": function.get("name", ""),
                "arguments": instance({"type": "object", **(function.get("parameters") or {})}, dice),
            },
        }
        for index, function in enumerate(asked)
    ]


def limit_of(num_predict: int, num_ctx: int) -> int | None:
    """The most tokens that may be generated; None: no bound (ollama-api section 15: 0 is no bound at all)."""
    bound = 10 * num_ctx
    return None if num_predict == 0 else num_predict if 0 < num_predict < bound else bound


def cut(said: Said, limit: int | None, stops: Sequence[str]) -> Said:
    """`said` as the stop texts and the bound leave it, counted."""
    text = "".join(said.content)
    at = min((place for stop in stops if stop and (place := text.find(stop)) >= 0), default=len(text))
    said.content = _first_chars(said.content, at)
    thought = len(said.thinking)
    said.eval_count = thought + len(said.content) + 10 * len(said.calls) + 1
    if limit is not None and said.eval_count > limit:
        said.thinking = said.thinking[:limit]
        said.content = said.content[: max(0, limit - thought)]
        said.calls = []  # a call that is cut vanishes without a word
        said.reason, said.eval_count = "length", limit
    return said


def _first_chars(tokens: list[str], count: int) -> list[str]:
    kept = []
    for token in tokens:
        if count <= 0:
            break
        kept.append(token[:count])
        count -= len(token)
    return kept


def vector(model: str, text: str, size: int, dimensions: int | None = None) -> list[float]:
    """An embedding of length 1: of `size` numbers, or of its first `dimensions`, scaled again."""
    dice = rng(model, text)
    numbers = [dice.gauss(0, 1) for _ in range(size)]
    numbers = numbers[:dimensions] if dimensions and 0 < dimensions < size else numbers
    norm = math.sqrt(sum(x * x for x in numbers)) or 1.0
    return [float(f"{x / norm:.8g}") for x in numbers]
