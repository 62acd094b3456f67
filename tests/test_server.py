"""Where the suite's server comes from, and the one sentence when there is none."""

from __future__ import annotations

import pytest

from tests import postgres


@pytest.fixture(autouse=True)
def no_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    monkeypatch.delenv("ORDINAUT_TEST_DSN", raising=False)
    monkeypatch.delenv("ORDINAUT_TEST_IMAGE", raising=False)


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("docker", r"^Docker cannot run postgres:18 \(.+\): start it or set DOCKER_HOST"),
        ("docker:15", r"^Docker cannot run postgres:15 "),
        ("7", r"^no PostgreSQL 7 binaries .+, and Docker cannot run postgres:7 "),
        ("newest", r"^ORDINAUT_TEST_PG=newest: it takes 15, docker or docker:15$"),
    ],
)
def test_without_a_server_one_sentence_says_why(
    wanted: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDINAUT_TEST_PG", wanted)

    with pytest.raises(postgres.NoServer, match=said) as none:
        postgres.start()

    assert "\n" not in str(none.value)


def test_a_server_of_yours_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDINAUT_TEST_DSN", "host=mine")
    monkeypatch.setenv("ORDINAUT_TEST_PG", "docker")

    assert postgres.start().dsn == "host=mine"
