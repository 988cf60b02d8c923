"""`parallama usage`: who used what. Works with the server up or down, and asks other machines too."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import click

from parallama.cli.administration import administer, administration_options, client_of
from parallama.cli.context import Context, echo_json, echo_rows, open_database, run

if TYPE_CHECKING:
    from parallama.client.usage import UsedBy

C = TypeVar("C", bound=Callable[..., object])

_LIST = (
    *("created_at", "gateway", "operation", "model", "node", "prompt_tokens", "output_tokens"),
    *("ttft_ms", "duration_ms", "status", "outcome"),
)
_SHOW = ("gateway", "period", "total_requests", "total_tokens", "remaining_requests", "remaining_tokens")
_FORMATS = ("json", "csv")
_EARLIEST = datetime(1971, 1, 2, tzinfo=UTC)
"""From when on the API can be asked."""

_gateway = click.option("--gateway", help="Only what came through this gateway.")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document.")


def _days(default: int) -> Callable[[C], C]:
    text = "Calendar days, today included."
    return click.option("--days", type=click.IntRange(1, 36_500), default=default, show_default=True, help=text)


class _Day(click.ParamType[date]):
    """A day as ISO 8601 has it."""

    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        try:
            return date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no day; it must be such as 2026-12-31", param, ctx)


def _since(ctx: Context, days: int) -> datetime:
    from parallama.ledger.reports import bounds

    return max(bounds(ZoneInfo(ctx.settings.timezone), days).since or _EARLIEST, _EARLIEST)


@click.group()
def usage() -> None:
    """Who used what."""


@usage.command()
@click.argument("name")
@_gateway
@_json
@administration_options
def show(ctx: Context, name: str, gateway: str | None, as_json: bool) -> None:
    """Today and this hour of a user, by gateway, and what limits leave."""
    report = asdict(administer(ctx, lambda api: api.get_usage(user=name, gateway=gateway)))
    if as_json:
        echo_json(report)
        return
    rows: list[dict[str, Any]] = []
    for name, times in report["gateways"].items():
        rows += [{"gateway": name, "period": period.replace("_", " "), **spent} for period, spent in times.items()]
    echo_rows(rows, _SHOW, False)


@usage.command("list")
@click.argument("name")
@_gateway
@_days(7)
@click.option("--model", help="Only this model, as asked for or as served.")
@_json
@administration_options
def list_(ctx: Context, name: str, gateway: str | None, days: int, model: str | None, as_json: bool) -> None:
    """One line a request of a user, oldest first."""
    from parallama.ledger.usage import document

    which: UsedBy = {"user": name, "gateway": gateway, "model": model, "since": _since(ctx, days)}
    rows = administer(ctx, lambda api: api.export_usage(**which))
    echo_rows([document(asdict(row).items()) for row in rows], _LIST, as_json)


@usage.command()
@click.argument("name")
@_gateway
@_days(30)
@_json
@administration_options
def summary(ctx: Context, name: str, gateway: str | None, days: int, as_json: bool) -> None:
    """Totals of a user, by gateway and model."""
    from parallama.ledger.reports import SUMS

    columns = ("gateway", "model", *SUMS)
    which: UsedBy = {"user": name, "gateway": gateway, "since": _since(ctx, days)}
    lines = administer(ctx, lambda api: api.report_usage(["gateway", "model"], **which))
    echo_rows([{name: getattr(line, name) for name in columns} for line in lines], columns, as_json)


@usage.command()
@click.option("--start-date", type=_Day(), help="The first day, such as 2026-12-01.")
@click.option("--end-date", type=_Day(), help="The last day, which is included.")
@_gateway
@click.option("--user", metavar="NAME", help="Only of this user.")
@click.option("--group-by", default="user,gateway,model", show_default=True, help="Also key, node, day, hour.")
@click.option("--format", "format_", type=click.Choice(("table", *_FORMATS)), default="table", show_default=True)
@_json
@administration_options
def report(
    ctx: Context,
    start_date: date | None,
    end_date: date | None,
    gateway: str | None,
    user: str | None,
    group_by: str,
    format_: str,
    as_json: bool,
) -> None:
    """Totals of all users, or of one, by what is asked for."""
    from parallama.ledger.reports import GROUPS, SUMS

    by = group_by.split(",")
    which: UsedBy = {"since": start_date, "until": end_date, "gateway": gateway, "user": user}
    lines = [asdict(line) for line in administer(ctx, lambda api: api.report_usage(by, **which))]
    columns = [*(one for one in GROUPS if one in by), *SUMS]
    if format_ == "csv" and not as_json:
        run(_print_csv(columns, lines))
    else:
        echo_rows(lines, columns, as_json or format_ == "json")


async def _print_csv(columns: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> None:
    from parallama.ledger.documents import csv_table

    async def each() -> AsyncGenerator[Mapping[str, Any], None]:
        for line in lines:
            yield line

    with _stdout() as sink:
        await _write(csv_table(columns, each()), sink)


@usage.command()
@click.argument("words", nargs=-1, metavar="[NAME] [json|csv]")
@click.option("--format", "given", type=click.Choice(_FORMATS), help="json (default) or csv.")
@click.option("--output", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), help="Default: stdout.")
@administration_options
def export(ctx: Context, words: tuple[str, ...], given: str | None, output: Path | None) -> None:
    """Every row of a user, or of all users, oldest first.

    A file appears under its name only when it is whole.
    """
    name, format_ = _name_and_format(words, given)

    async def work() -> None:
        async with _exported(ctx, name, format_) as parts:
            with _sink(output) as sink:
                await _write(parts, sink)

    run(work())


@asynccontextmanager
async def _exported(ctx: Context, name: str | None, format_: str) -> AsyncIterator[AsyncIterator[bytes]]:
    if ctx.server is not None:
        whose = {"format": format_} if name is None else {"format": format_, "user": name}
        path = f"/admin/v1/usage/export?{urlencode(whose)}"
        async with client_of(ctx) as client, aclosing(client.export(path)) as parts:
            yield parts
        return
    from parallama.ledger.documents import csv_table, json_array
    from parallama.ledger.usage import FIELDS, UsageReports

    async with open_database(ctx) as database:
        async with aclosing(await UsageReports(database, ctx.settings.timezone).export(name)) as rows:
            yield json_array(rows) if format_ == "json" else csv_table(FIELDS, rows)


def _name_and_format(words: tuple[str, ...], given: str | None) -> tuple[str | None, str]:
    """Tell `NAME`, `FORMAT` and `NAME FORMAT` apart; with --format a single word is always a name."""
    *names, last = words or (None,)
    if given is None and last in _FORMATS:
        given = last
    elif last is not None:
        names.append(last)
    if len(names) > 1:
        raise click.UsageError("expected at most a user and a format, json or csv")
    return (names[0] if names else None), given or "json"


async def _write(parts: AsyncIterator[bytes], sink: BinaryIO) -> None:
    async for part in parts:
        sink.write(part)


@contextmanager
def _sink(output: Path | None) -> Iterator[BinaryIO]:
    """Where the bytes go. A regular file is written beside its place and moved there at the end."""
    if output is None or str(output) == "-":
        with _stdout() as sink:
            yield sink
        return
    target = output.resolve()
    if target.exists() and not target.is_file():  # such as /dev/null, which must not be replaced
        with output.open("wb") as sink:
            yield sink
        return
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as sink:
            yield sink
        part.replace(target)
    except OSError as error:
        raise click.FileError(str(output), error.strerror or type(error).__name__) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _stdout() -> Iterator[BinaryIO]:
    """Standard output. A reader that has seen enough (`| head`) ends the command quietly."""
    sink = sys.stdout.buffer
    try:
        yield sink
        sink.flush()
    except BrokenPipeError:
        # else Python writes what it still holds once more at its end, and complains
        os.dup2(os.open(os.devnull, os.O_WRONLY), sink.fileno())
