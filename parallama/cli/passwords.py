"""Passwords as commands take them: typed twice on a terminal, else one line of stdin. Never an argument."""

from __future__ import annotations

import sys

import click

_MOST_BYTES = 4096
"""More than any password that would be taken."""


def read_password() -> str:
    """The password as it was typed or sent, without the end of its line. Raises UsageError when there is none."""
    if sys.stdin.isatty():
        typed: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        return typed
    line = sys.stdin.buffer.readline(_MOST_BYTES).rstrip(b"\r\n")
    if not line:
        raise click.UsageError("no password on stdin: send it as one line, or use a terminal")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise click.UsageError("the password on stdin must be UTF-8") from None
