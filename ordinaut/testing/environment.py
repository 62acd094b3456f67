"""What the environment says about a test run."""

from __future__ import annotations

import enum
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ordinaut.errors import ConfigurationError

_NAMES = ("ORDINAUT_ENV", "TASKER_ENV")


def require_test() -> None:
    """Refuse to go on where the environment says that this is no test.

    Raises:
        ConfigurationError: ORDINAUT_ENV or TASKER_ENV is set, and not to `test`.
    """
    for name in _NAMES:
        if (found := os.environ.get(name, "test")) != "test":
            raise ConfigurationError(
                f"{name}={found}: the test kit moves state as no worker would",
                f"Set {name}=test, or leave it out.",
            )


@contextmanager
def as_test() -> Iterator[None]:
    """Have the code under test see ORDINAUT_ENV=test, and log as ORDINAUT_LOG_LEVEL says."""
    require_test()
    before = {name: os.environ.get(name) for name in _NAMES}
    os.environ |= dict.fromkeys(_NAMES, "test")
    logger = logging.getLogger("ordinaut")
    level = logger.level
    if wanted := os.environ.get("ORDINAUT_LOG_LEVEL"):
        logger.setLevel(wanted.upper())
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class BuildMode(enum.Enum):
    """How much of a production set-up a suite starts."""

    FAST = "fast"  # what is installed here, in as few processes as can be
    CI = "ci"  # the same, and patient: a busy machine
    PRODUCTION = "production"  # more workers, PostgreSQL with fsync

    @classmethod
    def from_env(cls) -> BuildMode:
        """Read TEST_BUILD_MODE: ci, prod or production; anything else is FAST."""
        wanted = os.environ.get("TEST_BUILD_MODE", "").lower()
        return {"ci": cls.CI, "prod": cls.PRODUCTION, "production": cls.PRODUCTION}.get(
            wanted, cls.FAST
        )
