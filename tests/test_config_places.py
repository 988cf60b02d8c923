"""Where the state directory is, and which Ollama OLLAMA_HOST means."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from parallama.config import NodeSettings, ollama_host, state_directory
from parallama.errors import ConfigError


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> int:
    """A user who is not root."""
    uid = pwd.getpwnam("nobody").pw_uid
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    return uid


def test_the_option_wins_over_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"PARALLAMA_DATA_DIR": "/from/variable", "HOME": "/home/x"}
    monkeypatch.chdir(tmp_path)
    assert state_directory(Path("here"), environ) == tmp_path / "here"
    assert state_directory(None, environ) == Path("/from/variable")


def test_root_has_the_system_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    environ = {"HOME": "/root", "XDG_DATA_HOME": "/x", "PARALLAMA_DATA_DIR": ""}
    assert state_directory(None, environ) == Path("/var/lib/parallama")


@pytest.mark.usefixtures("user")
@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/home/x", "XDG_DATA_HOME": "/data"}, "/data/parallama"),
        ({"HOME": "/home/x"}, "/home/x/.local/share/parallama"),
        ({"HOME": "/home/x", "XDG_DATA_HOME": ""}, "/home/x/.local/share/parallama"),
        ({"HOME": "/home/x", "XDG_DATA_HOME": "data"}, "/home/x/.local/share/parallama"),
    ],
)
def test_others_have_one_below_their_data_home(environ: dict[str, str], expected: str) -> None:
    assert state_directory(None, environ) == Path(expected)


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}])
def test_without_home_the_password_database_is_asked(environ: dict[str, str], user: int) -> None:
    home = Path(pwd.getpwuid(user).pw_dir)
    assert state_directory(None, environ) == home / ".local" / "share" / "parallama"


def test_a_user_without_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 2_000_000_123)
    with pytest.raises(ConfigError, match="set PARALLAMA_DATA_DIR"):
        state_directory(None, {})


@pytest.mark.parametrize(
    ("value", "url"),
    [
        (None, "http://127.0.0.1:11434"),
        ("", "http://127.0.0.1:11434"),
        ("  ", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        ("1.2.3.4:1234", "http://1.2.3.4:1234"),
        ("example.com", "http://example.com:11434"),
        ("example.com:1234", "http://example.com:1234"),
        ("example.com:", "http://example.com:11434"),
        (":1234", "http://127.0.0.1:1234"),
        (":0", "http://127.0.0.1:0"),
        ("http://1.2.3.4", "http://1.2.3.4:80"),
        ("http://1.2.3.4:1234", "http://1.2.3.4:1234"),
        ("https://1.2.3.4", "https://1.2.3.4:443"),
        ("https://1.2.3.4:1234", "https://1.2.3.4:1234"),
        ("example.com/ollama", "http://example.com:11434/ollama"),
        ("https://example.com/ollama/", "https://example.com:443/ollama"),
        ("http://example.com/a/b", "http://example.com:80/a/b"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:1234", "http://[::1]:1234"),
        ("::1", "http://[::1]:11434"),
        ("[0:0:0:0:0:0:0:1]", "http://[::1]:11434"),
        ("https://[fd00::1]", "https://[fd00::1]:443"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("[::]", "http://[::1]:11434"),
        ("[::]:1234", "http://[::1]:1234"),
        ('"1.2.3.4"', "http://1.2.3.4:11434"),
        ("' 1.2.3.4:1 '", "http://1.2.3.4:1"),
        (' "1.2.3.4" ', "http://1.2.3.4:11434"),
        ("1.2.3.4:66000", "http://1.2.3.4:11434"),
        ("1.2.3.4:-1", "http://1.2.3.4:11434"),
        ("1.2.3.4:abc", "http://1.2.3.4:11434"),
        ("http://1.2.3.4:66000", "http://1.2.3.4:80"),
        ("ollama.com", "https://ollama.com:443"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(value: str | None, url: str) -> None:
    assert ollama_host(value) == url
    assert NodeSettings(name="ollama", url=url).url == url
