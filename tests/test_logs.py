"""JSON lines by topic, with secrets masked."""

import json
import logging
import time
from logging.handlers import BufferingHandler
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallama.app import build_app
from parallama.config import LogsSettings, Settings
from parallama.logs import TOPICS, JsonFormatter, Masker, hide, logging_to

KEY = "plm_" + "A" * 43 + "_123456"


def _line(message: str, mask: Masker | None = None, **fields: object) -> str:
    record = logging.makeLogRecord({"name": "parallama.api", "msg": message, "levelno": 20, "levelname": "INFO"})
    record.fields = fields
    return JsonFormatter(mask or Masker()).format(record)


@given(st.text(), st.text())
def test_any_text_becomes_exactly_one_line_of_json(message: str, value: str) -> None:
    line = _line("x", name=value.encode("utf-8", "replace").decode(), note=message.encode("utf-8", "replace").decode())
    assert len(line.splitlines()) <= 1 or "\n" not in line
    assert json.loads(line)["topic"] == "api"


def test_control_characters_cannot_forge_a_line() -> None:
    line = _line("x", user='bob\n{"level":"error"}\x1b[2J')
    assert "\n" not in line
    assert "\x1b" not in line


def test_keys_urls_and_configured_secrets_are_masked_wherever_they_stand() -> None:
    mask = Masker(["hunter2-hunter2"])
    line = _line(f"tried {KEY}", mask, url="postgresql://bob:pass@db/x", deep={"a": ["hunter2-hunter2"]})
    assert not any(secret in line for secret in (KEY, "bob:pass", "hunter2"))
    assert "db/x" in line


def test_each_topic_has_its_file_and_strangers_go_to_error(tmp_path: Path) -> None:
    with logging_to(LogsSettings(directory=tmp_path, level="info")):
        for topic in TOPICS:
            logging.getLogger(f"parallama.{topic}").info("said by %s", topic)
        logging.getLogger("asyncio").warning("stranger")
    said = {p.stem: [json.loads(line) for line in p.read_text().splitlines()] for p in tmp_path.glob("*.log")}
    assert {topic: lines[0]["event"] for topic, lines in said.items()} == {t: f"said by {t}" for t in TOPICS}
    assert [line["event"] for line in said["error"]] == ["said by error", "stranger"]


@pytest.mark.parametrize("name", ["parallama", "parallama.api"])
def test_whoever_else_listens_hears_of_requests(tmp_path: Path, name: str) -> None:
    listener, logger = BufferingHandler(10), logging.getLogger(name)
    logger.addHandler(listener)
    try:
        with logging_to(LogsSettings(directory=tmp_path, level="info")):
            logging.getLogger("parallama.api").info("request")
        assert [record.getMessage() for record in listener.buffer] == ["request"]
        assert listener in logger.handlers
    finally:
        logger.removeHandler(listener)
    assert len((tmp_path / "api.log").read_text().splitlines()) == 1


def test_files_rotate(tmp_path: Path) -> None:
    with logging_to(LogsSettings(directory=tmp_path, max_mb=1, backups=2)):
        for _ in range(40):
            logging.getLogger("parallama.api").info("x" * 100_000)
    assert {p.name for p in tmp_path.glob("api*")} == {"api.log", "api.log.1", "api.log.2"}
    assert all(p.stat().st_size <= 1024 * 1024 for p in tmp_path.glob("api*"))


def test_without_a_directory_lines_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(LogsSettings()):
        logging.getLogger("parallama.gateway").info("hello", extra={"fields": {"node": "n"}})
        logging.getLogger("parallama.gateway").debug("unseen")
    out, err = capsys.readouterr()
    assert out == ""
    assert [(line["event"], line["node"]) for line in map(json.loads, err.splitlines())] == [("hello", "n")]


@pytest.mark.parametrize("fields", [{"name": "lone \udc80"}, {"number": 2**70}])
def test_what_cannot_be_written_costs_no_other_line(
    fields: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    log = logging.getLogger("parallama.api")
    with logging_to(LogsSettings()):
        log.info("before")
        log.info("bad", extra={"fields": fields})
        for _ in range(100):
            log.info("after %(number)s", {"number": 1})
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert (events[0], events[2:]) == ("before", ["after 1"] * 100)
    assert "cannot be written" in events[1]


def test_every_line_until_the_end_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(50):
        with logging_to(LogsSettings()):
            logging.getLogger("parallama.api").info("one")
            time.sleep(0)
            logging.getLogger("parallama.api").info("two")
    assert len(capsys.readouterr().err.splitlines()) == 100


def test_flush_writes_what_waits(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(LogsSettings()):
        logging.getLogger("parallama.api").info("one")
        (handler,) = logging.getLogger().handlers
        handler.flush()
        assert "one" in capsys.readouterr().err


def test_a_bug_is_logged_whole_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(LogsSettings()):
        try:
            raise RuntimeError(f"broken with {KEY}")
        except RuntimeError:
            logging.getLogger("parallama.error").exception("bug")
    (line,) = capsys.readouterr().err.splitlines()
    assert "RuntimeError: broken" in json.loads(line)["traceback"]
    assert KEY not in line


def test_a_secret_that_json_escapes_is_masked_too() -> None:
    secret = 'pa"ss\\word'
    line = _line(f"with {secret}", Masker([secret]), field=[secret])
    assert json.loads(line)["event"] == "with ********"
    assert json.loads(line)["field"] == ["********"]


def test_a_secret_that_is_made_while_logs_are_written_is_masked_beside_the_configured_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with logging_to(LogsSettings(), ["hunter2-hunter2"]):
        hide("made-by-the-server")
        logging.getLogger("parallama.error").error("signed with %s", "made-by-the-server hunter2-hunter2")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "signed with ******** ********"


def test_the_key_that_signs_tokens_is_masked_although_no_setting_holds_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = "a-secret-that-only-the-application-knows"
    monkeypatch.setattr("parallama.app.token_urlsafe", lambda _size: made)
    with logging_to(LogsSettings()):
        build_app(Settings(), "postgresql://nobody@127.0.0.1:1/none", Path("nowhere"))
        logging.getLogger("parallama.error").error("signed with %s", made)
    assert "signed with ********" in capsys.readouterr().err


@pytest.mark.parametrize(
    "token", ["rt_" + "A" * 43 + "_123456", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJib2IifQ.c2lnbmF0dXJl-_"]
)
def test_tokens_are_masked_too(token: str) -> None:
    assert json.loads(_line(f"tried {token} twice", Masker()))["event"] == "tried ******** twice"


def test_a_path_cannot_mask_other_fields() -> None:
    line = json.loads(_line("x", path="/api/a://b", user="bob@example.com"))
    assert (line["path"], line["user"]) == ("/api/a://b", "bob@example.com")
