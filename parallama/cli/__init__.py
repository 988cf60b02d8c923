"""The command line. Each command is a module of its own, imported only when it runs.

Commands that change records work with the server up or down. Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import importlib

import click

from parallama.version import __version__

_COMMANDS = {
    "audit": "The audit trail: who changed what.",
    "auth": "Sessions of users: end them.",
    "config": "Check and show the settings.",
    "db": "The schema of the database.",
    "doctor": "Check the database, Redis and the nodes, and send a hello request.",
    "gateway": "Gateways: what is set for them, and their figures.",
    "key": "API keys.",
    "ledger": "Whether the ledger keeps its promises, as numbers.",
    "limits": "What users, keys and roles may use in a time.",
    "plugin": "Gateways: what is installed, and a new one.",
    "quickstart": "Everything on this machine, at once: database, first key, gateway.",
    "ratelimit": "The same as limits.",
    "role": "Roles, and who has them.",
    "serve": "Run the gateway.",
    "simulate": "Run a fake Ollama.",
    "usage": "Who used what.",
    "user": "Users.",
}
"""Command -> its line in the help. `parallama.cli.<command>.<command>` is the click command."""


class LazyGroup(click.Group):
    """A group whose commands are imported on use; those of plugins are asked for when none of ours is meant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._add_plugins()
        return sorted({*_COMMANDS, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _COMMANDS:
            command: click.Command = getattr(importlib.import_module(f"parallama.cli.{cmd_name}"), cmd_name)
            return command
        self._add_plugins()
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        lines = []
        for name in self.list_commands(ctx):
            command = None if name in _COMMANDS else self.get_command(ctx, name)
            lines.append((name, command.get_short_help_str() if command else _COMMANDS[name]))
        with formatter.section("Commands"):
            formatter.write_dl(lines)

    def _add_plugins(self) -> None:
        from parallama.gateway.plugins import Plugins

        Plugins.load().add_commands(self)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="parallama")
def main() -> None:
    """The gateway that lets many people share a few Ollama machines."""
