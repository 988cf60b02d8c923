"""`parallama limits`, and `parallama ratelimit`: what users, keys and roles may use in a time.

Works with the server up or down. The options that name limits are those of `user create` too.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import click

from parallama.cli.administration import administer, administration_options
from parallama.cli.context import Context, confirm, echo_rows, list_json, without_asking

if TYPE_CHECKING:
    from parallama.client.limits import Whose
    from parallama.identity.terms import LimitRecord

C = TypeVar("C", bound=Callable[..., object])
T = TypeVar("T")

Settings = Sequence[dict[str, Any]]
"""For `set_limits`."""

_COLUMNS = ("from", "gateway", "model", "meter", "period", "amount", "admission", "outage", "max_output_tokens")
_METERS = {
    "token": "total_tokens",
    "request": "requests",
    "prompt-token": "prompt_tokens",
    "output-token": "output_tokens",
}
_PERIODS = {"minute": "minute", "hourly": "hour", "daily": "day", "monthly": "month"}
_OPTIONS = {
    **{
        (meter, period): (f"--{word}-limit-{often}", f"--{word}-{often}")
        for word, meter in _METERS.items()
        for often, period in _PERIODS.items()
    },
    ("concurrency", "now"): ("--concurrency",),
}
"""The spellings of each limit, by meter and period."""
_NUMBER = re.compile(r"[0-9]{1,16}")


def _amount(least: int) -> Callable[[str], int | str]:
    """Reads a whole number that is not below `least`, or the text `none` for itself: None is an option not given."""

    def number(text: str) -> int | str:
        if text != "none" and not (_NUMBER.fullmatch(text) and int(text) >= least):
            raise click.BadParameter(f"{text!r} must be a whole number from {least} on, or none")
        return text if text == "none" else int(text)

    return number


def limit_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add the options that name limits, and give the command their Settings as `limits`."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> T:
        return command(*args, limits=_settings(kwargs), **kwargs)

    options = [
        click.option(
            *("--max-output-tokens", "max_output_tokens"),
            type=_amount(1),
            metavar="N",
            help="Most of one answer, where its tokens are counted; none: that of the settings.",
        ),
        click.option("--outage", type=click.Choice(["closed", "open"]), help="Refuse while nobody can count, or not."),
        click.option(
            "--admission", type=click.Choice(["strict", "estimate"]), help="Whether all that it may cost must be left."
        ),
        *(
            click.option(*names, "_".join(scope), type=_amount(0), metavar="N", help=_help(*scope))
            for scope, names in reversed(_OPTIONS.items())
        ),
    ]
    for option in options:
        wrapped = option(wrapped)
    return wrapped


def _help(meter: str, period: str) -> str:
    return "Requests at the same time." if period == "now" else f"{meter.replace('_', ' ').capitalize()} per {period}."


def _settings(kwargs: dict[str, Any]) -> Settings:
    """What the options say, which are taken out of `kwargs`."""
    terms = {name: kwargs.pop(name) for name in ("admission", "outage", "max_output_tokens")}
    given = {name: value for name, value in terms.items() if value is not None}
    most = given.pop("max_output_tokens", None)
    found = []
    for meter, period in _OPTIONS:
        amount = kwargs.pop(f"{meter}_{period}")
        if amount is not None:
            of_output = {"max_output_tokens": _number(most)} if most is not None and _has_output(meter) else {}
            found.append({"meter": meter, "period": period, "amount": _number(amount), **given, **of_output})
    if given and not found:
        raise click.UsageError("--admission and --outage say how a limit is kept: name it too, such as --token-daily N")
    if most is not None and not any(_has_output(one["meter"]) for one in found):
        raise click.UsageError("--max-output-tokens goes with a limit of tokens: name it too, such as --token-daily N")
    return found


def _has_output(meter: str) -> bool:
    return meter in ("total_tokens", "output_tokens")


def _number(amount: int | str) -> int | None:
    return None if isinstance(amount, str) else amount


@dataclass(frozen=True, slots=True)
class _Target:
    """Whose limits a command is about."""

    kind: str
    name: str

    @property
    def whose(self) -> Whose:
        whose: Whose = {self.kind: self.name}  # type: ignore[misc]
        return whose

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def _of_somebody(command: Callable[..., T]) -> Callable[..., T]:
    """Add NAME, --key and --role, and the gateway, which may also stand behind NAME."""

    @click.argument("name", required=False)
    @click.argument("family", metavar="[GATEWAY]", required=False)
    @click.option("--key", metavar="ID", type=click.UUID, help="Of a key instead of the user NAME.")
    @click.option("--role", metavar="ROLE", help="Of all who have a role, instead of one user.")
    @click.option("--gateway", metavar="G", help="Such as openai; '*': counted over all.")
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        name: str | None,
        family: str | None,
        key: UUID | None,
        role: str | None,
        gateway: str | None,
        **kwargs: Any,
    ) -> T:
        if gateway is not None and family is not None:
            raise click.UsageError("give the gateway once: --gateway G, or G behind NAME")
        return command(*args, target=_target(name, key, role), gateway=gateway or family, **kwargs)

    return wrapped


def _target(name: str | None, key: UUID | None, role: str | None) -> _Target:
    named = {"user": name, "key": key, "role": role}
    given = [_Target(kind, str(one)) for kind, one in named.items() if one is not None]
    if len(given) != 1:
        raise click.UsageError("give one of NAME (a user), --key ID and --role ROLE")
    return given[0]


@click.group()
def limits() -> None:
    """What users, keys and roles may use in a time."""


@limits.command("set")
@_of_somebody
@click.option("--model", metavar="M", help="Only of models that match: a name, or a pattern such as llama3*.")
@limit_options
@list_json
@administration_options
def set_limits(
    ctx: Context, target: _Target, gateway: str | None, model: str | None, limits: Settings, as_json: bool
) -> None:
    """Limit the user NAME (name or id); what is not named stays. Bites at once.

    0 refuses everything; `none` takes a limit away. Without a gateway it is counted over all of them.
    """
    if not limits:
        raise click.UsageError("nothing to set: see `parallama limits set --help`")
    found = administer(ctx, lambda api: api.set_limits(limits, gateway=gateway or "*", model=model, **target.whose))
    _echo(found.limits, as_json)


@limits.command()
@_of_somebody
@list_json
@administration_options
def show(ctx: Context, target: _Target, gateway: str | None, as_json: bool) -> None:
    """Show the limits in force for the user NAME (name or id), and where each is from."""
    found = administer(ctx, lambda api: getattr(api, f"limits_of_{target.kind}")(target.name, gateway=gateway))
    _echo(found.limits, as_json)


@limits.command("list")
@click.option("--gateway", metavar="G", help="Only of this gateway.")
@list_json
@administration_options
def list_limits(ctx: Context, gateway: str | None, as_json: bool) -> None:
    """List every limit that was set."""
    _echo(administer(ctx, lambda api: api.list_limits(gateway=gateway)), as_json)


@limits.command()
@_of_somebody
@click.option("--model", metavar="M", help="Only for limits of this pattern.")
@click.option("--to-default", is_flag=True, help="Take the limits away: what the roles give is in force again.")
@without_asking
@administration_options
def reset(ctx: Context, target: _Target, gateway: str | None, model: str | None, to_default: bool, yes: bool) -> None:
    """Let what the user NAME (name or id) has used count as nothing from now on."""
    whose = f"{target}{f' for {gateway}' if gateway else ''}{f' and {model}' if model else ''}"
    if not to_default:
        return _reset_counts(ctx, target, gateway, model, whose, yes)
    if model is not None:
        raise click.UsageError("--model goes without --to-default: `limits set --model M ... none` takes limits away")
    confirm(f"Take away the limits of {whose}?", yes)
    done = administer(ctx, lambda api: api.reset_limits(gateway=gateway, **target.whose))
    return click.echo(f"limits of {target} taken away: {done.deleted}")


def _reset_counts(ctx: Context, target: _Target, gateway: str | None, model: str | None, whose: str, yes: bool) -> None:
    confirm(f"Count as nothing what was used of the limits of {whose}?", yes)
    done = administer(ctx, lambda api: api.reset_counts(gateway=gateway, model=model, **target.whose))
    click.echo(f"{'keys' if target.kind == 'key' else 'users'} whose counts were reset: {done.reset}")


limits.add_command(show, "get")
ratelimit = click.Group("ratelimit", limits.commands, help=limits.help)
"""The same under another name."""


def _echo(found: Iterable[LimitRecord], as_json: bool) -> None:
    echo_rows([{**asdict(record), "from": _origin(record)} for record in found], _COLUMNS, as_json)


def _origin(record: LimitRecord) -> str:
    whose = {"user": record.user, "key": record.key, "role": record.role}
    return " ".join(f"{kind} {name}" for kind, name in whose.items() if name is not None)
