"""`parallama doctor`: what it looks at, what it says, and its exit code."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest
from processes import Place, Running, place, processes_of

from parallama.testing import Answer, FakeOllama

NODE = {"PARALLAMA__NODES__0__NAME": "gone", "PARALLAMA__NODES__0__URL": "http://127.0.0.1:1"}


@pytest.fixture(scope="module")
def at_home() -> Iterator[tuple[Place, Running]]:
    """A quickstart with the simulator."""
    with place() as found:
        yield found, found.quickstart().ready()


def lines(text: str) -> dict[str, str]:
    """What is said of each thing: its whole line."""
    return {line[5:].split("  ")[0].strip(): line for line in text.splitlines()}


def test_all_is_well_beside_a_quickstart(at_home: tuple[Place, Running]) -> None:
    here, running = at_home
    done = here.run("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    found = lines(done.stdout)
    assert all(line.startswith("ok ") for line in found.values())
    assert "schema current; the embedded one" in found["database"]
    assert running.url in found["gateway"]
    (node,) = [line for what, line in found.items() if what.startswith("node simulator")]
    assert "qwen3:0.6b" in node
    assert "said hello in" in node


def test_it_leaves_the_running_gateway_alone(at_home: tuple[Place, Running]) -> None:
    here, running = at_home
    before = here.postgres()[0]
    assert here.run("doctor").returncode == 0
    assert here.postgres()[0] == before
    assert running.popen.poll() is None


def test_without_redis_in_the_settings_redis_is_not_asked(at_home: tuple[Place, Running]) -> None:
    here, _ = at_home
    assert "redis" not in here.run("doctor").stdout


def test_an_absent_redis_is_a_failure_that_names_it(at_home: tuple[Place, Running]) -> None:
    here, _ = at_home
    done = here.run("doctor", PARALLAMA_REDIS_URL=f"redis://:hunter2hunter2@127.0.0.1:{free_port()}/0")
    assert done.returncode == 1
    found = lines(done.stdout)
    assert found["redis"].startswith("FAIL ")
    assert found["database"].startswith("ok ")
    assert "hunter2" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_node_that_is_down_is_named(at_home: tuple[Place, Running]) -> None:
    here, _ = at_home
    done = here.run("doctor", "--data", str(here.root / "other"), **NODE)
    assert done.returncode == 1
    assert "FAIL node gone http://127.0.0.1:1 does not answer" in done.stdout
    assert "does not run on this state directory" in done.stdout


async def test_a_node_that_cannot_say_hello_is_a_failure(here: Place, node: FakeOllama, database_url: str) -> None:
    node.cue(Answer(status=500, error="out of memory"), "/api/generate")
    env = {"PARALLAMA__NODES__0__NAME": "one", "PARALLAMA__NODES__0__URL": node.url, "PARALLAMA_DB_URL": database_url}
    done = await asyncio.to_thread(here.run, "doctor", **env)
    assert done.returncode == 1
    assert "FAIL node one" in done.stdout
    assert "500" in done.stdout
    again = await asyncio.to_thread(here.run, "doctor", **env)
    assert again.returncode == 0, again.stdout
    assert "the configured one" in again.stdout


def test_a_database_that_is_down_is_a_failure_that_says_so(here: Place) -> None:
    done = here.run("doctor", PARALLAMA_DB_URL=f"postgresql://me:hunter2hunter2@127.0.0.1:{free_port()}/db", **NODE)
    assert done.returncode == 1
    assert lines(done.stdout)["database"].startswith("FAIL database")
    assert "hunter2" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_before_the_first_start_it_says_what_to_do_and_makes_nothing(here: Place) -> None:
    done = here.run("doctor", **NODE)
    assert done.returncode == 1
    assert "parallama quickstart" in lines(done.stdout)["database"]
    assert list(here.data.iterdir()) == []


def test_a_gateway_that_is_gone_is_not_taken_for_a_running_one(here: Place) -> None:
    running = here.quickstart().ready()
    running.popen.kill()
    running.popen.wait()
    done = here.run("doctor", **NODE)
    assert "does not run on this state directory" in done.stdout
    assert processes_of(here.data / "postgres") == []  # the last one to use the database has stopped it


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
