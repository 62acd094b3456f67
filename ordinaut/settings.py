"""
Settings: the only reader of the environment.

From strongest to weakest: the command line, `ORDINAUT_*`, `.env`, `ordinaut.toml` (or the file
that ORDINAUT_CONFIG names), `DATABASE_URL` for the DSN alone, and the defaults below.  `sources`
says of every value where it came from, because "which file did it read?" is half of support.
Under systemd a DSN without a password gets that of the credential `password`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ordinaut.errors import ConfigurationError

_UNITS = {
    "ms": 0.001, "": 1, "s": 1, "sec": 1, "second": 1, "seconds": 1, "m": 60, "min": 60,
    "minute": 60, "minutes": 60, "h": 3600, "hour": 3600, "hours": 3600, "d": 86400, "day": 86400,
    "days": 86400,
}  # fmt: skip
_DURATION = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_SECRET = re.compile(r"pass|secret|token|key|credential", re.IGNORECASE)
_MASK = "********"


def duration(value: Any) -> Any:
    """Read '250 ms', '10 s', '5 min' or a number of seconds; leave the rest to pydantic."""
    if isinstance(value, str) and (found := _DURATION.fullmatch(value)):
        number, unit = found.groups()
        if unit.lower() not in _UNITS:
            raise ValueError(f"{unit!r} is no unit of time; write ms, s, min, h or d")
        return timedelta(seconds=float(number) * _UNITS[unit.lower()])
    return value


def _names(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


Duration = Annotated[timedelta, BeforeValidator(duration)]
Names = Annotated[list[str], NoDecode, BeforeValidator(_names)]


class Settings(BaseSettings):
    """What the processes of this machine are told.  Read it with `load`."""

    model_config = SettingsConfigDict(
        env_prefix="ORDINAUT_",
        env_file=".env",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    dsn: str | None = Field(None, description="PostgreSQL: a conninfo string or URL")
    pooled: bool = Field(
        False, description="a pooler stands between; PgBouncer is found out and need not be told"
    )
    listen_dsn: str | None = Field(
        None, description="the same database without the pooler, to listen on"
    )
    notify: bool = Field(True, description="listen for new work; off: poll only")
    queues: Names = Field(["default"], min_length=1, description="what a worker leases from")
    concurrency: int = Field(2, ge=1, le=256, description="children of a worker")
    name: str | None = Field(None, description="a worker's name for people; default: the host")
    ttl: Duration = Field(timedelta(seconds=60), description="silence that means dead")
    heartbeat: Duration = Field(timedelta(seconds=10), description="between signs of life")
    drain: Duration = Field(timedelta(seconds=30), description="to finish work after SIGTERM")
    poll: Duration = Field(timedelta(milliseconds=250), description="between looks for work")
    tools: dict[str, Any] = Field(
        default_factory=dict, description="which tools a worker offers: sql, shell, http, python"
    )
    tool_role: str | None = Field(None, description="role of the connection that tools get")
    condition_role: str | None = Field(
        None, description="whose rights the queries of conditions have; default: the scheduler's"
    )
    secrets_dir: Path | None = Field(
        None, description='files that payloads name as {"$secret": file}'
    )
    keep: str = Field("30 days", description="how long finished runs stay")
    data: Path = Field(Path(".ordinaut"), description="where `ordinaut dev` keeps its database")
    log_format: Literal["text", "json"] = Field("text", description="of log lines")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least")

    _where: dict[str, str] = PrivateAttr(default_factory=dict)

    @field_validator("dsn", "listen_dsn")
    @classmethod
    def _valid_dsn(cls, value: str | None) -> str | None:
        try:
            conninfo_to_dict(value or "")
        except psycopg.ProgrammingError:
            # libpq quotes what it could not read, and that may be the password.
            raise ValueError(
                "not a connection string; write postgresql://user@host:5432/database"
                " or host=… dbname=…"
            ) from None
        return value or None

    @field_validator("ttl", "heartbeat", "poll")
    @classmethod
    def _positive(cls, value: timedelta) -> timedelta:
        if value <= timedelta(0):
            raise ValueError("must be more than zero")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, *(source for _, source in _sources(settings_cls)))

    @classmethod
    def load(cls, **given: Any) -> Settings:
        """Read the settings; `given` is the command line, in which None means not given.

        Raises:
            ConfigurationError: naming the setting and where it came from.
        """
        given = {name: value for name, value in given.items() if value is not None}
        try:
            settings = cls(**given)
            origin = _origin(given)
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False)[0]
            name = str(first["loc"][0]) if first["loc"] else ""
            where = _origin(given).get(name, "default")
            raise ConfigurationError(
                f"setting {name} ({where}): {first['msg'].removeprefix('Value error, ')}",
                f"Correct it: {cls.model_fields[name].description}." if name else "",
            ) from None
        except tomllib.TOMLDecodeError as exc:
            raise ConfigurationError(f"{_toml()}: {exc}", "Correct the file.") from None
        except OSError as exc:
            raise ConfigurationError(f"{exc.filename}: {exc.strerror}") from None
        except (ValueError, TypeError) as exc:  # pydantic-settings: a value that is no JSON
            raise ConfigurationError(str(exc), "Write it as JSON.") from None
        settings._where = origin
        return settings

    def sources(self) -> list[tuple[str, str, str]]:
        """Return (setting, value fit to be shown, where it came from), in order of definition."""
        return [
            (name, shown(name, getattr(self, name)), self._where.get(name, "default"))
            for name in type(self).model_fields
        ]

    def need_dsn(self) -> str:
        """Return the DSN, or say how to give one."""
        if self.dsn is None:
            raise ConfigurationError(
                "no database is configured",
                "Give --dsn, set ORDINAUT_DSN or DATABASE_URL, or write dsn into ordinaut.toml."
                " To try things out without one: ordinaut dev.",
            )
        return _with_password(self.dsn)


def _with_password(dsn: str) -> str:
    """Return the DSN with the password that systemd keeps for us, if it has none of its own.

    Raises:
        ConfigurationError: the credential cannot be read.
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    params = conninfo_to_dict(dsn)
    if not directory or {"password", "passfile"} & params.keys():
        return dsn
    try:
        password = Path(directory, "password").read_text().removesuffix("\n")
    except FileNotFoundError:
        return dsn
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"systemd's credential password cannot be read: {exc}") from None
    return make_conninfo("", **params | {"password": password}) if password else dsn


