"""Settings: where values come from, which source wins, what is refused, what is hidden."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from ordinaut.errors import ConfigurationError
from ordinaut.settings import Settings, mask


@pytest.fixture(autouse=True)
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory without .env and ordinaut.toml, and an environment without our variables."""
    import os

    for name in list(os.environ):
        if name.startswith("ORDINAUT_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def source_of(settings: Settings, name: str) -> str:
    return {setting: source for setting, _, source in settings.sources()}[name]


def test_every_source_beats_the_next_and_is_named(empty_place, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "dbname=from_url")
    assert Settings.load().dsn == "dbname=from_url"
    assert source_of(Settings.load(), "dsn") == "DATABASE_URL"

    for source, write in (
        ("ordinaut.toml", lambda: Path("ordinaut.toml").write_text('dsn = "dbname=toml"')),
        (".env", lambda: Path(".env").write_text("ORDINAUT_DSN=dbname=dotenv\n")),
        ("environment", lambda: monkeypatch.setenv("ORDINAUT_DSN", "dbname=env")),
    ):
        write()
        assert source_of(Settings.load(), "dsn") == source

    settings = Settings.load(dsn="dbname=given")
    assert (settings.dsn, source_of(settings, "dsn")) == ("dbname=given", "command line")
    assert source_of(settings, "ttl") == "default"


def test_none_on_the_command_line_means_not_given(monkeypatch):
    monkeypatch.setenv("ORDINAUT_CONCURRENCY", "7")
    assert Settings.load(concurrency=None).concurrency == 7


def test_durations_and_lists_are_written_as_people_write_them(monkeypatch):
    monkeypatch.setenv("ORDINAUT_TTL", "2 min")
    monkeypatch.setenv("ORDINAUT_POLL", "100 ms")
    monkeypatch.setenv("ORDINAUT_DRAIN", "90")
    monkeypatch.setenv("ORDINAUT_QUEUES", "mail, default")

    settings = Settings.load()

    assert settings.ttl == timedelta(minutes=2)
    assert settings.poll == timedelta(milliseconds=100)
    assert settings.drain == timedelta(seconds=90)
    assert settings.queues == ["mail", "default"]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("CONCURRENCY", "many", "setting concurrency (environment)"),
        ("CONCURRENCY", "0", "setting concurrency (environment)"),
        ("TTL", "5 parsec", "'parsec' is no unit of time"),
        ("POLL", "0", "more than zero"),
        ("TOOLS", "{sql", "tools"),
        ("DSN", "no dsn", "not a connection string"),
        ("LOG_FORMAT", "xml", "setting log_format (environment)"),
    ],
)
def test_a_bad_value_names_the_setting_and_its_source(monkeypatch, name, value, says):
    monkeypatch.setenv(f"ORDINAUT_{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        Settings.load()
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [("dns = 'x'", "unknown setting dns"), ("dsn = ", "ordinaut.toml"), ("[dsn]\na=1", "dsn")],
)
def test_a_bad_file_is_named(text, says):
    Path("ordinaut.toml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        Settings.load()
    assert says in str(caught.value)


def test_a_config_file_that_is_named_must_exist(monkeypatch):
    monkeypatch.setenv("ORDINAUT_CONFIG", "/nowhere/ordinaut.toml")
    with pytest.raises(ConfigurationError):
        Settings.load()


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://me:hunter2@db/app",
        "host=db password=hunter2 user=me",
        "postgresql://db/app?user=me&password=hunter2&sslpassword=hunter2",
        "postgresql://me:hunter2@@@:::",
        "hunter2 hunter2",
    ],
)
def test_a_password_is_never_shown(dsn, monkeypatch):
    assert "hunter2" not in mask(dsn)
    monkeypatch.setenv("ORDINAUT_DSN", dsn)
    try:
        shown = str(Settings.load().sources())
    except ConfigurationError as exc:
        shown = f"{exc} {exc.hint}"
    assert "hunter2" not in shown


def test_secrets_of_tools_are_not_shown(monkeypatch):
    monkeypatch.setenv("ORDINAUT_TOOLS", '{"http": {"token": "hunter2", "hosts": ["a"]}}')
    shown = str(Settings.load().sources())
    assert "hunter2" not in shown
    assert "hosts" in shown


def test_without_a_database_it_says_how_to_give_one():
    with pytest.raises(ConfigurationError) as caught:
        Settings.load().need_dsn()
    assert "ORDINAUT_DSN" in caught.value.hint


@pytest.mark.parametrize("dsn", ["host=h dbname=d", "postgresql://u@h/d?sslmode=require"])
def test_the_credential_is_the_password_of_a_dsn_without_one(tmp_path, monkeypatch, dsn):
    (tmp_path / "password").write_text("pa'ss \\\\ word\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    settings = Settings.load(dsn=dsn)

    assert conninfo_to_dict(settings.need_dsn())["password"] == "pa'ss \\\\ word"
    assert conninfo_to_dict(settings.need_dsn())["host"] == "h"
    assert "pa'ss" not in mask(settings.need_dsn())


@pytest.mark.parametrize("more", ["password=own", "passfile=/x"])
def test_a_dsn_with_a_password_keeps_it(tmp_path, monkeypatch, more):
    (tmp_path / "password").write_text("other")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    assert Settings.load(dsn=f"host=h {more}").need_dsn() == f"host=h {more}"


def test_no_credential_and_an_empty_one_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert Settings.load(dsn="host=h").need_dsn() == "host=h"

    (tmp_path / "password").write_text("\n")
    assert Settings.load(dsn="host=h").need_dsn() == "host=h"
