"""The typed options of a plugin: made from what the operator set, and errors that say what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from parallama.errors import ConfigError
from parallama.gateway.api import Gateway, Route


def option_names(gateway: type[Gateway]) -> list[str]:
    """The names of the options that a gateway takes."""
    return [name for name in get_type_hints(gateway.Options) if not name.startswith(("_", "model_"))]


def make_gateway(gateway: type[Gateway], given: Mapping[str, Any]) -> Gateway:
    """A gateway with those of the given options that it takes; the other ones are for its family's other classes.
    Raises ConfigError for a wrong value."""
    known = option_names(gateway)
    with _anything(gateway.name, f"{gateway.__name__} cannot be made"):
        try:
            options: Any = TypeAdapter(gateway.Options).validate_python({k: v for k, v in given.items() if k in known})
        except ValidationError as error:
            raise ConfigError(f"gateways.{gateway.name}.{first_error(error)}") from None
        made = gateway(options)
        if not isinstance(getattr(made, "options", None), gateway.Options):
            raise ConfigError(
                f"gateways.{gateway.name}: {gateway.__name__}.__init__ must call super().__init__(options)"
            )
        TypeAdapter(gateway.Options).dump_python(made.options, mode="json")  # as those who look after it see them
        return made


def routes_of(gateway: Gateway) -> Mapping[tuple[str, str], Route]:
    """By method and path. Raises ConfigError when the gateway cannot say them with its options."""
    with _anything(gateway.name, f"{type(gateway).__name__} has no routes with these options"):
        return {(route.method, route.path): route for route in gateway.routes()}


@contextmanager
def _anything(family: str, what: str) -> Iterator[None]:
    """A stranger's code may raise anything, SystemExit too: it is the operator's to know."""
    try:
        yield
    except (ConfigError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise ConfigError(f"gateways.{family}: {what}: {type(error).__name__}") from error


def first_error(error: ValidationError) -> str:
    """Where the first error is, and what."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"] if part != "[key]")
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"


def rather(wrong: str, right: Iterable[str]) -> str:
    """What would be right in place of `wrong`."""
    names = sorted(right)
    if not names:
        return "; there are none"
    near = difflib.get_close_matches(wrong, names, 1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(names)}"
