"""`parallama usage`: who used what, from the rows in the database. Works with the server up or down."""

from __future__ import annotations

import codecs
import csv
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import click

from parallama.cli.context import Context, echo_json, echo_rows, open_database, run, settings_options

if TYPE_CHECKING:
    from parallama.ledger.usage import Line, UsageReports

T = TypeVar("T")
C = TypeVar("C", bound=Callable[..., object])

_LIST = (
    *("created_at", "gateway", "operation", "model", "node", "prompt_tokens", "output_tokens"),
    *("ttft_ms", "duration_ms", "status", "outcome"),
)
_SHOW = ("gateway", "period", "total_requests", "total_tokens", "remaining_requests", "remaining_tokens")
_FORMATS = ("json", "csv")

_gateway = click.option("--gateway", help="Only what came through this gateway.")
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document.")


def _days(default: int) -> Callable[[C], C]:
    text = "Calendar days, today included."
    return click.option("--days", type=click.IntRange(1, 36_500), default=default, show_default=True, help=text)


@asynccontextmanager
async def _reports(ctx: Context) -> AsyncIterator[UsageReports]:
    from parallama.ledger.usage import UsageReports

    async with open_database(ctx) as database:
        yield UsageReports(database, ctx.settings.timezone)


async def _ask(ctx: Context, question: Callable[[UsageReports], Awaitable[T]]) -> T:
    async with _reports(ctx) as reports:
        return await question(reports)


@click.group()
def usage() -> None:
    """Who used what."""


@usage.command()
@click.argument("name")
@_gateway
@_json
@settings_options
def show(ctx: Context, name: str, gateway: str | None, as_json: bool) -> None:
    """Today and this hour of a user, by gateway."""
    report = run(_ask(ctx, lambda reports: reports.show(name, gateway)))
    if as_json:
        echo_json(report)
        return
    windows = [(g, period, w) for g, periods in report["gateways"].items() for period, w in periods.items()]
    echo_rows([{"gateway": g, "period": period.replace("_", " "), **w} for g, period, w in windows], _SHOW, False)


@usage.command("list")
@click.argument("name")
@_gateway
@_days(7)
@click.option("--model", help="Only this model, as asked for or as served.")
@_json
@settings_options
def list_(ctx: Context, name: str, gateway: str | None, days: int, model: str | None, as_json: bool) -> None:
    """One line a request of a user, oldest first."""
    rows = run(_ask(ctx, lambda reports: reports.list(name, gateway, model, days)))
    echo_rows(rows, _LIST, as_json)


@usage.command()
@click.argument("name")
@_gateway
@_days(30)
@_json
@settings_options
def summary(ctx: Context, name: str, gateway: str | None, days: int, as_json: bool) -> None:
    """Totals of a user, by gateway and model."""
    from parallama.ledger.usage import TOTALS

    rows = run(_ask(ctx, lambda reports: reports.summary(name, gateway, days)))
    echo_rows(rows, TOTALS, as_json)


@usage.command()
@click.argument("words", nargs=-1, metavar="[NAME] [json|csv]")
@click.option("--format", "given", type=click.Choice(_FORMATS), help="json (default) or csv.")
@click.option("--output", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), help="Default: stdout.")
@settings_options
def export(ctx: Context, words: tuple[str, ...], given: str | None, output: Path | None) -> None:
    """Every row of a user, or of all users, oldest first.

    A file appears under its name only when it is whole.
    """
    name, format_ = _name_and_format(words, given)

    async def work() -> None:
        async with _reports(ctx) as reports, aclosing(await reports.export(name)) as rows:
            with _sink(output) as sink:
                await _WRITERS[format_](rows, sink)

    run(work())


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


async def _write_json(rows: AsyncIterator[Line], sink: BinaryIO) -> None:
    import orjson

    before = b"[\n"
    async for row in rows:
        sink.write(before + orjson.dumps(row))
        before = b",\n"
    sink.write(b"[]\n" if before == b"[\n" else b"\n]\n")


async def _write_csv(rows: AsyncIterator[Line], sink: BinaryIO) -> None:
    """RFC 4180; true and false in words, an empty field where unknown."""
    from parallama.ledger.usage import FIELDS

    writer = csv.writer(codecs.getwriter("utf-8")(sink))
    writer.writerow(FIELDS)
    async for row in rows:
        writer.writerow([str(v).lower() if isinstance(v, bool) else v for v in map(row.get, FIELDS)])


_WRITERS = {"json": _write_json, "csv": _write_csv}


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
