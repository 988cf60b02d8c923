"""Secrets: files that hold them are closed to others, and no secret reaches a message or `config show`."""

from __future__ import annotations

import json
import os
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from parallama.config import Settings, load_settings, mask_url, resolve, secrets
from parallama.errors import ConfigError

JWT = "jwt-0123456789-abcdefghijklmnop-qrstuv"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "jwt.key"
    path.write_text(f"{JWT}\n")
    path.chmod(0o600)
    return path


def jwt(settings: Settings) -> str | None:
    secret = settings.auth.jwt_secret
    return secret.get_secret_value() if secret else None


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_a_secret_is_read_from_a_closed_file(mode: int, key_file: Path, tmp_path: Path) -> None:
    key_file.chmod(mode)
    path = tmp_path / "config.yaml"
    path.write_text("auth:\n  jwt_secret_file: jwt.key\n")
    resolved = resolve(path, environ={})
    assert jwt(resolved.settings) == JWT
    assert resolved.origins["auth", "jwt_secret"].source == str(key_file)


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o601, 0o602, 0o620])
def test_a_secret_file_that_is_open_to_others_is_refused(mode: int, key_file: Path, tmp_path: Path) -> None:
    key_file.chmod(mode)
    path = tmp_path / "config.yaml"
    path.write_text(f"auth:\n  jwt_secret_file: {key_file}\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(path, environ={})
    wrong = f"{key_file} has mode {mode:04o}, which opens it to others: chmod 600 {key_file}"
    assert str(caught.value) == f"{path}:2: auth.jwt_secret_file: {wrong}"


def _unusable(directory: Path) -> Iterator[tuple[Path, str]]:
    yield directory / "missing", "cannot be read: No such file"
    yield directory, "is not a regular file"
    os.mkfifo(directory / "fifo", 0o600)
    yield directory / "fifo", "is not a regular file"
    for name, data, reason in [
        ("empty", b"\n", "is empty"),
        ("binary", b"\xff\xfe", "is not UTF-8 text"),
        ("long", b"x" * 70_000, "is longer than"),
    ]:
        (directory / name).write_bytes(data)
        (directory / name).chmod(0o600)
        yield directory / name, reason


def test_a_secret_file_without_a_secret_is_refused(tmp_path: Path) -> None:
    for file, reason in _unusable(tmp_path):
        with pytest.raises(ConfigError, match=rf"PARALLAMA__AUTH__JWT_SECRET_FILE: .*{file} {reason}"):
            load_settings(environ={"PARALLAMA__AUTH__JWT_SECRET_FILE": str(file)})


def test_only_the_last_newline_of_a_secret_file_goes(key_file: Path) -> None:
    key_file.write_text(f" {JWT} \n\n")
    assert jwt(load_settings(environ={"PARALLAMA__AUTH__JWT_SECRET_FILE": str(key_file)})) == f" {JWT} \n"


def test_a_secret_and_its_file_in_one_source_are_refused(key_file: Path, tmp_path: Path) -> None:
    environ = {"PARALLAMA_JWT_SECRET": "x", "PARALLAMA__AUTH__JWT_SECRET_FILE": str(key_file)}
    with pytest.raises(ConfigError, match=r"auth\.jwt_secret and auth\.jwt_secret_file are both set"):
        load_settings(environ=environ)
    path = tmp_path / "config.yaml"
    path.write_text(f"auth:\n  jwt_secret_file: {key_file}\n  jwt_secret: x\n")
    with pytest.raises(ConfigError, match=rf"{path}:3: .* are both set"):
        load_settings(path, environ={})


def test_a_secret_of_a_higher_source_wins_over_a_file_of_a_lower_one(key_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("auth: {jwt_secret_file: not-there}\n")
    settings = load_settings(
        path, environ={"PARALLAMA_JWT_SECRET": "from-environment-0123456789-abcdefghijklmnop-qrstuv"}
    )
    assert (jwt(settings), settings.auth.jwt_secret_file) == (
        "from-environment-0123456789-abcdefghijklmnop-qrstuv",
        None,
    )
    path.write_text("auth: {jwt_secret: from-file-0123456789-abcdefghijklmnop-qrstuv}\n")
    assert jwt(load_settings(path, environ={"PARALLAMA__AUTH__JWT_SECRET_FILE": str(key_file)})) == JWT


def test_the_url_in_a_file_is_checked_like_any(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("mysql://u:hunter2hunter2@h/d")
    file.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={"PARALLAMA__DATABASE__URL_FILE": str(file)})
    assert str(caught.value) == (f"{file}: database.url is ********, but must begin with postgresql:// or postgres://")


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgres://u:secret@h:5/d?sslmode=require", "postgres://u:********@h:5/d?sslmode=require"),
        ("postgres://u:se@cret@h/d", "postgres://u:********@h/d"),
        ("postgres://h/d?user=u&password=secret&x=y", "postgres://h/d?user=u&password=********&x=y"),
        ("postgres://u:se/cret@h/d", "postgres://********"),
        ("postgres://h:5/d?password=se@cret", "postgres://********"),
        ("redis://:secret@h:6379/0", "redis://:********@h:6379/0"),
        ("http://127.0.0.1:11434/x", "http://127.0.0.1:11434/x"),
        ("u:secret@h", "********"),
        ("plain text", "plain text"),
        ("admin@example.org", "admin@example.org"),
    ],
)
def test_passwords_in_urls_are_masked(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_secrets_are_whole_and_in_part_what_must_not_be_logged() -> None:
    url = "postgres://user:p%40ss@host/db?sslpassword=other"
    environ = {"PARALLAMA_DB_URL": url, "PARALLAMA_REDIS_URL": "redis://host/0", "PARALLAMA_JWT_SECRET": JWT}
    found = secrets(load_settings(environ=environ))
    assert found == [url, JWT, "p%40ss", "other", "p@ss"]


secret_text = st.text(string.ascii_letters + string.digits + string.punctuation + " ü", min_size=10, max_size=30).map(
    "Z9abcdefghijklmnopqrstuvw{}".format
)
WRONG = [
    "server: {port: abc}",
    "server: {port: 1, port: 2}",
    "servr: {port: 1}",
    "logs: {directory: '${NOT_SET}'}",
    "usage: 3",
    "- x",
    "relay: {",
]


@given(jwt=secret_text, database=secret_text, redis=secret_text)
def test_config_show_holds_no_secret(
    tmp_path_factory: pytest.TempPathFactory, jwt: str, database: str, redis: str
) -> None:
    document = {
        "auth": {"jwt_secret": jwt},
        "database": {"url": f"postgres://u:{database}@h/d"},
        "redis": {"url": f"${{X:-}}redis://:{redis}@h/0"},
        "gateways": {"g": {"password": jwt, "inner": [{"api_key": database}]}},
    }
    path = tmp_path_factory.getbasetemp() / "show.yaml"
    text = yaml.safe_dump(document, allow_unicode=True, width=10_000)
    path.write_text(text.replace("${", "$${").replace("$${X:-}", "${X:-}"))
    resolved = resolve(path, environ={})
    printed = [f"{row.key} {row.value} {row.origin}" for row in resolved.rows()]
    for secret in (jwt, database, redis):
        assert not [line for line in printed if secret in line]
    assert jwt in secrets(resolved.settings)
    assert database in secrets(resolved.settings)


@given(jwt=secret_text, database=secret_text, redis=secret_text, wrong=st.sampled_from(WRONG), quoted=st.booleans())
def test_no_error_holds_a_secret(
    tmp_path_factory: pytest.TempPathFactory, jwt: str, database: str, redis: str, wrong: str, quoted: bool
) -> None:
    def said(text: str) -> str:
        return json.dumps(text, ensure_ascii=False) if quoted else text

    path = tmp_path_factory.getbasetemp() / "wrong.yaml"
    path.write_text(
        f"auth:\n  jwt_secret: {said(jwt)}\n"
        f"database:\n  url: {said(f'postgres://u:{database}@h/d')}\n"
        f"redis:\n  url: {said(f'redis://:{redis}@h/0')}\n{wrong}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_settings(path, environ={})
    for secret in (jwt, database, redis):
        assert secret not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "auth:\n  jwt_secret:hunter2hunter2",
        "auth: {jwt_secret:hunter2hunter2}",
        "auth: {jwt_secret=hunter2hunter2: 1}",
        "auth: {jwt_secret: {hunter2hunter2: 1, hunter2hunter2: 2}}",
        "auth: {jwt_secret: [hunter2hunter2]}",
        "auth: {jwt_secret: !hunter2hunter2 x}",
        "auth: {jwt_secret: *hunter2hunter2}",
        "auth: {jwt_secrt: hunter2hunter2}",
        "database:\n  url postgres://u:hunter2hunter2@h",
        "database: {url: 'mysql://u:hunter2hunter2@h'}",
        "nodes: [{name: n, url: 'http://u:hunter2hunter2@h'}]",
        "nodes: [{name: n, url: 'u:hunter2hunter2@h'}]",
    ],
)
def test_a_mistyped_secret_is_not_shown(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(path, environ={})
    assert "hunter2" not in str(caught.value)
