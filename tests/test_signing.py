"""The secret that signs access tokens: given, or made once and kept closed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr

from parallama.config import AuthSettings
from parallama.errors import ConfigError
from parallama.identity.signing import FILE, signing_secret


def test_the_secret_of_the_settings_signs(tmp_path: Path) -> None:
    given = "0123456789abcdef" * 2
    assert signing_secret(AuthSettings(jwt_secret=SecretStr(given)), tmp_path) == given
    assert not list(tmp_path.iterdir())


def test_a_secret_is_made_once_closed_to_others_and_kept(tmp_path: Path) -> None:
    made = signing_secret(AuthSettings(), tmp_path)
    assert len(made) >= 43
    assert signing_secret(AuthSettings(), tmp_path) == made
    assert [one.name for one in tmp_path.iterdir()] == [FILE]
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


async def test_of_many_first_starts_all_read_one_secret(tmp_path: Path) -> None:
    made = await asyncio.gather(*(asyncio.to_thread(signing_secret, AuthSettings(), tmp_path) for _ in range(20)))
    assert len(set(made)) == 1
    assert [one.name for one in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("0123456789abcdef" * 2, 0o644, "chmod 600"),
        ("short", 0o600, "must hold at least 32 random bytes"),
        ("x" * 64, 0o600, "must hold at least 32 random bytes"),
        ("", 0o600, "is empty"),
    ],
)
def test_a_weak_or_open_secret_file_is_refused(tmp_path: Path, text: str, mode: int, said: str) -> None:
    path = tmp_path / FILE
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=said) as caught:
        signing_secret(AuthSettings(), tmp_path)
    assert str(path) in str(caught.value)
    assert not text or text not in str(caught.value)


def test_a_state_directory_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be made: No such file or directory; or set auth\.jwt_secret"):
        signing_secret(AuthSettings(), tmp_path / "nowhere")
