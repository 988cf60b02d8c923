"""Makes the Settings: built-in defaults, then the settings file, the environment and the command's flags.

Everything that is wrong is told at once, in one ConfigError with a line each.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError

from parallama.config import wording
from parallama.config.document import Document
from parallama.config.environment import read_environment
from parallama.config.layers import (
    COMMAND_LINE,
    DEFAULT,
    Key,
    Leaf,
    Level,
    Origin,
    Problem,
    Tree,
    dotted,
    flatten,
    refusal,
)
from parallama.config.places import settings_file
from parallama.config.schema import PATHS, SECRETS, secret_prefix, shape, suggest
from parallama.config.secret import MASK, mask_url, read_secret, shown
from parallama.config.settings import Settings
from parallama.errors import ConfigError

_NO_FLAGS: Mapping[str, object] = MappingProxyType({})
_MAX_BYTES = 1_000_000
_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Row:
    """One setting as `config show` prints it, secrets masked."""

    key: str
    value: Any
    """None, a bool, a number, text, or a list or mapping of such."""
    origin: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """The settings, and where each came from."""

    settings: Settings
    file: Path | None
    """The settings file that was read."""
    origins: Mapping[Key, Origin]
    """Of every value that is no default."""

    def rows(self) -> Iterator[Row]:
        """Every setting, in the order of the classes."""
        for key, value in _walk((), self.settings):
            yield Row(dotted(key), _masked(key, value), _told(key, self.origins.get(key, DEFAULT)))


def load_settings(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[str, object] = _NO_FLAGS,
) -> Settings:
    """The settings in force; see `resolve`."""
    return resolve(path, environ=environ, flags=flags).settings


def resolve(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[str, object] = _NO_FLAGS,
) -> Resolved:
    """The settings in force, with their origins.

    `path` None: PARALLAMA_CONFIG, else /etc/parallama/config.yaml if it exists. `flags` are dotted keys, such
    as "server.port"; those that are None were not given. Raises ConfigError, which names all that is wrong.
    """
    file = settings_file(path, environ)
    document = _read_file(file, environ) if file else Document(Origin(Level.DEFAULT, "settings"), environ)
    variables, refused = read_environment(environ)
    given, unknown = _read_flags(flags)
    problems = [*document.problems, *refused, *unknown]
    tree = _layered([*document.leaves, *variables, *given], problems)
    told = set(document.broken)
    _make_absolute(tree, file, problems, told)
    _open_secret_files(tree, problems, told)
    settings = _validated(tree, problems, told, document.origin)
    return Resolved(settings, file, tree.origins)


def _read_file(path: Path, environ: Mapping[str, str]) -> Document:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: the settings file cannot be read: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path}: a settings file must not be longer than {_MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: the settings file must be UTF-8 text") from None
    return Document(Origin(Level.FILE, str(path)), environ).read(text)


def _read_flags(flags: Mapping[str, object]) -> tuple[list[Leaf], list[Problem]]:
    leaves: list[Leaf] = []
    problems = []
    for name, value in flags.items():
        key: Key = tuple(int(step) if step.isdecimal() else step for step in name.split("."))
        if shape(key) is None:
            problems.append(Problem(COMMAND_LINE, f"unknown key {name}{suggest(key)}"))
        elif value is not None:
            leaves += flatten(key, value, COMMAND_LINE)
    return leaves, problems


def _layered(leaves: Iterable[Leaf], problems: list[Problem]) -> Tree:
    tree = Tree(_plain(Settings().model_dump()))
    for leaf in leaves:
        try:
            tree.put(leaf)
        except IndexError:
            problems.append(Problem(leaf.origin, f"{dotted(leaf.key)}: the items before it are missing"))
    return tree


def _plain(value: Any) -> Any:
    """Tuples as lists, so that later layers can write into them."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple) else value


def _make_absolute(tree: Tree, file: Path | None, problems: list[Problem], told: set[Key]) -> None:
    """A relative path in the file counts from the file's directory; elsewhere it is refused."""
    for key in sorted(PATHS):
        value, origin = tree.get(key), tree.origin(key)
        if not isinstance(value, str) or not value or Path(value).is_absolute():
            continue
        if origin.level == Level.FILE and file:
            tree.put(Leaf(key, str(file.absolute().parent / value), origin))
        else:
            problems.append(Problem(origin, f"{dotted(key)} is {value!r}, but must be an absolute path"))
            told.add(key)


def _open_secret_files(tree: Tree, problems: list[Problem], told: set[Key]) -> None:
    """Put the content of each `x_file` into `x`. Of both the one from the higher layer counts."""
    for key in sorted(SECRETS):
        file_key: Key = (*key[:-1], f"{key[-1]}_file")
        mine, other = tree.origin(key), tree.origin(file_key)
        if tree.get(key) and tree.get(file_key):
            if mine.level == other.level:
                problems.append(Problem(max(mine, other, key=lambda origin: origin.line), _both(key, file_key)))
                continue
            loser, winner = (key, other) if mine.level < other.level else (file_key, mine)
            tree.put(Leaf(loser, None, winner))
        path = tree.get(file_key)
        if path and isinstance(path, str) and file_key not in told:
            _open_secret_file(tree, key, file_key, problems)


def _both(key: Key, file_key: Key) -> str:
    return f"{dotted(key)} and {dotted(file_key)} are both set; remove one of them"


def _open_secret_file(tree: Tree, key: Key, file_key: Key, problems: list[Problem]) -> None:
    path, origin = Path(str(tree.get(file_key))), tree.origin(file_key)
    try:
        tree.put(Leaf(key, read_secret(path), Origin(origin.level, str(path))))
    except ValueError as error:
        problems.append(Problem(origin, f"{dotted(file_key)}: {path} {error}"))


def _validated(tree: Tree, problems: Sequence[Problem], told: set[Key], file: Origin) -> Settings:
    try:
        settings = Settings.model_validate(tree.values)
    except ValidationError as error:
        raise refusal([*problems, *wording.problems(error, tree, told, file)]) from None
    if problems:
        raise refusal(problems)
    return settings


def _walk(key: Key, value: Any) -> Iterator[tuple[Key, Any]]:
    """The values that stand for themselves; a list of mappings is taken apart, a list of texts is not."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _walk((*key, name), getattr(value, name))
    elif isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _walk((*key, name), inner)
    elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        for index, inner in enumerate(value):
            yield from _walk((*key, index), inner)
    else:
        yield key, value


def _masked(key: Key, value: Any) -> Any:
    if isinstance(value, SecretStr):
        return shown(value, is_url=key[-1] == "url")
    if value is not None and secret_prefix(key):
        return MASK
    if isinstance(value, (tuple, list)):
        return [_masked((*key, index), inner) for index, inner in enumerate(value)]
    if isinstance(value, dict):
        return {name: _masked((*key, name), inner) for name, inner in value.items()}
    return mask_url(str(value)) if isinstance(value, (str, Path)) else value


def _told(key: Key, origin: Origin) -> str:
    """The origin in words; of a secret's placeholders only the variables: a default may be the secret."""
    if origin.placeholder is None:
        return str(origin)
    raw = origin.placeholder
    if secret_prefix(key):
        raw = " ".join(f"{start}}}" for start in _VARIABLE.findall(raw))
    return f"{origin} ({raw})"