class _DatabaseUrl(PydanticBaseSettingsSource):
    """DATABASE_URL, which many hosts set; of the environment or of .env."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        dotenv = DotEnvSettingsSource(self.settings_cls).env_vars.get("database_url")
        url = os.environ.get("DATABASE_URL") or dotenv
        return {"dsn": url} if url else {}


def _toml() -> Path:
    return Path(os.environ.get("ORDINAUT_CONFIG", "ordinaut.toml"))


def _sources(cls: type[BaseSettings]) -> Iterator[tuple[str, PydanticBaseSettingsSource]]:
    yield "environment", EnvSettingsSource(cls)
    yield ".env", DotEnvSettingsSource(cls)
    path = _toml()
    if "ORDINAUT_CONFIG" in os.environ and not path.is_file():
        raise ConfigurationError(f"ORDINAUT_CONFIG names {path}, which is no file")
    toml = TomlConfigSettingsSource(cls, path)
    if unknown := set(toml()) - set(cls.model_fields):
        raise ConfigurationError(
            f"{path}: unknown setting {', '.join(sorted(unknown))}",
            f"Known are: {', '.join(cls.model_fields)}.",
        )
    yield str(path), toml
    yield "DATABASE_URL", _DatabaseUrl(cls)


def _origin(given: dict[str, Any]) -> dict[str, str]:
    where = dict.fromkeys(given, "command line")
    for label, source in _sources(Settings):
        for name in source():
            where.setdefault(name, label)
    return where


def shown(name: str, value: Any) -> str:
    """Return a setting as text, without its secrets."""
    if value is None:
        return "-"
    if name in ("dsn", "listen_dsn"):
        return mask(value)
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(_masked(value))


def mask(dsn: str) -> str:
    """Return a DSN in keyword form without its passwords."""
    try:
        params = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        return "(not a connection string)"
    safe = {
        key: _MASK if _SECRET.search(key) and key != "passfile" else str(value)
        for key, value in params.items()
    }
    return make_conninfo("", **safe) or "(libpq's defaults)"


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _MASK if _SECRET.search(k) else _masked(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return value
