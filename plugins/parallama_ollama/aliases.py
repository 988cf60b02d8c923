"""Aliases in what a node answers: the client's own name of a model in place of the node's.

The core has put the node's name into the request; here it comes back. Nothing is resolved here, and no line parsed.
"""

from __future__ import annotations

import re

from parallama.gateway.lines import json_line

_HEAD = b'{"model":"'
"""How every line that names the model begins: Ollama's answer types have it as their first member."""

# bounded, since an unfinished name is held; Ollama takes no name of more than 350 characters
_CHARACTERS = rb'(?:[^"\\\n]|\\[^\n]){0,1000}'
_named = re.compile(rb"\n" + re.escape(_HEAD) + _CHARACTERS + rb'"')
_unfinished = re.compile(re.escape(_HEAD) + _CHARACTERS + rb"\\?").fullmatch


class Renaming:
    """Puts the client's name of the model into the lines, or the document, of a node.

    Only the first member of a line is looked at, so that nothing a model says is ever taken for its name: JSON has no
    raw newline in its texts.
    """

    def __init__(self, name: str) -> None:
        self._start = b"\n" + _HEAD[:-1] + go_string(name)
        self._last = b"\n"
        """The last byte that was passed on."""
        self.held = b""
        """The beginning of a line that may name the model, and whose name has not ended yet."""

    def feed(self, chunk: bytes) -> bytes:
        """The client's bytes for the node's next, cut anywhere."""
        data = self._last + self.held + chunk
        start = data.rfind(b"\n") + 1
        cut = start if start and _is_open(data[start:]) else len(data)
        ready, self.held = data[:cut], data[cut:]
        self._last = ready[-1:]
        return _named.sub(lambda _: self._start, ready)[1:]


def _is_open(line: bytes) -> bool:
    """Whether more bytes may still make a name of the model at the beginning of `line`."""
    return _HEAD.startswith(line) or _unfinished(line) is not None


def go_string(text: str) -> bytes:
    """`text` as a JSON string in the form of Go, which escapes what HTML would take for its own."""
    quoted = json_line(text)[:-1]
    for char in b"<>&":
        quoted = quoted.replace(b"%c" % char, rb"\u%04x" % char)
    return quoted
