"""The settings: what there is, in which order the sources count, and the annotated file that is shipped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from parallama.config import NodeSettings, Settings, load_settings, places, resolve
from parallama.config.environment import variable
from parallama.config.schema import leaves
from parallama.errors import ConfigError

SHIPPED = Path(__file__).parents[1] / "etc" / "config.yaml"


@pytest.fixture(autouse=True)
def _no_system_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(places, "SYSTEM_FILE", tmp_path / "etc" / "config.yaml")


def written(directory: Path, text: str) -> Path:
    path = directory / "config.yaml"
    path.write_text(text)
    return path


def classes(model: type[BaseModel] = Settings) -> list[type[BaseModel]]:
    inner = [f.default for f in model.model_fields.values() if isinstance(f.default, BaseModel)]
    return [model, *(type(section) for section in inner), NodeSettings]


def test_without_any_source_the_defaults_are_in_force() -> None:
    settings = load_settings(environ={})
    assert settings == Settings()
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8000)
    assert [(node.name, node.url) for node in settings.nodes] == [("ollama", "http://127.0.0.1:11434")]
    assert settings.relay.forward_headers == ("accept", "content-type", "traceparent", "tracestate")
    assert settings.database.url is None


def test_flags_win_over_the_environment_over_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, "server: {port: 1, drain_s: 1, keepalive_s: 1}")
    environ = {"PARALLAMA__SERVER__PORT": "2", "PARALLAMA__SERVER__DRAIN_S": "2"}
    resolved = resolve(path, environ=environ, flags={"server.port": 3, "server.host": None})
    server = resolved.settings.server
    assert (server.port, server.drain_s, server.keepalive_s, server.max_body_mb) == (3, 2, 1, 64)
    origins = {row.key: row.origin for row in resolved.rows()}
    assert origins["server.port"] == "command line"
    assert origins["server.drain_s"] == "PARALLAMA__SERVER__DRAIN_S"
    assert origins["server.keepalive_s"] == f"{path}:1"
    assert origins["server.host"] == origins["server.max_body_mb"] == "default"


def test_settings_do_not_change() -> None:
    settings = load_settings(environ={})
    with pytest.raises(ValidationError):
        settings.server.port = 1  # type: ignore[misc]


def test_every_field_says_what_it_is() -> None:
    for model in classes():
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"


def test_nothing_is_read_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "server: {port: 1}")
    monkeypatch.chdir(tmp_path)
    assert load_settings(environ={}).server.port == 8000


def test_the_system_file_is_read_when_no_other_is_named(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    written(tmp_path / "etc", "server: {port: 1}")
    other = written(tmp_path, "server: {port: 2}")
    assert load_settings(environ={}).server.port == 1
    assert load_settings(environ={"PARALLAMA_CONFIG": str(other)}).server.port == 2
    assert load_settings(other, environ={"PARALLAMA_CONFIG": "/nowhere"}).server.port == 2


@pytest.mark.parametrize("named", [{}, {"PARALLAMA_CONFIG": "/nowhere/config.yaml"}])
def test_a_named_file_must_exist(named: dict[str, str]) -> None:
    option = None if named else Path("/nowhere/config.yaml")
    with pytest.raises(ConfigError, match=r"^/nowhere/config\.yaml: .*No such file"):
        load_settings(option, environ=named)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "server:\nnodes:\ngateways:\n", "\ufeffserver:\n"])
def test_an_empty_file_or_section_means_the_defaults(tmp_path: Path, text: str) -> None:
    assert load_settings(written(tmp_path, text), environ={}) == Settings()


def sample(key: tuple[str | int, ...], default: Any) -> str:
    """Text that sets `key` to something that is not its default."""
    special = {
        **{"level": "debug", "timezone": "Europe/Berlin", "forward_headers": "[x-one]", "gateways": "{a: {b: 1}}"},
        **{"trusted_proxies": "[10.0.0.0/8]", "cors_origins": "[https://a]", "min_password_length": "9"},
        "weights": "{a: 2}",
        **dict.fromkeys(("jwt_secret", "jwt_previous_secret"), "-0123456789-abcdefghijklmnop-qrstuv"),
    }
    if key[:1] == ("redis",) and key[-1] == "url":
        return "redis://r"
    urls = {"database": "postgres://h/d", "nodes": "http://n"}
    if key[-1] == "url":
        return urls[str(key[0])]
    if str(key[-1]) in special:
        return special[str(key[-1])]
    return str(not default) if isinstance(default, bool) else "7"


@pytest.mark.parametrize("key", [key for key in leaves() if not str(key[-1]).endswith("_file")], ids=str)
def test_every_key_can_be_set_by_its_variable(key: tuple[str | int, ...], tmp_path: Path) -> None:
    def value(settings: Any) -> Any:
        for step in key:
            settings = settings[step] if isinstance(step, int) else getattr(settings, step)
        return settings

    default = value(Settings())
    text = str(tmp_path) if key[-1] == "directory" else sample(key, default)
    resolved = resolve(environ={variable(key): text})
    assert value(resolved.settings) != default
    assert resolved.origins[key].source == variable(key)


def test_short_variable_names_set_the_secrets() -> None:
    environ = {
        "PARALLAMA_DB_URL": "postgresql://h/one",
        "PARALLAMA_REDIS_URL": "redis://h",
        "PARALLAMA_JWT_SECRET": "[jwt-0123456789-abcdefghijklmnop-qrstuv",
    }
    settings = load_settings(environ=environ)
    found = (settings.database.url, settings.redis.url, settings.auth.jwt_secret)
    assert [secret and secret.get_secret_value() for secret in found] == list(environ.values())


def test_one_key_may_not_have_two_values_in_the_environment() -> None:
    environ = {"PARALLAMA_DB_URL": "postgres://h/one", "PARALLAMA__DATABASE__URL": "postgres://h/two"}
    with pytest.raises(ConfigError, match=r"PARALLAMA__DATABASE__URL: PARALLAMA_DB_URL sets database\.url too"):
        load_settings(environ=environ)
    same = dict.fromkeys(environ, "postgres://h/one")
    assert load_settings(environ=same).database.url is not None


def test_empty_variables_count_as_not_set(tmp_path: Path) -> None:
    environ = {"PARALLAMA_DB_URL": "", "PARALLAMA__SERVER__PORT": "", "PARALLAMA_CONFIG": ""}
    path = written(tmp_path, "database: {url: '${DB:-}', url_file: '${FILE:-}'}")
    assert load_settings(path, environ=environ) == Settings()


def test_a_variable_may_hold_a_list_or_a_mapping() -> None:
    environ = {
        "PARALLAMA__NODES": "[{name: one, url: http://one}]",
        "PARALLAMA__NODES__0__PROBE_S": "3",
        "PARALLAMA__GATEWAYS__OLLAMA": "{a: {b: [1, 2]}}",
        "PARALLAMA__GATEWAYS__OLLAMA__C": "text",
        "parallama__server": "{port: 5}",
    }
    settings = load_settings(environ=environ)
    assert [(node.name, node.probe_s) for node in settings.nodes] == [("one", 3)]
    assert settings.gateways == {"ollama": {"a": {"b": [1, 2]}, "c": "text"}}
    assert settings.server.port == 5


def test_a_variable_of_a_key_wins_over_that_of_its_section() -> None:
    short, section = (f"{name}-0123456789-abcdefghijklmnop-qrstuv" for name in ("short", "section"))
    environ = {"PARALLAMA_JWT_SECRET": short, "PARALLAMA__AUTH": f"{{jwt_secret: {section}, cache_entries: 3}}"}
    auth = load_settings(environ=environ).auth
    assert auth.jwt_secret is not None
    assert (auth.jwt_secret.get_secret_value(), auth.cache_entries) == (short, 3)


@pytest.mark.parametrize("weak", ["hunter2", "0123456789" * 3, "secret" * 10])
def test_a_weak_key_for_tokens_is_refused_without_telling_it(weak: str) -> None:
    with pytest.raises(ConfigError, match=r"auth\.jwt_secret .*must be at least 32 random bytes; make one: ") as caught:
        load_settings(environ={"PARALLAMA_JWT_SECRET": weak})
    assert weak not in str(caught.value)


@pytest.mark.parametrize("origin", ["*", "null", "chat.example.org", "https://a/b", "https://", "ftp://a"])
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.cors_origins\.0 .*must be an origin"):
        load_settings(environ={"PARALLAMA__SERVER__CORS_ORIGINS": f'["{origin}"]'})


@pytest.mark.parametrize("proxy", ["10.0.0.0/33", "proxy.example.org", "10.0.0.1/8", ""])
def test_what_is_no_network_is_refused(proxy: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.trusted_proxies\.0 .*must be an address or a range"):
        load_settings(environ={"PARALLAMA__SERVER__TRUSTED_PROXIES": f'["{proxy}"]'})


def test_an_option_of_a_gateway_may_be_null(tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path, "gateways: {g: {x: null, y: 2026-01-01}, h: }"), environ={})
    assert settings.gateways == {"g": {"x": None, "y": "2026-01-01"}}


def test_a_variable_changes_one_field_of_the_default_node() -> None:
    (node,) = load_settings(environ={"PARALLAMA__NODES__0__URL": "https://gpu:1/ollama/"}).nodes
    assert (node.name, node.url) == ("ollama", "https://gpu:1/ollama")


def test_a_list_in_the_file_replaces_the_default(tmp_path: Path) -> None:
    text = "nodes:\n- {name: gpu-1, url: 'http://[::1]:1/'}\nrelay: {forward_headers: [X-Trace, accept]}"
    settings = load_settings(written(tmp_path, text), environ={})
    assert [(node.name, node.url) for node in settings.nodes] == [("gpu-1", "http://[::1]:1")]
    assert settings.relay.forward_headers == ("x-trace", "accept")


def test_placeholders_are_replaced_inside_values(tmp_path: Path) -> None:
    text = """
