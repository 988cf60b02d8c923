"""Reads the YAML of the settings file, or of one environment variable, into leaves with their line numbers.

`${VAR}` and `${VAR:-default}` inside a value are replaced; `$${` stands for `${`. What is wrong is collected,
so that the operator sees all of it at once. A secret's text reaches no message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import yaml

from parallama.config.layers import Key, Leaf, Origin, Problem, dotted
from parallama.config.schema import is_structured, shape
from parallama.errors import ConfigError

_MAX_DEPTH = 32
"""libyaml's composer recurses: 100,000 open brackets overflow the C stack."""
_MAX_NODES = 10_000
"""With aliases followed; a few lines of nested aliases are billions of values."""

_PLACEHOLDER = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{")
_TAG = "tag:yaml.org,2002:"
_TYPED: dict[str, Callable[[yaml.CSafeLoader, yaml.ScalarNode], Any]] = {
    f"{_TAG}null": yaml.CSafeLoader.construct_yaml_null,
    f"{_TAG}bool": yaml.CSafeLoader.construct_yaml_bool,
    f"{_TAG}int": yaml.CSafeLoader.construct_yaml_int,
    f"{_TAG}float": yaml.CSafeLoader.construct_yaml_float,
}
_TEXT = frozenset(f"{_TAG}{name}" for name in ("str", "timestamp", "value", "merge"))


class _Bad(Exception):
    """What is wrong with the value at hand, in words that follow its key."""


def expand(text: str, environ: Mapping[str, str]) -> str:
    """`text` with its placeholders replaced. As in a shell, `:-` stands in for an empty variable too."""

    def one(match: re.Match[str]) -> str:
        name, default = match.groups()
        if match[0] == "$${":
            return "${"
        if name is None:
            raise _Bad("has a malformed placeholder: write ${NAME} or ${NAME:-default}, or $${ for a plain ${")
        value = environ.get(name, "") if default is not None else environ.get(name)
        if value is None:
            raise _Bad(f"needs the environment variable {name}, which is not set; ${{{name}:-...}} gives a default")
        return value or default or ""

    return _PLACEHOLDER.sub(one, text)


@dataclass(slots=True)
class Document:
    """The leaves of one YAML text under `key`, and what is wrong in it."""

    origin: Origin
    """Of the whole; a file's leaves get their own lines."""
    environ: Mapping[str, str] | None = None
    """For placeholders; None: they are left alone."""
    leaves: list[Leaf] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    broken: set[Key] = field(default_factory=set)
    """Keys that a problem has been told of."""
    _nodes: int = 0

    def read(self, text: str, key: Key = ()) -> Document:
        """Fill in leaves and problems. Raises ConfigError when the text is no YAML or out of all bounds."""
        try:
            _check_depth(text)
            loader = yaml.CSafeLoader(text)
            node = loader.get_single_node()
            if node is not None:
                self._value(loader, node, key)
        except yaml.MarkedYAMLError as error:
            raise self._syntax(error.problem, error.problem_mark.line if error.problem_mark else 0) from None
        except UnicodeEncodeError as error:
            raise self._syntax("it must be UTF-8 text", text[: error.start].count("\n")) from None
        except yaml.reader.ReaderError as error:
            line = text.encode()[: error.position].count(b"\n")
            raise self._syntax("a control character stands here", line) from None
        except _Bad as error:
            raise ConfigError(f"{self.origin}: {error}") from None
        return self

    def _syntax(self, problem: str | None, line: int) -> ConfigError:
        return ConfigError(f"{self._at(line)}: this is not YAML: {problem or 'it cannot be read'}")

    def _at(self, line: int) -> Origin:
        return replace(self.origin, line=line + 1) if self.environ is not None else self.origin

    def _problem(self, node: yaml.Node, key: Key, text: str) -> None:
        self.problems.append(Problem(self._at(node.start_mark.line), text))
        self.broken.add(key)

    def _value(self, loader: yaml.CSafeLoader, node: yaml.Node, key: Key) -> None:
        self._nodes += 1
        if self._nodes > _MAX_NODES or len(key) > _MAX_DEPTH:
            raise _Bad(f"the aliases unfold to more than {_MAX_NODES} values or {_MAX_DEPTH} levels")
        if not key and not _is_mapping(node):
            self._problem(node, key, "the settings must be a mapping: lines `section:`, `key: value`")
        elif isinstance(node, yaml.MappingNode):
            self._mapping(loader, node, key)
        elif isinstance(node, yaml.SequenceNode):
            self._put(node, key, [])
            for index, item in enumerate(node.value):
                self._value(loader, item, (*key, index))
        elif isinstance(node, yaml.ScalarNode):
            self._scalar(loader, node, key)

    def _mapping(self, loader: yaml.CSafeLoader, node: yaml.MappingNode, key: Key) -> None:
        if key:
            self._put(node, key, {})
        seen: dict[str, int] = {}
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                self._problem(name, key, f"{dotted(key) or 'the file'}: a key must be a plain word")
                continue
            inner, line = (*key, name.value), name.start_mark.line + 1
            if name.value in seen:
                self._problem(
                    name, inner, f"{dotted(inner)} is given twice, in line {seen[name.value]} and line {line}"
                )
            seen.setdefault(name.value, line)
            self._value(loader, value, inner)

    def _scalar(self, loader: yaml.CSafeLoader, node: yaml.ScalarNode, key: Key) -> None:
        try:
            value = _typed(loader, node)
            text = expand(value, self.environ) if isinstance(value, str) and self.environ is not None else value
        except _Bad as error:
            self._problem(node, key, f"{dotted(key)} {error}")
            return
        # a section of which everything is commented out
        if value is None and is_structured(key) and shape(key) is not Any:
            return
        self._put(node, key, text, None if text == value else value)

    def _put(self, node: yaml.Node, key: Key, value: Any, placeholder: str | None = None) -> None:
        origin = replace(self._at(node.start_mark.line), placeholder=placeholder)
        self.leaves.append(Leaf(key, value, origin))


def _is_mapping(node: yaml.Node) -> bool:
    """A file that is empty but for a `---` counts."""
    return isinstance(node, yaml.MappingNode) or node.tag == f"{_TAG}null"


def _typed(loader: yaml.CSafeLoader, node: yaml.ScalarNode) -> Any:
    """The value of a scalar; dates stay text. Raises _Bad for a tag of its own."""
    if node.tag in _TEXT:
        return node.value
    if node.tag not in _TYPED:
        raise _Bad("has a tag ('!...'), which means nothing here; put text that begins with '!' in quotes")
    try:
        return _TYPED[node.tag](loader, node)
    except ValueError:
        # 0x_, or more digits than int() takes
        return node.value


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise _Bad(f"more than {_MAX_DEPTH} levels of nesting")
