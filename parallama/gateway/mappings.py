"""A family's own names for models: what each stands for, and the parameters that go with it.

An alias is looked up as Ollama looks up a name, and leads to a node's model in one step, never to another alias.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from parallama.gateway.api import Outbound
from parallama.gateway.names import canonical

_FIELDS = (
    *("options", "think", "format", "keep_alive", "truncate", "shift", "logprobs", "top_logprobs"),
    *("system", "template", "raw", "suffix", "dimensions"),
)
"""The fields of a native request that an operator may set; what is left is the client's question."""


class Section(BaseModel):
    """Refuses unknown keys and later changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)


class Parameter(Section):
    """A value for one field of the native request."""

    value: Any
    """As the node is to read it."""
    allow_override: bool = True
    """True: a default for clients that say nothing. False: whatever the client says, this is sent."""


def _parameter(given: Any) -> Any:
    """A value stands for a default."""
    if isinstance(given, dict) and "allow_override" in given and "value" not in given:
        raise ValueError("it lacks its value: {value: ..., allow_override: ...}")
    return given if isinstance(given, Parameter) or (isinstance(given, dict) and "value" in given) else {"value": given}


def _path(path: str) -> str:
    first, *_ = path.split(".")
    if not all(path.split(".")):
        raise ValueError("is no path: write names with dots between them, such as options.temperature")
    if first not in _FIELDS:
        raise ValueError(
            f"is no field of a native request; did you mean options.{path}? There are {', '.join(_FIELDS)}"
        )
    return path


_GO_DURATION = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+|[-+]?[0-9]+(\.[0-9]+)?")


def _duration(given: Any) -> Any:
    """Seconds, or a text that Go's time.ParseDuration takes."""
    if isinstance(given, bool) or (isinstance(given, str) and not _GO_DURATION.fullmatch(given)):
        raise ValueError("it must be seconds, or a duration such as 30m or 1h30m; negative: for ever")
    return given


ModelName = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")
]
"""The name of a model, as clients and nodes write it."""


class ModelMapping(Section):
    """What an alias stands for."""

    model: ModelName
    """The node's model."""
    num_ctx: Annotated[int, Field(ge=1)] | None = None
    """Tokens of context, where the client does not say; the same as the parameter `options.num_ctx`."""
    keep_alive: Annotated[str | int | float, BeforeValidator(_duration)] | None = None
    """How long the model stays loaded afterwards, where the client does not say: seconds, or a text such as `30m`."""
    parameters: Mapping[Annotated[str, AfterValidator(_path)], Annotated[Parameter, BeforeValidator(_parameter)]] = (
        Field(default_factory=dict)
    )
    """Values for fields of the native request by dotted path, such as `options.temperature`. A plain value fills in
    where the client says nothing; `{value: ..., allow_override: false}` is sent whatever the client says."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        """A name stands for a mapping without parameters."""
        return {"model": given} if isinstance(given, str) else given

    def settings(self) -> Mapping[str, Parameter]:
        """All parameters, those with a name of their own among them."""
        named = {"options.num_ctx": self.num_ctx, "keep_alive": self.keep_alive}
        return {
            **{path: Parameter(value=value) for path, value in named.items() if value is not None},
            **self.parameters,
        }


@dataclass(frozen=True, slots=True)
class _Target:
    model: str
    parameters: tuple[tuple[tuple[str, ...], Parameter], ...]


class Aliases:
    """The aliases of one family. Raises ValueError for two that are the same name to Ollama."""

    def __init__(self, mappings: Mapping[str, ModelMapping]) -> None:
        self.names: Mapping[str, str] = {alias: mapping.model for alias, mapping in mappings.items()}
        """Alias -> the node's name."""
        self._targets = {
            canonical(alias): _Target(
                mapping.model, tuple((tuple(path.split(".")), value) for path, value in mapping.settings().items())
            )
            for alias, mapping in mappings.items()
        }
        if len(self._targets) < len(mappings):
            names = [canonical(alias) for alias in mappings]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"these names are the same to Ollama: {', '.join(twice)}")

    def target(self, name: str) -> str:
        """The node's name for the client's, which is the same where there is no such alias."""
        found = self._targets.get(canonical(name)) if self._targets else None
        return found.model if found else name

    def resolve(self, outbound: Outbound, *, parameters: bool) -> Outbound:
        """`outbound` with the node's name, and with the alias's `parameters` if they are wanted; the very same where
        its model is no alias."""
        found = self._targets.get(canonical(outbound.model)) if self._targets and outbound.model else None
        if found is None or outbound.body is None:
            return outbound
        body = {**outbound.body, outbound.model_key: found.model}
        if parameters:
            for path, parameter in found.parameters:
                _fill(body, path, parameter, replaced=parameter.allow_override and path[0] in outbound.unasked)
        return replace(outbound, target=found.model, body=body, raw=None)


def _fill(body: dict[str, Any], path: tuple[str, ...], parameter: Parameter, *, replaced: bool) -> None:
    """Set the value at `path` of `body`, whose own members are not shared with anybody; deeper ones are copied."""
    *above, name = path
    for step in above:
        inner = body.get(step)
        if inner is not None and not isinstance(inner, dict) and parameter.allow_override:
            return
        body[step] = body = dict(inner) if isinstance(inner, dict) else {}
    if replaced or not parameter.allow_override or body.get(name) is None:
        body[name] = parameter.value