server: {host: "${HOST}", port: "${PORT:-81}", drain_s: "${DRAIN}"}
gateways: {g: {plain: "$${HOST} $5 {x}", two: "${HOST}-${NONE:-a:-b}", "${HOST}": 1}}
"""
    environ = {"HOST": "h", "PORT": "", "DRAIN": "2.5"}
    settings = load_settings(written(tmp_path, text), environ=environ)
    assert (settings.server.host, settings.server.port, settings.server.drain_s) == ("h", 81, 2.5)
    assert settings.gateways["g"] == {"plain": "${HOST} $5 {x}", "two": "h-a:-b", "${HOST}": 1}


def test_relative_paths_count_from_the_directory_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "logs: {directory: logs}")
    assert load_settings(path, environ={}).logs.directory == tmp_path / "logs"
    with pytest.raises(ConfigError, match=r"LOGS__DIRECTORY: .*must be an absolute path"):
        load_settings(environ={"PARALLAMA__LOGS__DIRECTORY": "logs"})


def uncommented() -> str:
    return re.sub(r"(?m)^( *)#(?=[a-z-]|  [a-z])", r"\1", SHIPPED.read_text())


def test_the_shipped_file_loads_and_changes_nothing() -> None:
    assert load_settings(SHIPPED, environ={}) == Settings()


def test_the_shipped_file_shows_every_key_with_its_default(tmp_path: Path) -> None:
    path = written(tmp_path, uncommented())
    assert load_settings(path, environ={}) == Settings()
    document = yaml.safe_load(path.read_text())
    for key in leaves():
        here = document
        for step in key:
            here = here[step]
