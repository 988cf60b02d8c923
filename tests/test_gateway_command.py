"""`parallama gateway`: what is set, and that running servers follow it at once."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
import yaml
from asking import MODEL, ask
from commands import Run, command_line
from e2e.databases import fresh_database
from processes import Answer, Place, Running, place
from processes import ask as http
from running import RunningGateway, eventually, running_gateway
from wire import Wire

from parallama.admin.gateways import GatewayRecords
from parallama.admin.standing import standing
from parallama.config import DatabaseSettings
from parallama.db.pool import Database, connect
from parallama.errors import ApiError
from parallama.gateway.api import Gateway, Reply
from parallama.gateway.families import Families
from parallama.gateway.plugins import Plugins
from parallama.testing import FakeOllama, fake_ollama

in_one_loop = pytest.mark.asyncio(loop_scope="module")

PROMPT: dict[str, Any] = {"model": MODEL, "prompt": "hello", "stream": False}
SIMPLE = {"model": MODEL, "prompt": "hello"}
OPENAI = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Run:
    return command_line(database_url, tmp_path)


def shown(run: Run, *args: str) -> dict[str, Any]:
    """What `gateway config ollama ... --json` says."""
    done = run("gateway", "config", "ollama", *args, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused(run: Run, *args: str, code: int = 1) -> str:
    done = run("gateway", *args)
    assert (done.returncode, done.stdout) == (code, "")
    return done.stderr


# what is set


def test_status_shows_every_family_and_who_has_set_what(parallama: Run, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "gateways:\n"
        "  ollama: {default_model: a, endpoints: {chat: false, embed: false}, model_mappings: {one: a, two: b}}\n"
        "  openai: {max_embedding_inputs: 7}\n"
    )
    changes = ["--endpoint", "embed=on", "--model-mapping", "two=c", "--no-default-model", "--config", str(config)]
    assert parallama("gateway", "config", "ollama", *changes).returncode == 0
    done = parallama("gateway", "status", "--json", "--config", str(config))
    families = {family["name"]: family for family in json.loads(done.stdout)}
    ollama, openai = families["ollama"], families["openai"]
    assert set(families) == {gateway.name for gateway in Plugins.load().classes()}
    assert (ollama["enabled"], ollama["default_model"], ollama["problem"]) == (True, None, None)
    assert {name for name, on in ollama["endpoints"].items() if not on} == {"chat"}
    assert {alias: one["model"] for alias, one in ollama["model_mappings"].items()} == {"one": "a", "two": "c"}
    told = ollama["from"]
    assert (told["enabled"], told["default_model"]) == ("default", "recorded")
    endpoints = [told[f"endpoints.{name}"] for name in ("chat", "embed", "generate")]
    assert endpoints == ["settings", "recorded", "default"]
    assert (told["model_mappings.one"], told["model_mappings.two"]) == ("settings", "recorded")
    assert (openai["options"]["max_embedding_inputs"], openai["from"]["max_embedding_inputs"]) == (7, "settings")
    table = parallama("gateway", "status", "--config", str(config)).stdout
    rows = [line.split() for line in table.splitlines()]
    assert ["ollama", "mounts", "/ollama/api,", "/api,", "/ollama/v1", "plugin"] in rows
    assert ["ollama", "endpoints.chat", "off", "settings"] in rows
    assert ["ollama", "model_mappings.two", "c", "recorded"] in rows
    assert "endpoints.generate" not in table


def test_everything_an_alias_can_hold_is_set_by_flags_and_shown(run: Run) -> None:
    found = shown(
        run,
        *("--model-mapping", "gpt-4=registry/llama2:70b", "--model-mapping", "gpt-3.5=qwen3:0.6b"),
        *("--num-ctx", "gpt-4=8192", "--keep-alive", "gpt-4=30m", "--keep-alive", "gpt-3.5=-1"),
        *("--parameter", "gpt-4:options.stop=[a, 'b=c:d']", "--force-parameter", "gpt-4:think=false"),
    )
    assert found["model_mappings"] == {
        "gpt-4": {
            "model": "registry/llama2:70b",
            "num_ctx": 8192,
            "keep_alive": "30m",
            "parameters": {
                "options.stop": {"value": ["a", "b=c:d"], "allow_override": True},
                "think": {"value": False, "allow_override": False},
            },
        },
        "gpt-3.5": {"model": "qwen3:0.6b", "num_ctx": None, "keep_alive": -1, "parameters": {}},
    }
    text = run("gateway", "config", "ollama").stdout
    assert "registry/llama2:70b, num_ctx 8192, keep_alive 30m" in text
    assert 'options.stop ["a","b=c:d"]' in text
    assert "think false (forced)" in text


def test_a_change_of_an_alias_keeps_what_is_not_named(run: Run, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("gateways: {ollama: {model_mappings: {a: {model: m, num_ctx: 5, parameters: {think: true}}}}}")
    # the same name to Ollama is the same alias
    args = ["--keep-alive", "A:latest=5m", "--config", str(config)]
    expected = {"value": True, "allow_override": True}
    assert shown(run, *args)["model_mappings"] == {
        "a": {"model": "m", "num_ctx": 5, "keep_alive": "5m", "parameters": {"think": expected}}
    }
    args = ["--model-mapping", "a=n", "--num-ctx", "a=", "--parameter", "a:think=", "--config", str(config)]
    assert shown(run, *args)["model_mappings"] == {
        "a": {"model": "n", "num_ctx": None, "keep_alive": "5m", "parameters": {}}
    }
    assert shown(run, "--no-model-mapping", "a", "--config", str(config))["model_mappings"] == {}


def test_options_and_the_default_model_come_and_go(run: Run) -> None:
    def openai(*args: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(run("gateway", "config", "openai", "--json", *args).stdout)
        return found

    openai("--option", "max_embedding_inputs=3", "--default-model", MODEL)
    assert (openai()["options"]["max_embedding_inputs"], openai()["default_model"]) == (3, MODEL)
    assert openai("--option", "max_embedding_inputs=")["options"]["max_embedding_inputs"] == 100
    assert openai("--no-default-model")["default_model"] is None


def test_a_file_is_laid_over_what_was_set_and_a_reset_forgets_all(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "ollama.yaml"
    file.write_text("default_model: m\nendpoints: {chat: false}\nmodel_mappings: {'a=b': n}\n")
    shown(run, "--model-mapping", "c=o")
    found = shown(run, "--from", str(file), "--num-ctx", "c=9")
    assert (found["default_model"], found["endpoints"]["chat"]) == ("m", False)
    assert {alias: one["model"] for alias, one in found["model_mappings"].items()} == {"a=b": "n", "c": "o"}
    assert found["model_mappings"]["c"]["num_ctx"] == 9
    found = shown(run, "--reset")
    assert (found["default_model"], found["endpoints"]["chat"], found["model_mappings"]) == (None, True, {})
    assert set(found["from"].values()) == {"default"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--num-ctx", "a=many"], r"gateways\.ollama\.model_mappings\.a\.num_ctx: .*integer"),
        (["--num-ctx", "b=1"], "there is no alias 'b'"),
        (["--no-model-mapping", "gpt4", "--default-model", "x"], "there is no alias 'gpt4'; did you mean gpt-4?"),
        (["--parameter", "a:temperature=1"], r"did you mean options\.temperature\?"),
        (["--endpoint", "chatt=off"], r"endpoints\.chatt: no such endpoint; did you mean chat\?"),
        (["--option", "shout=1"], r"gateways\.ollama\.shout: no such option"),
        (["--option", "enabled=false"], "it has a flag of its own"),
        (["--option", "shout=[1"], "--option shout: this is not YAML"),
        (["--parameter", "a:options.seed=.nan"], "cannot be stored"),
        (["--parameter", 'a:options.stop="\\0"'], "cannot be stored"),
        (["--default-model", " "], r"gateways\.ollama\.default_model"),
        (["--from", "/nowhere.yaml"], "/nowhere.yaml: it cannot be read: No such file"),
    ],
)
def test_what_cannot_be_in_force_changes_nothing(run: Run, args: list[str], message: str) -> None:
    before = shown(run, "--model-mapping", "a=m", "--model-mapping", "gpt-4=m")
    said = refused(run, "config", "ollama", "--model-mapping", "a=changed", *args)
    assert re.fullmatch(f"Error: .*{message}.*\n", said), said
    assert shown(run) == before


@pytest.mark.parametrize(
    "text", ["[1]", "a: 1\na: 2", "default_model: 5", "model_mappings: {a: {model: m, x: 1}}", "\0"]
)
def test_a_file_that_cannot_be_used_changes_nothing(run: Run, tmp_path: Path, text: str) -> None:
    file = tmp_path / "ollama.yaml"
    file.write_text(text)
    assert re.fullmatch("Error: .+\n", refused(run, "config", "ollama", "--from", str(file)))
    assert set(shown(run)["from"].values()) == {"default"}


@pytest.mark.parametrize(
    "args",
    [
        ["toggle", "ollama"],
        ["toggle", "ollama", "--enabled", "perhaps"],
        ["toggle", "ollama", "--enabled", ""],
        ["config", "ollama", "--endpoint", "chat="],
        ["config", "ollama", "--default-model", ""],
        ["config"],
        ["config", "ollama", "--model-mapping", "gpt-4"],
        ["config", "ollama", "--model-mapping", "a=b=c"],
        ["config", "ollama", "--model-mapping", "=c"],
        ["config", "ollama", "--endpoint", "chat=maybe"],
        ["config", "ollama", "--parameter", "options.seed=1"],
        ["config", "ollama", "--default-model", "m", "--no-default-model"],
        ["config", "ollama", "--reset", "--default-model", "m"],
    ],
)
def test_wrong_usage_is_exit_code_2(run: Run, args: list[str]) -> None:
    assert "Usage:" in refused(run, *args, code=2)


@pytest.mark.parametrize("args", [["toggle", "opnai", "--enabled", "true"], ["config", "opnai", "--reset"]])
def test_a_gateway_that_is_not_there_is_said_with_what_was_meant(run: Run, args: list[str]) -> None:
    assert refused(run, *args) == "Error: there is no gateway 'opnai'; did you mean openai?\n"


async def test_a_record_edited_by_hand_is_shown_as_a_problem_and_can_be_reset(run: Run, database_url: str) -> None:
    await execute(database_url, """INSERT INTO gateways VALUES ('ollama', '{"enabled": 7, "endpoints": 5}')""")
    found = await asyncio.to_thread(shown, run)
    assert (found["enabled"], found["from"]["enabled"]) == (True, "default")
    assert found["problem"].startswith("gateways.ollama.")
    assert (await asyncio.to_thread(shown, run, "--reset"))["problem"] is None


@pytest.mark.parametrize(
    ("flags", "recorded"),
    [
        (["--endpoint", "chat=off", "--no-default-model"], {"default_model": None, "endpoints": {"chat": False}}),
        (["--model-mapping", "b=n", "--num-ctx", "b=9"], {"model_mappings": {"b": {"model": "n", "num_ctx": 9}}}),
        (["--keep-alive", "A:latest=5m"], {"model_mappings": {"a": {"model": "m", "num_ctx": 5, "keep_alive": "5m"}}}),
        (["--num-ctx", "a="], {"model_mappings": {"a": {"model": "m"}}}),
        (["--no-model-mapping", "a"], {"model_mappings": {"a": None}}),
    ],
)
async def test_only_what_is_named_is_recorded(
    run: Run, database_url: str, tmp_path: Path, flags: list[str], recorded: dict[str, Any]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("gateways: {ollama: {default_model: m, model_mappings: {a: {model: m, num_ctx: 5}, c: m}}}")
    await asyncio.to_thread(shown, run, *flags, "--config", str(config))
    assert await recorded_of(database_url) == recorded


async def recorded_of(database_url: str) -> Any:
    """What is recorded of the family ollama."""
    connection = await connect(database_url)
    try:
        return json.loads(await connection.fetchval("SELECT settings FROM gateways WHERE name = 'ollama'"))
    finally:
        await connection.close()


class Locked(Gateway):
    name = "locked"
    paths = ("/locked",)

    @dataclass(frozen=True)
    class Options:
        api_key: str = "hunter2"
        upstream: str = "http://me:hunter2@host/"

    def routes(self) -> Any:
        return ()

    def render_error(self, error: ApiError) -> Reply:
        return Reply(error.status, {}, b"")


def test_secret_options_are_never_shown() -> None:
    found = standing(Families([Locked], {})["locked"], {})
    assert found["options"] == {"api_key": "********", "upstream": "http://me:********@host/"}


def test_the_example_in_the_shipped_settings_file_is_right() -> None:
    text = (Path(__file__).parents[1] / "etc" / "config.yaml").read_text()
    example = yaml.safe_load("\n".join(line[1:] for line in text.splitlines() if line.startswith("#   ")))
    families = Families(Plugins.load().classes(), example["gateways"])
    assert "gpt-4" in families["openai"].settings.model_mappings


# what running servers make of it


@dataclass
class Machines:
    """Two servers on one database, each with a state directory of its own; tests leave them as they were."""

    here: Place
    env: Mapping[str, str]
    node: FakeOllama
    servers: list[Running]
    key: str

    async def gateway(self, *args: str) -> str:
        """Run `parallama gateway`; what it prints."""
        run = command_line(self.env["PARALLAMA_DB_URL"], self.here.data)
        done = await asyncio.to_thread(run, "gateway", *args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    async def ask(self, path: str, body: object = None) -> list[Answer]:
        """Ask every server the same."""
        asked = [asyncio.to_thread(http, f"{one.url}{path}", body, self.key) for one in self.servers]
        return await asyncio.gather(*asked)

    async def until(self, path: str, status: int, body: object = None) -> list[Answer]:
        """Ask until every server answers with `status`; these answers."""
        answers: list[Answer] = []

        async def so() -> bool:
            answers[:] = await self.ask(path, body)
            return {answer.status for answer in answers} == {status}

        await eventually(so)
        return answers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def machines(postgres: str) -> AsyncIterator[Machines]:
    async with fresh_database(postgres) as url, fake_ollama() as node:
        with place() as here:
            yield await asyncio.to_thread(_started, here, url, node)


def _started(here: Place, url: str, node: FakeOllama) -> Machines:
    env = {
        "PARALLAMA_DB_URL": url,
        "PARALLAMA__NODES__0__NAME": "node-1",
        "PARALLAMA__NODES__0__URL": node.url,
    }
    here.run("user", "create", "alice", "--role", "premium", **env)
    key = here.run("key", "generate", "alice", **env).stdout.strip()
    other = here.root / "other"
    other.mkdir(mode=0o711)
    servers = [here.start("serve", "--port", "0", data=data, **env) for data in (here.data, other)]
    return Machines(here, env, node, [server.ready() for server in servers], key)


@in_one_loop
async def test_a_toggle_reaches_every_running_server_in_its_dialect_and_back(machines: Machines) -> None:
    await machines.until("/api/generate", 200, PROMPT)
    assert "gateway ollama is now disabled: /ollama/api, /api, /ollama/v1 answer 404" in (
        await machines.gateway("toggle", "ollama", "--enabled", "false")
    )
    for answer in await machines.until("/api/generate", 404, PROMPT):
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert answer.body == b"404 page not found"
    for answer in await machines.until("/ollama/v1/generate", 404, SIMPLE):
        assert answer.json() == {"error": "the gateway ollama is switched off"}
    for answer in await machines.ask("/v1/chat/completions", OPENAI):
        assert answer.status == 200  # the other families go on
    assert "ollama is now enabled" in await machines.gateway("toggle", "ollama", "--enabled", "true")
    await machines.until("/api/generate", 200, PROMPT)
    await machines.until("/ollama/v1/generate", 200, SIMPLE)


@in_one_loop
async def test_a_toggled_openai_gateway_says_so_in_the_shape_of_openai(machines: Machines) -> None:
    await machines.gateway("toggle", "openai", "--enabled", "false")
    for answer in await machines.until("/v1/chat/completions", 404, OPENAI):
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    await machines.gateway("toggle", "openai", "--enabled", "true")
    await machines.until("/v1/chat/completions", 200, OPENAI)


@in_one_loop
async def test_a_mapping_is_used_listed_and_echoed_by_every_server(machines: Machines) -> None:
    await machines.until("/api/generate", 404, {**PROMPT, "model": "gpt-4"})
    await machines.gateway("config", "ollama", "--model-mapping", f"gpt-4={MODEL}", "--num-ctx", "gpt-4=4321")
    for answer in await machines.until("/api/generate", 200, {**PROMPT, "model": "gpt-4"}):
        assert answer.json()["model"] == "gpt-4"
    sent = json.loads(machines.node.seen("/api/generate")[-1].body)
    assert (sent["model"], sent["options"]) == (MODEL, {"num_ctx": 4321})
    for answer in await machines.ask("/api/tags"):
        assert {"gpt-4", MODEL} <= {model["name"] for model in answer.json()["models"]}
    for answer in await machines.ask("/"):
        assert answer.json()["gateways"]["ollama"]["model_mappings"] == {"gpt-4": MODEL}
    await machines.gateway("config", "ollama", "--no-model-mapping", "gpt-4")
    await machines.until("/api/generate", 404, {**PROMPT, "model": "gpt-4"})


@in_one_loop
async def test_an_endpoint_that_is_off_is_not_there_while_the_others_go_on(machines: Machines) -> None:
    await machines.gateway("config", "ollama", "--endpoint", "generate=off")
    await machines.until("/api/generate", 404, PROMPT)
    await machines.until("/ollama/v1/generate", 404, SIMPLE)
    assert {answer.status for answer in await machines.ask("/api/tags")} == {200}
    await machines.gateway("config", "ollama", "--endpoint", "generate=on")
    await machines.until("/api/generate", 200, PROMPT)


@in_one_loop
async def test_a_record_edited_by_hand_takes_nothing_down_and_is_logged(machines: Machines) -> None:
    await machines.gateway("config", "ollama", "--model-mapping", f"gpt-4={MODEL}")
    await machines.until("/api/generate", 200, {**PROMPT, "model": "gpt-4"})
    url = machines.env["PARALLAMA_DB_URL"]
    await execute(url, """UPDATE gateways SET settings = '{"enabled": [], "model_mappings": 5, "x": {}}'""")

    def told() -> bool:
        return all(any(map(_unused, server.logged())) for server in machines.servers)

    await eventually(told)
    # what was in force before goes on
    await machines.until("/api/generate", 200, {**PROMPT, "model": "gpt-4"})
    await machines.gateway("config", "ollama", "--reset")
    await machines.until("/api/generate", 404, {**PROMPT, "model": "gpt-4"})


def _unused(line: Mapping[str, Any]) -> bool:
    return bool(line["event"] == "gateway settings not used")


async def test_a_record_that_nobody_can_use_does_not_keep_a_server_from_starting(
    here: Place, database_url: str, node: FakeOllama
) -> None:
    await execute(database_url, """INSERT INTO gateways VALUES ('ollama', '{"endpoints": {"nothing": true}}')""")
    await execute(database_url, """INSERT INTO gateways VALUES ('elsewhere', '{"enabled": false}')""")
    env: dict[str, Any] = {"PARALLAMA_DB_URL": database_url, "PARALLAMA__NODES__0__URL": node.url}
    running = await asyncio.to_thread(lambda: here.start("serve", "--port", "0", **env).ready())
    (problem,) = await eventually(lambda: [line for line in running.logged() if _unused(line)])
    assert problem["level"] == "error"
    assert problem["problem"].startswith("gateways.ollama.endpoints.nothing: no such endpoint; there are chat, embed")


async def test_a_change_that_was_told_while_nobody_listened_still_arrives(database_url: str, node: FakeOllama) -> None:
    wire = Wire(database_url)
    async with (
        wire.running(),
        running_gateway(wire.url, node.url) as gateway,
        Database(database_url, DatabaseSettings()).running() as direct,
    ):
        assert (await ask(gateway, "/ollama/v1/models")).status == 200
        wire.cut()
        await eventually(lambda: _answers(gateway, "/readyz", 503))
        family = Families(Plugins.load().classes(), {})["ollama"]
        await GatewayRecords(direct).change(family, lambda _: {"enabled": False})
        assert (await ask(gateway, "/ollama/v1/models")).status == 200
        wire.down = False
        await eventually(lambda: _answers(gateway, "/ollama/v1/models", 404))


async def _answers(gateway: RunningGateway, path: str, status: int) -> bool:
    return (await ask(gateway, path)).status == status


# figures


@in_one_loop
async def test_metrics_are_those_of_the_running_server(machines: Machines) -> None:
    (before,) = json.loads(await machines.gateway("metrics", "--gateway", "ollama", "--json"))
    await machines.until("/api/generate", 200, PROMPT)
    await machines.until("/api/show", 404, {"model": "nosuch"})
    done = await asyncio.to_thread(http, f"{machines.servers[0].url}/api/generate", PROMPT, machines.key)
    (ollama,) = json.loads(await machines.gateway("metrics", "--gateway", "ollama", "--json"))
    told = ("requests", "ok", "refused", "failed", "cancelled", "context_full", "in_flight")
    assert {name: ollama[name] - before[name] for name in told} == {
        **{"requests": 3, "ok": 2, "refused": 1, "failed": 0, "cancelled": 0},
        **{"context_full": 0, "in_flight": 0},
    }
    assert ollama["prompt_tokens"] - before["prompt_tokens"] == 2 * done.json()["prompt_eval_count"]
    assert ollama["output_tokens"] - before["output_tokens"] >= done.json()["eval_count"]
    assert ollama["requests_per_second"] > 0
    assert ollama["first_byte_ms"] > 0
    families = {row["gateway"] for row in json.loads(await machines.gateway("metrics", "--json"))}
    assert families == {gateway.name for gateway in Plugins.load().classes()}
    assert "first_byte_ms" in await machines.gateway("metrics")
    done_wrong = await asyncio.to_thread(machines.here.run, "gateway", "metrics", "--gateway", "opnai")
    assert (done_wrong.returncode, done_wrong.stdout) == (1, "")
    assert done_wrong.stderr == "Error: there is no gateway 'opnai'; did you mean openai?\n"


def test_metrics_of_a_server_that_does_not_run_are_not_to_be_had(run: Run, tmp_path: Path) -> None:
    assert refused(run, "metrics") == f"Error: no server runs on {tmp_path}: these figures are its own\n"


async def execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
