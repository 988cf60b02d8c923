"""The parameters that several endpoints share, as Ollama has them.

Only what the client sent goes to the node, so that what the Modelfile says holds otherwise.
"""

from __future__ import annotations

from typing import Any, Final

from parallama.errors import BadRequest
from parallama.gateway.api import Inbound
from parallama.gateway.fields import Fields, shown

MAX_CHOICES = 16
"""Of `n`: each is an answer of its own from the node."""

_LAST_SEED = 2**63 - MAX_CHOICES
"""Every further choice counts one up from the seed, and the node reads 64 bits."""

_THINK: Final[dict[str, bool | str]] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "max": "max",
    "xhigh": "max",
    "ultra": "max",
}


def options(given: Fields) -> dict[str, Any]:
    """The members of `options` for temperature, top_p, seed, stop and the penalties, of those that were sent."""
    found = {
        "temperature": given.number("temperature", least=0, most=2),
        "top_p": given.number("top_p", least=0, most=1),
        "frequency_penalty": given.number("frequency_penalty", least=-2, most=2),
        "presence_penalty": given.number("presence_penalty", least=-2, most=2),
        "seed": given.integer("seed", most=_LAST_SEED),
        "stop": _stop(given),
    }
    return {name: value for name, value in found.items() if value is not None}


def _stop(given: Fields) -> list[str] | None:
    # an empty text is in every answer: the node would stop at once; an empty list would undo the Modelfile's stops
    return [text for text in given.strings("stop") or () if text] or None


def output_limit(given: Fields, *names: str) -> int | None:
    """Tokens that the answer may have, for `options.num_predict`: the first of `names` that was sent, at least 1."""
    name = next((name for name in names if name in given), None)
    return given.integer(name, least=1) if name else None


def think(effort: str | None, inbound: Inbound, model: str, param: str = "reasoning_effort") -> bool | str | None:
    """`think` for an effort to reason; None: nothing was asked, or the model is known not to think.

    `param` names the effort in the BadRequest for a word that is none.
    """
    if effort is None:
        return None
    if effort not in _THINK:
        right = f"it must be one of {', '.join(_THINK)}"
        raise BadRequest(f"{param}: {shown(effort)!r} is wrong; {right}", code="invalid_parameter", param=param)
    known = inbound.models.capabilities(model)
    return _THINK[effort] if "thinking" in known or not known else None


def format(wanted: Fields | None, *, flat: bool = False) -> Any:
    """`format` for a format of the answer: "json", a schema, or None for plain text.

    `wanted` is `response_format`, whose schema lies in `json_schema`, or (`flat`) `text.format`, which holds it itself.
    """
    kind = wanted.string("type", required=True, among=("text", "json_object", "json_schema")) if wanted else None
    if wanted is None or kind == "text":
        return None
    if kind == "json_object":
        return "json"
    holder = wanted if flat else wanted.object("json_schema", required=True)
    return holder.object("schema", required=True).values


def end_user(given: Fields) -> str | None:
    """Whom the client serves: `safety_identifier`, or `user`, as it was called before; None: it does not say."""
    found = [given.any(name) for name in ("safety_identifier", "user")]
    return next((name for name in found if isinstance(name, str) and name), None)
